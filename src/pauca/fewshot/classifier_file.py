"""A fitted classifier in one safetensors file: its model, the features of its examples, and what it was told."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from pauca.errors import ConfigError, InputError
from pauca.fewshot.model import MCRNet, read_description, read_safetensors
from pauca.fewshot.network import FewShotModel
from pauca.fewshot.pretrained import Features, Pretrained
from pauca.fewshot.pretrained.opening import rebuild
from pauca.runs.tensors import save_tensors

if TYPE_CHECKING:
    from pauca.fewshot.estimator import FewShotClassifier

DESCRIPTION = "pauca.fewshot.classifier"  # in the metadata of the file
_VERSION = 1
_WEIGHTS = "model."
# All that `fit` was told; the model stands by itself.
_SETTINGS = ("reject", "unknown_label", "mirror", "temperature", "confidence")


def save_classifier(classifier: "FewShotClassifier", path: Path | str, force: bool = True, note: str = "") -> None:
    """Write a fitted classifier to one file, and a note of whoever writes it.

    Raises:
        InputError: `path` exists and `force` is not set.
        PaucaError: the disk refuses.
    """
    settings = {name: _plain(getattr(classifier, name)) for name in _SETTINGS}
    labels = classifier.classes_
    description = {
        "version": _VERSION,
        "model": _describe(classifier.model_),
        "settings": settings,
        "classes": [_plain(label) for label in labels.tolist()],
        "class_type": labels.dtype.str if labels.dtype.kind in "iufb" else "str",
        "note": note,
    }
    tensors: dict[str, Tensor] = {_WEIGHTS + name: value for name, value in classifier.model_.state_dict().items()}
    tensors |= {"features": classifier.features_, "targets": classifier.targets_}
    if classifier._calibration_features is not None:
        tensors["calibration_features"] = classifier._calibration_features
    save_tensors(Path(path), tensors, {DESCRIPTION: json.dumps(description)}, force)


def load_classifier(
    classifier: "FewShotClassifier", path: Path | str, network: nn.Module | None, base_learner: nn.Module | None
) -> "FewShotClassifier":
    """Make an empty classifier the one of a file.

    Raises:
        InputError: the file is no fitted classifier, is damaged or of a newer version, or needs a part that is not
            given.
    """
    tensors, metadata = read_safetensors(path)
    if DESCRIPTION not in metadata:
        raise InputError(f"{path}: is no fitted classifier; give a file that FewShotClassifier.save wrote")
    try:
        description = json.loads(metadata[DESCRIPTION])
        if description["version"] != _VERSION:
            raise InputError(f"{path}: of version {description['version']}, this pauca reads {_VERSION}; update pauca")
        weights = {n.removeprefix(_WEIGHTS): value for n, value in tensors.items() if n.startswith(_WEIGHTS)}
        model = _rebuild(description["model"], weights, str(path), network, base_learner)
        classes = np.array(description["classes"])
        if description["class_type"] != "str":
            classes = classes.astype(description["class_type"])
        labels = classes[tensors["targets"].numpy()]
        features = tensors["features"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: its description cannot be read ({error}); it is damaged, save it again") from error
    classifier.set_params(model=model, **description["settings"])
    classifier._load_model()
    classifier.note_ = str(description.get("note", ""))
    device = classifier.model_.mean.device
    further = tensors.get("calibration_features")
    classifier._calibration_features = None if further is None else further.to(device)
    if isinstance(model, Features):
        classifier.n_features_in_ = features.shape[1]  # pyright: ignore[reportAttributeAccessIssue]
    return classifier._learn(features.to(device), labels)


def _describe(model: FewShotModel) -> dict[str, Any]:
    if isinstance(model, Pretrained):
        return {"class": "Pretrained", **model.description()}
    if isinstance(model, MCRNet):
        remembered = asdict(model.trained_on) if model.trained_on else None
        return {"class": "MCRNet", "config": asdict(model.config) | {"trained_on": remembered}}
    if isinstance(model, Features):
        return {"class": "Features", "base_learner": model.config.base_learner}
    raise ConfigError(f"a classifier with a {type(model).__name__} cannot be saved; use MCRNet, Pretrained or Features")


def _rebuild(
    description: dict[str, Any],
    weights: dict[str, Tensor],
    path: str,
    network: nn.Module | None,
    base_learner: nn.Module | None,
) -> FewShotModel:
    kind = description.pop("class")
    if kind == "Pretrained":
        return rebuild(description, weights, path, base_learner, network)
    if kind == "Features":
        model: FewShotModel = Features(base_learner or description["base_learner"])
    else:
        config, trained_on = read_description(json.dumps(description["config"]))
        model = MCRNet(config, network, base_learner)
        model.trained_on = trained_on
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"{path}: its weights do not fit the model ({' '.join(str(error).split())[:300]}); hand over the network "
            "or base learner of your own that it was made with"
        ) from error
    return model


def _plain(value: Any) -> Any:
    """For JSON."""
    return value.item() if isinstance(value, np.generic) else value
