import numpy as np

from pauca.events.kernels.blend import add_images, blend_slopes

PAD, BOX = 4, (2, 5, 1, 3)  # columns 2..5 and rows 1..3 of the frame


def _inside():
    box = np.zeros((16, 20), bool)
    box[PAD + 1 : PAD + 4, PAD + 2 : PAD + 6] = True
    return box


def test_images_are_added_inside_the_box_alone():
    images, out = np.random.default_rng(0).normal(size=(3, 16, 20)).astype(np.float32), np.full((16, 20), 7, np.float32)
    add_images(images, BOX, PAD, out)
    np.testing.assert_allclose(out, np.where(_inside(), images.sum(0), 7), rtol=1e-5)


def test_slopes_are_blended_inside_the_box_alone():
    rng = np.random.default_rng(0)
    slopes, common = rng.normal(size=(2, 16, 20)).astype(np.float32), rng.normal(size=(16, 20)).astype(np.float32)
    before = slopes.copy()
    blend_slopes(slopes, common, np.float32(0.25), BOX, PAD)
    np.testing.assert_allclose(slopes, np.where(_inside(), 0.75 * before + 0.25 * common, before), rtol=1e-5)
