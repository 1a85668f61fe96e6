"""The shape of a model by its name, or from the config file of a Hugging Face model or of a training."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from pauca.errors import ConfigError, InputError
from pauca.moe.models.lm import LM_SIZES, LMConfig
from pauca.moe.models.shapes import ModelShape
from pauca.moe.plan.families import FAMILIES, family_of, sizes
from pauca.moe.plan.published import ALIASES, SHAPES
from pauca.runs import from_dict, from_yaml


def model_shape(model: str, like: str | None = None) -> ModelShape:
    """The shape of a model, by its name or from a file.

    Args:
        model: a name of `SHAPES`, `ALIASES` or `LM_SIZES`, in upper or lower case; or the path of a Hugging Face
            config.json, of the config.yaml of a `pauca moe train` run, or of the folder that holds one of them; or of a
            YAML file with the fields of a `ModelShape`.
        like: a `model_type` of Hugging Face that is known, as which a config.json of an unknown one is read.

    Raises:
        InputError: there is neither such a name nor such a file, or the file is of no known kind.
    """
    name = ALIASES.get(model.lower(), model.lower())
    path = Path(model)
    if path.is_dir():
        found = [path / file for file in ("config.yaml", "config.json") if (path / file).exists()]
        if not found:
            raise InputError(f"{path}: holds neither a config.yaml nor a config.json; give the folder of a model")
        path = found[0]
    is_yaml = path.suffix in (".yaml", ".yml")
    if like is not None and (is_yaml or name in SHAPES or name in LM_SIZES):
        raise InputError(f"--like {like}: says how to read a config.json, and {model} is none; leave it out")
    if name in SHAPES:
        return SHAPES[name]
    if name in LM_SIZES:
        return replace(LM_SIZES[name].shape, name=name)
    if is_yaml:
        return from_run_config(path)
    if path.suffix == ".json" or path.exists():
        return from_config_json(path, like)
    names = sorted([*SHAPES, *ALIASES, *LM_SIZES])
    near = get_close_matches(name, names, n=1)
    raise InputError(
        f"unknown model {model!r}{f' (did you mean {near[0]}?)' if near else ''}: neither a file nor one of "
        f"{', '.join(names)}; for another model give its config.json (Hugging Face), its config.yaml "
        "(`pauca moe train`), or a YAML file with the fields of a ModelShape"
    )


@dataclass(frozen=True)
class _TrainingRun:
    """The config.yaml of a `pauca moe train` run, of which only the model matters here."""

    data: dict[str, Any]
    model: LMConfig
    train: dict[str, Any]


def from_run_config(path: str | Path) -> ModelShape:
    """The shape of a model that `pauca moe train` trains.

    Args:
        path: its config.yaml, as it stands in the run's folder.

    Raises:
        InputError: the file cannot be read, is not such a config, or its model has no layer of experts.
    """
    path = Path(path)
    if _is_shape(path):
        return _from_shape_yaml(path)
    try:
        model = from_yaml(_TrainingRun, path).model
    except ConfigError as error:
        raise InputError(
            f"{error}; give the config.yaml of a `pauca moe train` run, or the fields of a ModelShape"
        ) from error
    try:
        shape = replace(model.shape, name=_model_name(path))
        shape.require_experts()
    except ConfigError as error:
        raise InputError(f"{path}: {error}") from error
    return shape


def _is_shape(path: Path) -> bool:
    """Whether a YAML file holds the fields of a `ModelShape`."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False  # said by the reader that follows
    return isinstance(values, dict) and "vocabulary" in values


def _from_shape_yaml(path: Path) -> ModelShape:
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        shape = from_dict(ModelShape, {"name": path.stem, **values}, str(path))
        shape.require_experts()
    except ConfigError as error:
        raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    return shape


def from_config_json(path: str | Path, like: str | None = None) -> ModelShape:
    """The shape of a model of Hugging Face, of one of `FAMILIES` or read as if it were.

    Args:
        path: its config.json.
        like: the family whose names for the sizes the config uses, if its own is not known.

    Raises:
        InputError: the file cannot be read, is of another family, or lacks an entry.
    """
    path = Path(path)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}; the config of a `pauca moe train` run ends in .yaml") from error
    name, text = family_of(config, like) if isinstance(config, dict) else (None, {})
    if name not in FAMILIES:
        known = ", ".join(FAMILIES)
        if like is not None:
            raise InputError(f"--like {like}: no family that is known; known are {known}")
        raise InputError(
            f"{path}: model_type is {name!r}; known are {known}; read it as one of them with "
            "--like FAMILY (in Python like)"
        )
    try:
        found = sizes(_numbers(text), FAMILIES[name])
        shape = ModelShape(_model_name(path), **found)
        shape.require_experts()
    except KeyError as error:
        raise InputError(
            f"{path}: {error.args[0]} is missing, which a {name} config has; add it, or read the config as one of "
            "another family by --like FAMILY (in Python like)"
        ) from error
    except ConfigError as error:
        raise InputError(f"{path}: {error}") from error
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise InputError(f"{path}: a value that no {name} config has ({error})") from error
    return shape


_SIZES = ("_size", "_size_mlp", "_dim", "_rank", "_experts", "_heads", "_layers", "_per_tok", "_embeddings")
"""What the names of sizes end in."""


def _numbers(config: dict[str, Any]) -> dict[str, Any]:
    """A config whose sizes are numbers, or arithmetic would complain in words of its own.

    A size that is listed for each layer (Hunyuan's) is a number where it is the same in all.
    """
    layers = config.get("num_hidden_layers")
    for name, value in config.items():
        listed = isinstance(value, list) and not name.endswith("_layers")  # which layers have experts
        if listed and set(map(type, value)) == {int} and len(set(value)) == 1 and len(value) == layers:
            config, value, listed = config | {name: value[0]}, value[0], False
        if name.endswith(_SIZES) and (listed or isinstance(value, str | float | dict)):
            raise ConfigError(f"{name} must be a positive whole number, got {value!r}")
    return config


def _model_name(path: Path) -> str:
    """A config file is called like its folder, unless it has a name of its own."""
    return path.parent.resolve().name if path.stem == "config" else path.stem
