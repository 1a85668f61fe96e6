"""Base learners: what is fitted to the few labeled images of an episode."""

from pauca.errors import ConfigError
from pauca.fewshot.base_learners.cosine import Cosine
from pauca.fewshot.base_learners.head import Head, Scorer, check_episodes, example_weights
from pauca.fewshot.base_learners.logistic import LogisticRegression
from pauca.fewshot.base_learners.prototypes import Prototypes
from pauca.fewshot.base_learners.ridge import Ridge
from pauca.fewshot.base_learners.svm import SupportVectorMachine

BASE_LEARNERS: dict[str, type[Head]] = {
    "ridge": Ridge,
    "svm": SupportVectorMachine,
    "prototypes": Prototypes,
    "logistic": LogisticRegression,
    "cosine": Cosine,
}


def make_base_learner(name: str, **options: float | bool) -> Head:
    """The base learner of a name, with options for its constructor: `make_base_learner("ridge", penalty=10.0)`.

    Raises:
        ConfigError: no such name, or an option that this base learner does not have.
    """
    if name not in BASE_LEARNERS:
        raise ConfigError(f"base learner {name!r} is unknown; choose one of {', '.join(BASE_LEARNERS)}")
    try:
        return BASE_LEARNERS[name](**options)  # pyright: ignore[reportArgumentType]
    except TypeError as error:
        raise ConfigError(f"base learner {name}: {error}") from error


__all__ = [
    "BASE_LEARNERS",
    "Cosine",
    "Head",
    "LogisticRegression",
    "Prototypes",
    "Ridge",
    "Scorer",
    "SupportVectorMachine",
    "check_episodes",
    "example_weights",
    "make_base_learner",
]
