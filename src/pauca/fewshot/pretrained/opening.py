"""What a user may call a backbone, opened: a name with its kind, a file, a module, a model."""

import importlib
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from pauca.errors import ConfigError, InputError
from pauca.fewshot.model import MCRNet, read_safetensors
from pauca.fewshot.network import FewShotModel
from pauca.fewshot.pretrained.model import (
    DEFAULT_BASE_LEARNER,
    DESCRIPTION,
    Features,
    Preprocessing,
    Pretrained,
    Source,
    with_base_learner,
    with_scale_of_now,
)
from pauca.fewshot.random_state import own_random_state

FORMS = "timm:NAME, hf:NAME_OR_FOLDER, onnx:FILE, efficientnet-lite0, features, or a model's .safetensors file"
Opened = tuple[nn.Module, Preprocessing | None, dict[str, Any]]


def open_backbone(
    backbone: FewShotModel | nn.Module | str | Path,
    base_learner: str | nn.Module | None = None,
    preprocessing: Preprocessing | None = None,
    pretrained: bool = True,
) -> FewShotModel:
    """Make a few-shot model of whatever network a user has.

    Args:
        backbone: `timm:NAME`, `hf:NAME_OR_FOLDER` (a vision model of transformers), `onnx:FILE`, `efficientnet-lite0`
            (small, its weights are a package), `features` (no network: features come in place of images), the
            safetensors file of a saved model, a module with `mean`, `std` and `size`, which is put into evaluation
            mode, or a model.
        base_learner: classifier in place of the model's own; `ridge` for a network from elsewhere if not given.
        preprocessing: in place of what comes with the network.
        pretrained: with weights; without, timm's and transformers' networks are random, by torch's global state.

    Raises:
        ConfigError: no such form of backbone, or preprocessing is not known.
        InputError: the network cannot be found or read.
        DeviceError: the package that it needs is missing.
    """
    if isinstance(backbone, FewShotModel):
        return backbone if base_learner is None else with_base_learner(backbone, base_learner)
    learner = base_learner or DEFAULT_BASE_LEARNER
    if isinstance(backbone, nn.Module):
        return Pretrained(backbone, preprocessing, None, learner)
    text = str(backbone)
    if text.endswith(".npy"):
        raise ConfigError(
            f"backbone {text!r} is a file of features: in Python, name the backbone `features` and give the file for "
            "images; on the command line, eval and compare take it"
        )
    if text == "features":
        return Features(learner)
    kind, _, name = text.partition(":")
    if kind in _OPENERS and (name or kind == "efficientnet-lite0"):
        with own_random_state() if pretrained else nullcontext():
            network, found, settings = _opener(kind)(name, pretrained)
        if (expected := preprocessing or found) is None:
            raise ConfigError(
                f"{text}: does not say how its images are to be prepared; put the preprocessor_config.json of its "
                "origin beside it or, in Python, give preprocessing=Preprocessing(size, mean, deviation) to "
                "open_backbone"
            )
        return Pretrained(network, expected, Source(kind, name or kind, settings), learner)  # type: ignore[arg-type]
    if not Path(text).is_file():
        raise ConfigError(f"backbone {text!r} is neither a file nor of a known form; give {FORMS}{_meant(Path(text))}")
    return open_model(text, base_learner)


def _meant(folder: Path) -> str:
    """What the folder of a run, or of transformers, may stand for, in words."""
    best = folder / "checkpoints" / "best.safetensors"
    if best.is_file():
        return f"; did you mean {best}?"
    return f"; did you mean hf:{folder}?" if (folder / "config.json").is_file() else ""


@own_random_state()
def open_model(
    path: str | Path, base_learner: str | nn.Module | None = None, network: nn.Module | None = None
) -> FewShotModel:
    """A saved model, of whichever class: what `MCRNet.save` or `Pretrained.save` wrote.

    Args:
        path: its safetensors file.
        base_learner: in place of its own.
        network: the module, where the model was made of a module of one's own, whose code no file holds.
    """
    weights, metadata = read_safetensors(path)
    if "pauca.fewshot.classifier" in metadata:
        raise InputError(
            f"{path}: holds a fitted classifier, which knows its own classes alone; name the network that it was "
            "fitted with, or ask the classifier by `pauca fewshot predict` or, in Python, FewShotClassifier.load"
        )
    if DESCRIPTION not in metadata:
        model: FewShotModel = MCRNet.load(path)
        return model if base_learner is None else with_base_learner(model, base_learner)
    return rebuild(json.loads(metadata[DESCRIPTION]), weights, str(path), base_learner, network)


def rebuild(
    description: dict[str, Any],
    weights: dict[str, Any],
    path: str,
    base_learner: str | nn.Module | None = None,
    network: nn.Module | None = None,
) -> Pretrained:
    """A `Pretrained` from its description and weights.

    Raises:
        InputError: of a newer version, damaged, or of a module that is not given.
    """
    if description.get("version") != 1:
        raise InputError(f"{path}: of version {description.get('version')}, this pauca reads 1; update pauca")
    source = Source(**description["source"])
    values = description["preprocessing"]
    preprocessing = Preprocessing(**values | {"mean": tuple(values["mean"]), "deviation": tuple(values["deviation"])})
    if network is None:
        if source.kind == "module":
            raise InputError(
                f"{path}: its network, {source.name}, is a module of your own, whose code the file does not hold; make "
                "the module and hand it over again"
            )
        made: nn.Module = importlib.import_module(_OPENERS[source.kind]).make(source.name, source.settings, weights)
    else:
        made = network
    model = Pretrained(made, preprocessing, source, base_learner or description["base_learner"])
    own = {name: value for name, value in weights.items() if base_learner is None or "base_learner" not in name}
    own = with_scale_of_now(own, description["base_learner"])
    try:
        missing, unexpected = model.load_state_dict(own, strict=False)
    except RuntimeError as error:
        raise InputError(f"{path}: its weights do not fit the model ({' '.join(str(error).split())[:300]})") from error
    if unexpected or [name for name in missing if "base_learner" not in name]:
        raise InputError(f"{path}: its weights do not fit the model: {(missing + unexpected)[0]}")
    return model.eval()


# The modules import their package when they are asked for it; none is needed to import pauca.fewshot.
_OPENERS = {
    "timm": "pauca.fewshot.pretrained.timm_networks",
    "hf": "pauca.fewshot.pretrained.hf_networks",
    "onnx": "pauca.fewshot.pretrained.onnx_networks",
    "efficientnet-lite0": "pauca.fewshot.pretrained.lite_networks",
}


def _opener(kind: str) -> Callable[[str, bool], Opened]:
    return importlib.import_module(_OPENERS[kind]).open_network
