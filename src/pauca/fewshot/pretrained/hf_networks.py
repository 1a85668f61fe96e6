"""Backbones `hf:NAME_OR_FOLDER`: vision models of transformers (DINOv2, CLIP, SigLIP, ViT, ConvNeXt, ...)."""

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pauca.errors import InputError
from pauca.fewshot.pretrained.model import Preprocessing
from pauca.fewshot.pretrained.packages import need

_PROCESSOR = "preprocessor_config.json"
_READ = (
    *("size", "crop_size", "crop_pct", "do_center_crop", "do_normalize", "image_mean", "image_std"),
    *("do_rescale", "rescale_factor", "rescale_offset", "include_top", "do_flip_channel_order", "default_to_square"),
)


class VisionNetwork(nn.Module):
    """One vector an image from a vision model of transformers.

    Models of images and text give the embedding that their text is compared with; transformers with a class token give
    that, others the mean of their tokens; networks of convolutions their pooled maps.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Float[Tensor, "b c h w"]) -> Tensor:
        model: Any = self.model
        if hasattr(model, "get_image_features"):
            found = model.get_image_features(pixel_values=images)
            return found if isinstance(found, Tensor) else found.pooler_output
        output = model(pixel_values=images)
        hidden = output.last_hidden_state
        if hidden.ndim == 3:
            return hidden[:, 0] if _has_class_token(model) else hidden.mean(1)
        pooled = getattr(output, "pooler_output", None)
        return hidden if pooled is None else pooled.flatten(1)


def _has_class_token(model: Any) -> bool:
    return any(name.rsplit(".", 1)[-1] in ("cls_token", "class_embedding") for name, _ in model.named_parameters())


def open_network(name: str, pretrained: bool = True) -> tuple[nn.Module, Preprocessing | None, dict[str, Any]]:
    """The network, what it expects of images (None where its folder does not say), and its config.

    Raises:
        InputError: there is no such model, or it is none of images.
    """
    transformers = need("transformers", "hf", "a backbone hf:NAME")
    models, processors = transformers.AutoModel, transformers.image_processing_base.ImageProcessingMixin
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        if hasattr(config, "mask_ratio"):  # a masked autoencoder hides three quarters of an image, other ones each time
            config.mask_ratio = 0.0
        # In float32 whatever the checkpoint has: images are.
        if pretrained:
            model = models.from_pretrained(name, config=config, dtype=torch.float32)
        else:
            model = models.from_config(config, dtype=torch.float32)
    except (OSError, ValueError, KeyError, ImportError) as error:
        words = " ".join(str(error).split())[:200]
        raise InputError(f"hf:{name}: cannot be opened ({words}); give a vision model's name or folder") from error
    try:
        processor, _ = processors.get_image_processor_dict(name)
    except (OSError, ValueError):
        processor = read_json(Path(name) / _PROCESSOR)
    settings = {"config": json.loads(config.to_json_string(use_diff=False))}
    return VisionNetwork(model), read_processor(_of_its_kind(processor, transformers) | processor), settings


def make(name: str, settings: dict[str, Any], weights: dict[str, Any]) -> nn.Module:
    """The network of a model's file, without weights."""
    transformers = need("transformers", "hf", "a backbone hf:NAME")
    values = dict(settings["config"])
    config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
    return VisionNetwork(transformers.AutoModel.from_config(config, dtype=torch.float32))


def _of_its_kind(processor: dict[str, Any], transformers: Any) -> dict[str, Any]:
    """What the kind of processor that a preprocessor_config.json names does where the file is silent."""
    known = getattr(
        transformers, _kind(processor).replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast"), None
    )
    try:
        return {name: getattr(known, name) for name in _READ if hasattr(known, name)}
    except ImportError:  # kinds that need torchvision, as that of DINOv3, raise it without one
        return {}


def _kind(processor: dict[str, Any]) -> str:
    return str(processor.get("image_processor_type") or processor.get("feature_extractor_type") or "")


def read_processor(values: dict[str, Any]) -> Preprocessing | None:
    """From what stands in a preprocessor_config.json; None if it does not hold a size, or what to normalize by.

    Raises:
        InputError: it asks for images that are not square.
    """
    size, crop = values.get("size"), values.get("crop_size") if values.get("do_center_crop") else None
    if isinstance(size, dict):
        fitted, squash = size.get("shortest_edge") or _side(size), not size.get("shortest_edge")
    else:  # which of the two a number means, its kind says
        fitted, squash = size, size is not None and bool(values.get("default_to_square"))
    seen = _side(crop) if isinstance(crop, dict) else crop
    crop_pct, kind = values.get("crop_pct"), _kind(values)
    if kind.startswith("Levit"):  # scales to 256 where the file says 224, whatever is cut out then
        crop_pct = crop_pct or 224 / 256
    elif kind.startswith("Perceiver") and seen:  # cuts the center out first, and scales that
        seen, fitted, squash = fitted, seen, False
    side = seen or fitted
    if side is None:
        return None
    share = 1.0
    if seen and fitted:
        share = seen / fitted * (crop_pct or 1.0)
    elif crop_pct and not squash:  # ConvNeXt: from 384 px on nothing is cut
        squash, share = side >= 384, 1.0 if side >= 384 else float(crop_pct)
    mean, deviation = _numbers(values, "image_mean", 0.0), _numbers(values, "image_std", 1.0)
    if mean is None or deviation is None:
        return None
    # The values that mean and deviation are of may run from 0 to 255, or from -1 to 1.
    scale = round(255 * float(values.get("rescale_factor") or 1 / 255), 9) if values.get("do_rescale", True) else 255.0
    begin = 1.0 if values.get("rescale_offset") else 0.0
    again = deviation if values.get("include_top") else (1.0,) * len(deviation)  # EfficientNet divides twice
    return Preprocessing(
        size=int(side),
        mean=tuple((m + begin) / scale for m in mean),
        deviation=tuple(d * a / scale for d, a in zip(deviation, again, strict=False)),
        fitting="squash" if squash else "crop",
        seen_share=min(share, 1.0),
        blue_first=bool(values.get("do_flip_channel_order")),
    )


def _side(size: dict[str, Any]) -> int | None:
    """Of a square, in pixels."""
    height = size.get("height")
    width = size.get("width", height)
    if height != width:
        raise InputError(
            f"{_PROCESSOR}: asks for images of {height} x {width} pixels, and only square ones are made; if the "
            "network takes them, give preprocessing=Preprocessing(size, mean, deviation) to open_backbone in Python"
        )
    return height


def _numbers(values: dict[str, Any], name: str, without: float) -> tuple[float, ...] | None:
    """What each channel is normalized by, one number meaning all three; None if that is not said."""
    found = values.get(name)
    if not values.get("do_normalize", True):
        return (without,) * 3
    return None if found is None else (float(found),) * 3 if isinstance(found, int | float) else tuple(found)


def read_json(path: Path) -> dict[str, Any]:
    """What stands in a file; nothing if there is none.

    Raises:
        InputError: it is no JSON.
    """
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: is no readable JSON ({error}); fetch it again") from error


def read_processor_file(folder: Path) -> Preprocessing | None:
    """From the preprocessor_config.json of a folder, if it has one.

    Raises:
        InputError: it is no JSON.
    """
    return read_processor(read_json(folder / _PROCESSOR))
