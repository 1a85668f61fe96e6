"""A fitted classifier in one safetensors file: its model, the features of its examples, and what it was told."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from pauca.errors import ConfigError, InputError
from pauca.fewshot.answers.examples import Examples, are_numbers
from pauca.fewshot.answers.groups import Groups
from pauca.fewshot.answers.learned import Further
from pauca.fewshot.model import MCRNet, read_description, read_safetensors
from pauca.fewshot.network import FewShotModel
from pauca.fewshot.pretrained import Features, Pretrained
from pauca.fewshot.pretrained.model import with_scale_of_now
from pauca.fewshot.pretrained.opening import rebuild
from pauca.fewshot.random_state import own_random_state
from pauca.fewshot.views_at_test import ViewsAtTest
from pauca.runs.tensors import save_tensors

DESCRIPTION = "pauca.fewshot.classifier"  # in the metadata of the file
_VERSION = 1
_WEIGHTS = "model."


@dataclass(eq=False)
class FittedClassifier:
    """All that a fitted classifier is made of."""

    model: FewShotModel
    examples: Examples
    settings: dict[str, Any]  # what it was told, by name
    further: Further | None = None  # images that its threshold is from
    note: str = ""

    def save(self, path: Path | str, force: bool = True) -> None:
        """Write it to one file.

        Raises:
            ConfigError: its model is of a kind that cannot be built again.
            InputError: `path` exists and `force` is not set.
            PaucaError: the disk refuses.
        """
        examples, classes = self.examples, self.examples.classes
        description = {
            "version": _VERSION,
            "model": _describe(self.model),
            "settings": {name: _plain(value) for name, value in self.settings.items()},
            "classes": [_plain(label) for label in classes.tolist()],
            "class_type": classes.dtype.str if are_numbers(classes) else "str",
            "groups": list(examples.groups.names.items()),
            "note": self.note,
        }
        tensors: dict[str, Tensor] = {_WEIGHTS + name: value for name, value in self.model.state_dict().items()}
        tensors |= {"features": examples.features, "targets": examples.targets, "groups": examples.groups.numbers}
        if self.further is not None:
            tensors["calibration_features"] = self.further.features
            tensors["calibration_groups"] = self.further.groups
        save_tensors(Path(path), tensors, {DESCRIPTION: json.dumps(description)}, force)

    @classmethod
    @own_random_state()
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
            further = None
            if "calibration_features" in tensors:
                further = Further(tensors["calibration_features"], tensors["calibration_groups"])
            return cls(
                model=_rebuild(description["model"], weights, str(path), network, base_learner),
                examples=_examples(tensors, description),
                settings=_settings(description["settings"]),
                further=further,
                note=str(description.get("note", "")),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: its description cannot be read ({error}); it is damaged, save it again"
            ) from error


def _examples(tensors: dict[str, Tensor], description: dict[str, Any]) -> Examples:
    classes = np.array(description["classes"])
    if description["class_type"] != "str":
        classes = classes.astype(description["class_type"])
    groups = Groups(tensors["groups"], dict(description["groups"]))
    return Examples(tensors["features"], classes[tensors["targets"].numpy()], groups)


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
        weights = with_scale_of_now(weights, description["base_learner"])
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


def _settings(found: dict[str, Any]) -> dict[str, Any]:
    views = found.get("views")  # which older files have not
    return found | {"views": None if views is None else ViewsAtTest(**views)}


def _plain(value: Any) -> Any:
    """For JSON."""
    if isinstance(value, ViewsAtTest):
        return asdict(value)
    return value.item() if isinstance(value, np.generic) else value
