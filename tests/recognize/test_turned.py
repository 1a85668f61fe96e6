"""`turned`: a thing is compared as if each example had been turned on its table."""

import numpy as np
import pytest
import torch

from pauca import events
from pauca.fewshot.types import PADDING
from pauca.recognize import EventClassifier, NearestTurned, TurnedPixels
from pauca.recognize.turned import flat, turned

from .scenes import recording, recordings

COPIES = 48


def _middle(image: torch.Tensor) -> tuple[float, float]:
    rows, columns = np.indices(image.shape)
    pixels = image.numpy()
    return float((pixels * columns).sum() / pixels.sum()), float((pixels * rows).sum() / pixels.sum())


def test_a_thing_on_the_table_goes_around_in_an_ellipse():
    image = torch.zeros(1, 1, 41, 41)
    image[..., 19:22, 29:32] = 1  # ten pixels to the right of the middle
    turns = TurnedPixels(1, 41).turns
    places = np.array([_middle(turned(image, turn)[0, 0]) for turn in turns]) - 20
    assert len(places) == COPIES
    np.testing.assert_allclose((places[:, 0] / 10) ** 2 + (places[:, 1] / 7) ** 2, 1, atol=0.05)
    assert np.ptp(places, axis=0) == pytest.approx((20, 14), abs=0.3)


def test_the_copies_are_all_turns_and_their_mirror_images():
    image = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).repeat_interleave(4, 2)
    image = image.repeat_interleave(4, 3)
    turns = TurnedPixels(1, 32).turns
    for place, expected in ((0, image), (12, image.flip(2, 3)), (24, image.flip(3)), (36, image.flip(2))):
        torch.testing.assert_close(turned(image, turns[place]), expected, atol=1e-4, rtol=0)


def test_features_are_those_of_each_copy_and_the_picture_itself_comes_first():
    image = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    network = TurnedPixels(1, 32)
    features = network(image).unflatten(1, (COPIES, -1))
    torch.testing.assert_close(features[:, 0], network.pixels(flat(image)))
    around = network(turned(image, network.turns[12]))
    torch.testing.assert_close(around.unflatten(1, (COPIES, -1))[:, 0], features[:, 12], atol=1e-4, rtol=1e-4)


def test_how_often_an_edge_has_fired_hardly_matters():
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 1] = torch.tensor([1.0, 0.8, 0.5, 0.0])
    torch.testing.assert_close(flat(image - 0.5)[0, 0, 1], torch.tensor([0.7, 0.7, 0.5, 0.0]))
    assert flat(torch.zeros(1, 1, 4, 4)).abs().max() == 0


def test_the_nearest_turned_example_of_each_class_decides():
    generator = torch.Generator().manual_seed(0)
    support, query = (torch.randn(2, n, COPIES * 5, generator=generator, dtype=torch.float64) for n in (7, 3))
    labels = torch.tensor([[0, 1, 1, 2, 0, 2, PADDING], [2, 2, PADDING, 1, 0, PADDING, 0]])
    logits = NearestTurned(scale=1.0)(support, labels, query, 4).detach()
    for e in range(2):
        for q in range(3):
            asked = query[e, q, :5]
            for k in range(3):
                copies = support[e, labels[e] == k].reshape(-1, 5)
                best = torch.cosine_similarity(copies, asked[None]).max()
                assert logits[e, q, k] == pytest.approx(float(best))
    assert torch.isneginf(logits[..., 3]).all()


def _upside_down(seen: events.Recording) -> events.Recording:
    stream = seen.events
    width, height = stream.size
    return events.Recording(
        events.Events(stream.t_us, width - 1 - stream.x, height - 1 - stream.y, stream.p, stream.size), None, seen.name
    )


def test_a_thing_is_recognized_from_the_other_side_and_kept_in_a_file(tmp_path):
    """Half a turn of the picture is half a turn on the table."""
    examples, labels = recordings(range(2))
    asked = [_upside_down(recording(label, 2)) for label in range(4)]
    shares = [EventClassifier(model).fit(examples, labels).score(asked, labels[::2]) for model in ("pixels", "turned")]
    assert shares[1] > shares[0]
    assert shares[1] >= 0.75
    classifier = EventClassifier("turned", reject=0.3).fit(examples, labels)
    classifier.save(tmp_path / "things.safetensors")
    loaded = EventClassifier.load(tmp_path / "things.safetensors")
    np.testing.assert_allclose(loaded.predict_proba(asked), classifier.predict_proba(asked))
    assert loaded.classifier_.threshold_ == pytest.approx(classifier.classifier_.threshold_)
