"""MCRNet: its loss term by term, its test-time codes, its file."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from pauca.errors import ConfigError, InputError, PaucaError
from pauca.fewshot.backbones import set_training_step
from pauca.fewshot.base_learners import BASE_LEARNERS, LogisticRegression
from pauca.fewshot.latent import LatentConfig
from pauca.fewshot.model import MCRNet, ModelConfig, episode_cross_entropy, read_description
from pauca.fewshot.pretrained.model import with_base_learner
from pauca.fewshot.types import TrainingData
from pauca.fewshot.views_at_test import ViewsAtTest
from pauca.fewshot.windows import show, windows_at_test
from pauca.runs.config import from_dict, to_dict

MIRROR = ViewsAtTest(mirror=True)
MODES = ["none", "deterministic", "released", "variational"]


def small(mode="variational", base_learner="ridge", backbone="conv4-32", **latent) -> MCRNet:
    torch.manual_seed(0)
    return MCRNet(
        ModelConfig(
            backbone=backbone, base_learner=base_learner, image_size=16, latent=LatentConfig(mode=mode, **latent)
        )
    )


def one_episode(seed=0):
    """Images of one 2-way 2-shot episode with 3 queries a class, and its labels."""
    torch.manual_seed(seed)
    return torch.rand(10, 3, 16, 16), torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 0, 0, 1, 1, 1]])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("base_learner", BASE_LEARNERS)
def test_every_mode_trains_through_every_base_learner(mode, base_learner):
    model = small(mode, base_learner)
    images, support_labels, query_labels = one_episode()
    losses = model.losses(model.encode(images), support_labels, query_labels, way=2)
    losses.total.backward()
    assert all(
        torch.isfinite(p.grad).all() and p.grad.any() for n, p in model.backbone.named_parameters() if "weight" in n
    )
    if model.stem is not None:
        assert model.stem.encoder.weight.grad.any()


def test_total_is_cross_entropy_plus_weighted_terms_under_warm_up():
    model = small(kl_weight=0.5, reconstruction_weight=0.25, warm_up_steps=100)
    images, support_labels, query_labels = one_episode()
    encoding = model.encode(images)
    for step, warm_up in ((0, 0.0), (40, 0.4), (400, 1.0)):
        set_training_step(model, step)
        losses = model.losses(encoding, support_labels, query_labels, way=2)
        expected = losses.cross_entropy + warm_up * (0.5 * losses.kl + 0.25 * losses.reconstruction)
        torch.testing.assert_close(losses.total, expected)
    assert losses.kl > 0
    assert losses.reconstruction > 0


@pytest.mark.parametrize("mode", ["none", "deterministic", "released"])
def test_only_the_variational_mode_adds_to_the_loss(mode):
    model = small(mode, kl_weight=1.0, reconstruction_weight=1.0)
    images, support_labels, query_labels = one_episode()
    losses = model.losses(model.encode(images), support_labels, query_labels, way=2)
    assert torch.equal(losses.total, losses.cross_entropy)


def test_cross_entropy_is_torchs_and_smoothing_spreads_over_the_classes():
    logits, labels = torch.randn(3, 6, 4), torch.randint(0, 4, (3, 6))
    for smoothing in (0.0, 0.1):
        expected = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=smoothing)
        torch.testing.assert_close(episode_cross_entropy(logits, labels, smoothing), expected)


def test_padded_queries_and_absent_classes_count_for_nothing():
    logits = torch.randn(2, 3, 4)
    logits[1, :, 3] = -torch.inf  # the second episode has three classes
    labels = torch.tensor([[0, 1, 3], [2, -1, -1]])
    expected = -(logits[0].log_softmax(-1)[[0, 1, 2], [0, 1, 3]].sum() + logits[1, 0, :3].log_softmax(-1)[2]) / 4
    logits.requires_grad_()
    loss = episode_cross_entropy(logits, labels, 0.0)
    torch.testing.assert_close(loss, expected)
    episode_cross_entropy(logits, labels, 0.1).backward()
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[1, 1:].any()


def test_bytes_and_numbers_from_0_to_1_are_the_same_image():
    model = small().eval()
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    torch.testing.assert_close(model.embed(images), model.embed(images / 255))


def test_mean_code_is_deterministic_and_samples_follow_their_generator():
    images = torch.rand(2, 3, 16, 16)
    mean = small(test_code="mean", log_sigma_start=0.0).eval()
    assert torch.equal(mean.embed(images), mean.embed(images))
    sampled = small(test_code="sample", log_sigma_start=0.0).eval()
    first, second, other = (sampled.embed(images, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("mode", ["none", "deterministic"])
def test_mirror_averages_the_features_of_an_image_and_its_mirror_image(mode):
    model = small(mode=mode).eval()
    images = torch.rand(2, 3, 16, 16)
    expected = (model.embed(images) + model.embed(images.flip(3))) / 2
    torch.testing.assert_close(model.embed(images, views=MIRROR), expected)
    torch.testing.assert_close(model.embed(images, mirror=True), expected)  # its name in 0.1
    assert not torch.allclose(model.embed(images), expected)


def test_mc_averages_the_features_of_its_samples():
    images = torch.rand(2, 3, 16, 16)
    several = small(test_code="mc:3", log_sigma_start=0.0).eval()
    single = small(test_code="sample", log_sigma_start=0.0).eval()
    together = several.embed(images, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    one_by_one = torch.stack([single.embed(images, generator) for _ in range(3)]).mean(0)
    torch.testing.assert_close(together, one_by_one)


@pytest.mark.parametrize("mode", MODES)
def test_a_saved_model_is_the_same_model(mode, tmp_path):
    model = small(mode, reconstruction_weight=0.1)
    model.mean.fill_(0.3)
    model.train().encode(torch.rand(8, 3, 16, 16))  # running statistics that are not the initial ones
    model.eval().save(tmp_path / "model.safetensors")
    loaded = MCRNet.load(str(tmp_path / "model.safetensors"))  # a path may be a string
    images = torch.rand(2, 3, 16, 16)
    assert loaded.config == model.config
    assert torch.equal(loaded.embed(images), model.embed(images))


def test_parts_can_be_objects():
    class Flatten(nn.Module):
        def forward(self, maps):
            return maps.flatten(1)

    model = MCRNet(
        ModelConfig(latent=LatentConfig(mode="none")), backbone=Flatten(), base_learner=BASE_LEARNERS["cosine"]()
    )
    assert model.embed(torch.rand(2, 3, 32, 32)).shape == (2, 3072)


def test_files_that_hold_no_model_are_refused(tmp_path):
    text = tmp_path / "notes.safetensors"
    text.write_text("not a model")
    with pytest.raises(InputError, match=r"notes\.safetensors: is not a readable safetensors file"):
        MCRNet.load(text)
    with pytest.raises(InputError, match="is not a readable safetensors file"):
        MCRNet.load(tmp_path / "absent.safetensors")
    small().save(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="do not fit the model"):
        MCRNet.load(tmp_path / "model.safetensors", backbone=nn.Flatten())


def test_image_channels_are_1_or_3():
    with pytest.raises(ConfigError, match="4 image channels; use 3 for color or 1"):
        MCRNet(ModelConfig(channels=4))


def test_an_empty_sequence_is_a_backbone():
    """It is false as a condition; a ResNet-12 was built in its place."""
    config = ModelConfig(image_size=16, latent=LatentConfig(mode="none"))
    backbone = nn.Sequential()
    assert MCRNet(config, backbone=backbone).backbone is backbone


@pytest.mark.parametrize("center", [0.5, 1.0])
def test_centered_features_have_length_one_and_less_of_the_mean_over_the_base_classes(toy_images, center):
    torch.manual_seed(0)
    config = ModelConfig(backbone="conv4-32", image_size=16, latent=LatentConfig(mode="none"), center_features=center)
    model = MCRNet(config).eval()
    model.learn_center(toy_images.images)
    plain = MCRNet(replace(config, center_features=0.0)).eval()
    plain.load_state_dict({name: v for name, v in model.state_dict().items() if name != "feature_mean"})
    with torch.no_grad():
        raw = plain.embed(toy_images.images, views=MIRROR)
        found = model.embed(toy_images.images, views=MIRROR)
        unit = nn.functional.normalize(raw, dim=1)
        expected = nn.functional.normalize(unit - center * unit.mean(0), dim=1)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        cropped = model.embed(toy_images.images, views=ViewsAtTest(mirror=True, crops=True))
    torch.testing.assert_close(cropped.norm(dim=1), torch.ones(len(cropped)))
    assert not torch.allclose(cropped, found, atol=1e-2)


def test_the_third_of_embed_is_mirror_as_in_0_1(toy_images):
    model = MCRNet(ModelConfig(backbone="conv4-32", image_size=16, latent=LatentConfig(mode="none"))).eval()
    with torch.no_grad():
        assert torch.equal(
            model.embed(toy_images.images[:4], None, True), model.embed(toy_images.images[:4], views=MIRROR)
        )


def test_the_mean_of_the_crops_is_averaged_with_the_whole_image(toy_images):
    model = MCRNet(ModelConfig(backbone="conv4-32", image_size=16, latent=LatentConfig(mode="none"))).eval()
    pixels = toy_images.images[:4] / 255
    windows = windows_at_test(16, 4, torch.device("cpu"))
    with torch.no_grad():
        crops = torch.stack([model.embed(show(pixels, window)) for window in windows]).mean(0)
        expected = (model.embed(pixels) + crops) / 2
        torch.testing.assert_close(model.embed(toy_images.images[:4], views=ViewsAtTest(crops=True)), expected)


@pytest.mark.parametrize("center", [0.0, 1.0])
def test_turns_stand_side_by_side_each_about_its_own_mean(toy_images, center):
    torch.manual_seed(0)
    config = ModelConfig(backbone="conv4-32", image_size=16, latent=LatentConfig(mode="none"), center_features=center)
    model = MCRNet(config).eval()
    model.learn_center(toy_images.images)
    with torch.no_grad():
        found = model.embed(toy_images.images, views=ViewsAtTest(mirror=True, turns=True)).unflatten(1, (4, -1))
        for turn in range(4):
            alone = model.embed(torch.rot90(toy_images.images, turn, (2, 3)), views=MIRROR)
            if turn == 0 or not center:
                torch.testing.assert_close(2 * found[:, turn], alone)
            else:  # an upright image would be centered by another mean
                assert not torch.allclose(2 * found[:, turn], alone, atol=1e-2)
    if center:
        torch.testing.assert_close(found.flatten(1).norm(dim=1), torch.ones(len(found)))
        assert found.mean(0).norm(dim=1).max() < 0.1


def test_a_model_remembers_its_training_data(toy_images, tmp_path):
    model = small()
    model.trained_on = TrainingData.of(toy_images)
    model.save(tmp_path / "model.safetensors")
    remembered = MCRNet.load(tmp_path / "model.safetensors").trained_on
    assert remembered == TrainingData.of(toy_images)
    assert remembered.classes_in(toy_images.only(["class-2", "class-5"])) == ("class-2", "class-5")
    renamed = replace(toy_images, class_names=tuple(f"other-{i}" for i in range(8)))
    assert remembered.classes_in(renamed) == ()
    numbered = replace(toy_images, class_names=tuple(map(str, range(8))))
    assert TrainingData.of(numbered).classes_in(numbered.only(["1", "2"])) == ()  # numbers say nothing
    assert TrainingData.of(numbered).classes_in(numbered) == numbered.class_names  # but the very same images do


@pytest.mark.parametrize(
    "description",
    ['{"backbone": "conv4-32", "latent": {"log_sigma_range": [-6.0, 1.0]}, "warp": 9}', "{not json", "[]", "{}"],
)
def test_a_newer_or_damaged_file_is_one_line(description, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={"pauca.fewshot": description})
    with pytest.raises(
        InputError, match=r"model\.safetensors: its description cannot be read .*a newer pauca wrote it"
    ):
        MCRNet.load(path)


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    small().save(path)
    before = path.read_bytes()

    def refuse(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("pauca.runs.tensors.save_file", refuse)
    with pytest.raises(PaucaError, match=r"model\.safetensors: could not be written .*No space left on device"):
        small().save(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(("center", "penalty"), [(0.5, 0.1), (0.0, 1.0)])
def test_another_base_learner_is_set_for_the_length_of_the_features(center, penalty):
    config = ModelConfig(backbone="conv4-32", latent=LatentConfig(mode="none"), center_features=center)
    learner = with_base_learner(MCRNet(config), "logistic").base_learner
    assert isinstance(learner, LogisticRegression)
    assert learner.penalty == penalty


@pytest.mark.parametrize("center", [0.0, 0.5])
def test_whitened_features_stand_beside_the_others_with_their_share_of_the_length(toy_images, center):
    torch.manual_seed(0)
    latent = LatentConfig(mode="none")
    config = ModelConfig("conv4-32", image_size=16, latent=latent, center_features=center, whiten_features=0.3)
    model = MCRNet(config).eval()
    with pytest.raises(ConfigError, match="whiten_features needs the labels"):
        model.learn_center(toy_images.images)
    model.learn_center(toy_images.images, labels=toy_images.labels)
    with torch.no_grad():
        found = model.embed(toy_images.images, views=MIRROR)
        turned = model.embed(toy_images.images, views=ViewsAtTest(mirror=True, crops=True, turns=True))
    torch.testing.assert_close(turned.norm(dim=1), torch.ones(len(turned)))
    plain, whitened = found.chunk(2, 1)
    torch.testing.assert_close(plain.norm(dim=1).square(), torch.full((len(found),), 0.7))
    torch.testing.assert_close(whitened, 0.3**0.5 * nn.functional.normalize(plain @ model.whitening, dim=1))


def test_a_model_that_whitens_is_the_same_from_its_file(toy_images, tmp_path):
    config = ModelConfig("conv4-32", image_size=16, latent=LatentConfig(mode="none"), whiten_features=0.5)
    model = MCRNet(config).eval()
    model.learn_center(toy_images.images, labels=toy_images.labels)
    model.save(tmp_path / "model.safetensors")
    with torch.no_grad():
        found = MCRNet.load(tmp_path / "model.safetensors").embed(toy_images.images[:4])
        assert torch.equal(found, model.embed(toy_images.images[:4]))


@pytest.mark.parametrize("numbers", [torch.bfloat16, torch.float64])
def test_a_model_that_whitens_may_have_other_numbers(toy_images, numbers):
    config = ModelConfig("conv4-32", image_size=16, latent=LatentConfig(mode="none"), whiten_features=0.5)
    model = MCRNet(config).eval()
    model.learn_center(toy_images.images, labels=toy_images.labels)
    images = toy_images.images[:4] / 255
    with torch.no_grad():
        expected = model.embed(images)
        found = model.to(numbers).embed(images.to(numbers))
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.02)


def test_features_that_would_take_hours_to_whiten_are_refused():
    config = ModelConfig("resnet12", image_size=84, latent=LatentConfig(mode="none"), center_features=0.5)
    MCRNet(config)
    with pytest.raises(ConfigError, match=r"resnet12 makes 16,000 features of images of 84 pixels.* whiten_features 0"):
        MCRNet(replace(config, whiten_features=0.5))


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_of_whitened_features_lies_between_none_and_all(share):
    with pytest.raises(ConfigError, match="whiten_features"):
        MCRNet(ModelConfig(backbone="conv4-32", latent=LatentConfig(mode="none"), whiten_features=share))


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_of_the_mean_lies_between_none_and_all(share):
    with pytest.raises(ConfigError, match="center_features"):
        MCRNet(ModelConfig(backbone="conv4-32", latent=LatentConfig(mode="none"), center_features=share))


def test_the_share_of_the_mean_was_all_or_nothing_in_earlier_files():
    assert from_dict(ModelConfig, {"center_features": True}) == ModelConfig(center_features=1.0)
    description = json.dumps(to_dict(ModelConfig()) | {"center_features": True})
    assert read_description(description)[0] == ModelConfig(center_features=1.0)
