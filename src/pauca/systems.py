"""The systems of pauca: what each is called, is for, and needs. Nothing is imported before it is asked for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class System:
    """One system, `pauca.NAME`: `pauca.NAME.commands` has its verbs, `pauca.NAME.demo` its part of `pauca demo`."""

    sentence: str  # what it is for
    package: str  # what to install for it


SYSTEMS = {
    "events": System("few events: the rotation of an event camera, aligned events, sharp images", "pauca"),
    "fewshot": System("few labels: recognize new image classes from one to five examples", "pauca[fewshot]"),
    "recognize": System("where they meet: recognize things from raw events of a few recordings", "pauca[fewshot]"),
    "moe": System("few bits: MXFP4 training of mixture-of-experts models on Hopper GPUs", "pauca[moe]"),
}
