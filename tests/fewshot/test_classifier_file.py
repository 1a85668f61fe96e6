"""A fitted classifier in one file and as one ONNX graph: the same answers, and it goes on learning."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pauca.errors import ConfigError, InputError
from pauca.fewshot import FewShotClassifier, LatentConfig, MCRNet, ModelConfig, Preprocessing, Pretrained, open_backbone
from pauca.fewshot.views_at_test import ViewsAtTest


class Tiny(nn.Module):
    mean, std, size = (0.5,) * 3, (0.25,) * 3, 16

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 8, 3, 2)

    def forward(self, images):
        return self.layer(images).relu()


def small_mcrnet(mode="deterministic", **settings):
    torch.manual_seed(0)
    latent = LatentConfig(mode=mode, test_code="sample" if mode == "released" else "mean")
    return MCRNet(ModelConfig(backbone="conv4-32", image_size=16, latent=latent, **settings)).eval()


def small_whitening():
    """A model that centers and whitens its features, by images of noise."""
    model = small_mcrnet("none", center_features=0.5, whiten_features=0.5, base_learner="cosine")
    images = torch.randint(0, 256, (12, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model.learn_center(images, labels=torch.arange(12) % 4)
    return model


@pytest.fixture
def task(toy_images):
    by_class = toy_images.images.unflatten(0, (8, 12))
    return (
        by_class[:4, :5].flatten(0, 1),
        np.array(["ant", "bee", "cow", "doe"]).repeat(5),
        by_class[:4, 5:].flatten(0, 1),
    )


def features_of(images):
    return images.flatten(1).numpy() / 255


@pytest.mark.filterwarnings("ignore::pauca.fewshot.CopiedExamplesWarning")  # learned twice
@pytest.mark.parametrize("model", [small_mcrnet(), Pretrained(Tiny())], ids=["mcrnet", "module"])
@pytest.mark.parametrize("numbers", [False, True])
def test_a_file_gives_the_same_answers_and_goes_on_learning(model, numbers, task, tmp_path):
    examples, names, queries = task
    labels = np.unique(names, return_inverse=True)[1] if numbers else names
    network = model.network if isinstance(model, Pretrained) else None
    views = ViewsAtTest(turns=True)
    first = FewShotClassifier(model, reject=0.1, mirror=True, device="cpu", views=views).fit(examples[5:], labels[5:])
    first.save(tmp_path / "fitted.safetensors")
    again = FewShotClassifier.load(tmp_path / "fitted.safetensors", "cpu", network)
    for _ in range(2):
        one, other = first.answer(queries), again.answer(queries)
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
        assert (first.threshold_, first.temperature_) == (again.threshold_, again.temperature_)
        assert (again.get_params()["reject"], again.get_params()["views"]) == (0.1, views)
        for classifier in (first, again):
            classifier.partial_fit(examples[:5], labels[:5])
    assert len(again.classes_) == 4


def test_features_and_further_images_are_kept(task, tmp_path):
    examples, names, queries = task
    first = FewShotClassifier(backbone="features", base_learner="cosine", reject=0.1, device="cpu")
    first.fit(features_of(examples), names).calibrate(features_of(queries))
    first.save(tmp_path / "fitted.safetensors")
    again = FewShotClassifier.load(tmp_path / "fitted.safetensors", "cpu")
    assert again.threshold_ == first.threshold_
    np.testing.assert_array_equal(again.predict(features_of(queries)), first.predict(features_of(queries)))
    with pytest.raises(InputError, match="exists"):
        again.save(tmp_path / "fitted.safetensors", force=False)


def test_a_file_that_is_none_or_lacks_a_part_says_so(task, tmp_path):
    examples, names, _ = task
    small_mcrnet().save(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="is no fitted classifier"):
        FewShotClassifier.load(tmp_path / "model.safetensors")
    path = tmp_path / "fitted.safetensors"
    FewShotClassifier(backbone=Tiny(), device="cpu").fit(examples, names).save(path)
    with pytest.raises(InputError, match="Tiny, is a module of your own"):
        FewShotClassifier.load(path)
    with pytest.raises(InputError, match="holds a fitted classifier"):
        open_backbone(path)


def test_a_file_of_before_there_were_views_is_read(task, tmp_path, monkeypatch):
    monkeypatch.setattr("pauca.fewshot.estimator._TOLD", ("reject", "mirror"))
    examples, names, queries = task
    first = FewShotClassifier(small_mcrnet(), mirror=True, device="cpu").fit(examples, names)
    first.save(tmp_path / "fitted.safetensors")
    again = FewShotClassifier.load(tmp_path / "fitted.safetensors", "cpu")
    np.testing.assert_array_equal(first.predict_proba(queries), again.predict_proba(queries))


@pytest.mark.parametrize("kind", ["mcrnet", "whitening", "module", "features"])
def test_onnx_gives_the_same_probabilities_and_distances(kind, task, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    examples, names, queries = task
    models = {
        "mcrnet": small_mcrnet(),
        "whitening": small_whitening(),
        "module": Pretrained(Tiny()),
        "features": "features",
    }
    taken = features_of if kind == "features" else lambda images: images.numpy()
    classifier = FewShotClassifier(backbone=models[kind], reject=0.1, mirror=kind == "module", device="cpu")
    if kind != "features":
        classifier.set_params(views=ViewsAtTest(turns=kind in ("mcrnet", "whitening"), crops=kind == "module"))
    classifier.fit(taken(examples), names)
    classifier.export(tmp_path / "fitted.onnx")
    session = runtime.InferenceSession(tmp_path / "fitted.onnx", providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    for count in (1, 3, len(queries)):
        given = taken(queries)[:count]
        expected = classifier.answer(given)
        probabilities, distances = session.run(None, {name: given.astype(np.float64) if kind == "features" else given})
        np.testing.assert_allclose(probabilities, expected.probabilities, atol=2e-5)
        np.testing.assert_allclose(distances, expected.distances, atol=2e-5)
    words = session.get_modelmeta().custom_metadata_map
    assert json.loads(words["pauca.classes"]) == ["ant", "bee", "cow", "doe"]
    assert float(words["pauca.threshold"]) == classifier.threshold_


def test_what_cannot_be_exported_says_why(task, tmp_path):
    pytest.importorskip("onnx")
    examples, names, _ = task
    classifier = FewShotClassifier(small_mcrnet("released"), device="cpu").fit(examples, names)
    with pytest.raises(ConfigError, match="test code sample draws samples"):
        classifier.export(tmp_path / "fitted.onnx")
    assert not list(tmp_path.iterdir())


def test_bytes_paths_pictures_and_tensors_are_the_same_after_loading(task, tmp_path):
    examples, names, queries = task
    path = tmp_path / "fitted.safetensors"
    FewShotClassifier(small_mcrnet(), device="cpu").fit(examples, names).save(path)
    classifier = FewShotClassifier.load(path, "cpu")
    file = tmp_path / "query.png"
    Image.fromarray(queries[0].permute(1, 2, 0).numpy()).save(file)
    expected = classifier.predict_proba(queries[:1])
    for same in ([file], [file.read_bytes()], [Image.open(file)], [queries[0]]):
        np.testing.assert_array_equal(classifier.predict_proba(same), expected)


def test_a_network_that_wants_gray_images_gets_them():
    model = Pretrained(nn.Flatten(), Preprocessing(8, (0.5,), (0.5,)))
    classifier = FewShotClassifier(model, device="cpu").fit(np.eye(2)[:, None, :].repeat(8, 1), ["a", "b"])
    assert classifier.features_.shape == (2, 64)
