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
        # In float32 whatever the checkpoint has: images are.
        model = models.from_pretrained(name, dtype=torch.float32) if pretrained else models.from_config(config)
    except (OSError, ValueError, KeyError, ImportError) as error:
        words = " ".join(str(error).split())[:200]
        raise InputError(f"hf:{name}: cannot be opened ({words}); give a vision model's name or folder") from error
    try:
        processor, _ = processors.get_image_processor_dict(name)
    except (OSError, ValueError):
        processor = {}
    settings = {"config": json.loads(config.to_json_string(use_diff=False))}
    return VisionNetwork(model), read_processor(processor), settings


def make(name: str, settings: dict[str, Any], weights: dict[str, Any]) -> nn.Module:
    """The network of a model's file, without weights."""
    transformers = need("transformers", "hf", "a backbone hf:NAME")
    values = dict(settings["config"])
    config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
    return VisionNetwork(transformers.AutoModel.from_config(config))


def read_processor(values: dict[str, Any]) -> Preprocessing | None:
    """From what stands in a preprocessor_config.json; None if it does not hold a size."""
    size, crop = values.get("size"), values.get("crop_size") if values.get("do_center_crop") else None
    if isinstance(size, dict):
        fitted, squash = size.get("shortest_edge") or size.get("height"), "height" in size
    else:
        fitted, squash = size, False
    seen = crop.get("height") if isinstance(crop, dict) else crop
    side = seen or fitted
    if side is None:
        return None
    normalized = values.get("do_normalize", True)
    mean, deviation = values.get("image_mean") or [0.5] * 3, values.get("image_std") or [0.5] * 3
    # ConvNeXt: below 384 px the side is cut to crop_pct of what it is scaled to.
    share = side / fitted if seen and fitted else float(values.get("crop_pct") or 1.0)
    return Preprocessing(
        size=int(side),
        mean=tuple(mean) if normalized else (0.0,) * 3,
        deviation=tuple(deviation) if normalized else (1.0,) * 3,
        fitting="squash" if squash and crop is None else "crop",
        seen_share=min(share, 1.0),
    )


def read_processor_file(folder: Path) -> Preprocessing | None:
    """From the preprocessor_config.json of a folder, if it has one.

    Raises:
        InputError: it is no JSON.
    """
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return None
    try:
        return read_processor(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise InputError(f"{path}: is no readable JSON ({error}); fetch it again") from error
