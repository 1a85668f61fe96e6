"""One layer on several ranks: experts divided over them, gradients averaged, optimizer state saved whole."""

from pauca.moe.parallel.experts import ParallelExperts
from pauca.moe.parallel.gradients import average_gradients, clip_gradients
from pauca.moe.parallel.model import parallelize
from pauca.moe.parallel.optimizer_state import load_optimizer_state, optimizer_state
from pauca.moe.parallel.wire import WireBytes, wire_bytes

__all__ = [
    "ParallelExperts",
    "WireBytes",
    "average_gradients",
    "clip_gradients",
    "load_optimizer_state",
    "optimizer_state",
    "parallelize",
    "wire_bytes",
]
