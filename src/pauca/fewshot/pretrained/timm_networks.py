"""Backbones `timm:NAME`: any network of timm, pooled as it was trained, with its own preprocessing."""

from difflib import get_close_matches
from typing import Any

from torch import nn

from pauca.errors import InputError
from pauca.fewshot.pretrained.model import Preprocessing
from pauca.fewshot.pretrained.packages import import_timm


def open_network(name: str, pretrained: bool = True) -> tuple[nn.Module, Preprocessing, dict[str, Any]]:
    """The network, what it expects of images, and what `make` needs beside its name.

    Raises:
        InputError: timm knows no such network, or its weights cannot be had.
    """
    network = _create(name, pretrained)
    found = import_timm().data.resolve_model_data_config(network)
    preprocessing = Preprocessing(
        size=found["input_size"][-1],
        mean=tuple(found["mean"]),
        deviation=tuple(found["std"]),
        fitting="squash" if found["crop_mode"] == "squash" else "crop",
        seen_share=float(found["crop_pct"]),
    )
    return network, preprocessing, {}


def make(name: str, settings: dict[str, Any], weights: dict[str, Any]) -> nn.Module:
    """The network of a model's file, without weights."""
    return _create(name, pretrained=False)


def _create(name: str, pretrained: bool) -> nn.Module:
    timm = import_timm()
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:  # timm raises RuntimeError, hubs and sockets what they like
        words = " ".join(str(error).split())[:200]
        if "/" not in name and not timm.is_model(name):
            near = get_close_matches(name.split(".")[0], timm.list_models(), 3)
            hint = f"; near are {', '.join(near)}" if near else ""
            raise InputError(f"timm:{name}: timm {timm.__version__} knows no such network{hint}") from error
        raise InputError(
            f"timm:{name}: its weights cannot be had ({words}); connect to the internet once, or give a local folder "
            "as timm:local-dir:FOLDER"
        ) from error
