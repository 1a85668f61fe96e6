"""When a training has gone wrong: its loss is not finite, or leaps up."""

import json
import math
from typing import Any

from pauca.errors import PaucaError

STEPS_OF_A_RISE = 10


class Diverged(PaucaError):
    """The loss is no longer finite, or has leapt up."""


class Rise:
    """Tells a leap of the loss from its noise: means over ten steps, against the lowest that there has been.

    Args:
        allowed: how far the mean may lie above the lowest, in the unit of the loss.
    """

    def __init__(self, allowed: float) -> None:
        self.allowed = allowed
        self.lowest = self.mean = math.inf
        self.recent: list[float] = []

    def is_leap(self, loss: float) -> bool:
        """Whether the loss of one more step makes it a leap."""
        self.recent = [*self.recent, loss][-STEPS_OF_A_RISE:]
        self.mean = sum(self.recent) / len(self.recent)
        if len(self.recent) == STEPS_OF_A_RISE:
            self.lowest = min(self.lowest, self.mean)
        return self.mean > self.lowest + self.allowed

    def state(self) -> dict[str, Any]:
        """What decides the next answers."""
        return {"lowest": self.lowest, "recent": json.dumps(self.recent)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.lowest, self.recent = state["lowest"], json.loads(state["recent"])
