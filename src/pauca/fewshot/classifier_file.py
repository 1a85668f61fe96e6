"""A fitted classifier in one safetensors file: its model, the features of its examples, and what it was told."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from pauca.errors import ConfigError, InputError
from pauca.fewshot.answers.groups import Groups
from pauca.fewshot.model import MCRNet, read_description, read_safetensors
from pauca.fewshot.network import FewShotModel
from pauca.fewshot.pretrained import Features, Pretrained
from pauca.fewshot.pretrained.opening import rebuild
from pauca.runs.tensors import save_tensors

DESCRIPTION = "pauca.fewshot.classifier"  # in the metadata of the file
_VERSION = 1
_WEIGHTS = "model."


@dataclass(eq=False)
class FittedClassifier:
    """All that a fitted classifier is made of."""

    model: FewShotModel
    labels: Shaped[np.ndarray, "n"]  # of its examples
    features: Float[Tensor, "n d"]  # of its examples
    settings: dict[str, Any]  # what it was told, by name
    groups: Groups
    calibration_features: Float[Tensor, "k d"] | None = None
    calibration_groups: Int64[Tensor, "k"] | None = None
    note: str = ""

    def save(self, path: Path | str, force: bool = True) -> None:
        """Write it to one file.

        Raises:
            ConfigError: its model is of a kind that cannot be built again.
            InputError: `path` exists and `force` is not set.
            PaucaError: the disk refuses.
        """
        classes, targets = np.unique(self.labels, return_inverse=True)
        description = {
            "version": _VERSION,
            "model": _describe(self.model),
            "settings": {name: _plain(value) for name, value in self.settings.items()},
            "classes": [_plain(label) for label in classes.tolist()],
            "class_type": classes.dtype.str if classes.dtype.kind in "iufb" else "str",
            "groups": list(self.groups.names.items()),
            "note": self.note,
        }
        tensors: dict[str, Tensor] = {_WEIGHTS + name: value for name, value in self.model.state_dict().items()}
        tensors |= {"features": self.features, "targets": torch.from_numpy(targets), "groups": self.groups.numbers}
        if self.calibration_features is not None and self.calibration_groups is not None:
            tensors["calibration_features"] = self.calibration_features
            tensors["calibration_groups"] = self.calibration_groups
        save_tensors(Path(path), tensors, {DESCRIPTION: json.dumps(description)}, force)

    @classmethod
    def load(cls, path: Path | str, network: nn.Module | None, base_learner: nn.Module | None) -> "FittedClassifier":
        """Read one from a file.

        Args:
            path: the file.
            network: a backbone of one's own that it was made with, which no file can hold.
            base_learner: a base learner of one's own, likewise.

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
                raise InputError(
                    f"{path}: of version {description['version']}, this pauca reads {_VERSION}; update pauca"
                )
            weights = {n.removeprefix(_WEIGHTS): value for n, value in tensors.items() if n.startswith(_WEIGHTS)}
            classes = np.array(description["classes"])
            if description["class_type"] != "str":
                classes = classes.astype(description["class_type"])
            further = tensors.get("calibration_features")
            return cls(
                model=_rebuild(description["model"], weights, str(path), network, base_learner),
                labels=classes[tensors["targets"].numpy()],
                features=tensors["features"],
                settings=description["settings"],
                groups=Groups(
                    tensors.get("groups", torch.arange(len(tensors["targets"]))), dict(description.get("groups", []))
                ),
                calibration_features=further,
                calibration_groups=None
                if further is None
                else tensors.get("calibration_groups", torch.arange(len(further))),
                note=str(description.get("note", "")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: its description cannot be read ({error}); it is damaged, save it again"
            ) from error


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
