"""A language model alone, as safetensors."""

import json
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from pauca.errors import InputError
from pauca.moe.models.lm import LMConfig, MoELM
from pauca.runs import from_dict
from pauca.runs.tensors import save_tensors


def save_model(path: str | Path, weights: dict[str, Tensor], config: LMConfig) -> None:
    """Write a language model's weights and configuration as one safetensors file, atomically."""
    own = {name: value for name, value in weights.items() if not (config.tied and name == "head.weight")}
    save_tensors(Path(path), own, {"pauca.moe.lm": json.dumps(asdict(config))})


def load_model(path: str | Path) -> MoELM:
    """The language model that `save_model` or a training wrote.

    Raises:
        InputError: no such file, damaged, or of another origin.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("pauca.moe.lm")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path}: cannot be read as safetensors ({error}); give a model that a training wrote"
        ) from error
    if text is None:
        raise InputError(f"{path}: holds no language model of pauca; give a model that a training wrote")
    config = from_dict(LMConfig, json.loads(text), str(path))
    model = MoELM(config)
    try:
        if config.tied:
            weights["head.weight"] = weights["embedding.weight"]
        model.load_state_dict(weights)
    except (RuntimeError, KeyError) as error:
        raise InputError(
            f"{path}: the weights do not fit the configuration beside them; the file is damaged"
        ) from error
    return model
