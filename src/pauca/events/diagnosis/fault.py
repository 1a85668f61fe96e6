"""One thing that is wrong, as a check tells it."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Fault:
    """Something that is wrong with a recording."""

    kind: str  # such as `hot pixels`
    what: str  # in words, with numbers
    remedy: str
    numbers: dict[str, Any] = field(default_factory=dict)  # the same for machines

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries."""
        return {"kind": self.kind, "what": self.what, "remedy": self.remedy, "numbers": self.numbers}
