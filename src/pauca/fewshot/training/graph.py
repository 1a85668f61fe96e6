"""A pass as a CUDA graph: one launch instead of the thousand that the network, its head and backward are made of.

At 32 pixels a GPU is done with a kernel sooner than Python asks for the next, and stands idle nearly half the time.
"""

from collections.abc import Callable

import torch
from torch import nn

from pauca.fewshot.model import Losses, MCRNet
from pauca.fewshot.types import Episodes
from pauca.runs.devices import garbage_waits

_WARM_UP_PASSES = 3  # compile, search for the fastest kernels, and allocate what stays


def can_be_captured(base_learner: nn.Module) -> bool:
    """Whether a base learner leaves the host alone: one that asks whether it has converged cannot be captured."""
    return not getattr(base_learner, "asks_host", True)


class CapturedPass:
    """Forward and backward of episodes of one shape, captured once and replayed.

    Random numbers are drawn anew in each replay, from torch's generator as it is then. Gradients add up in tensors that
    must stay: zero them, do not set them to None.

    Args:
        run: the pass; it may read only what it is given, parameters and buffers.
        episodes: any of the shape that all will have.
        model: whose buffers (running statistics) and gradients are as before when this returns.
    """

    def __init__(self, run: Callable[[Episodes], Losses], episodes: Episodes, model: MCRNet) -> None:
        self._episodes = Episodes(*(tensor.clone() for tensor in _tensors(episodes)))
        self._warm_up(run, model)
        self._graph = torch.cuda.CUDAGraph()
        with garbage_waits(), torch.cuda.graph(self._graph):
            self._losses = run(self._episodes)

    def _warm_up(self, run: Callable[[Episodes], Losses], model: MCRNet) -> None:
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_PASSES):
                run(self._episodes)
        torch.cuda.current_stream().wait_stream(stream)
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.zero_()

    def __call__(self, episodes: Episodes) -> Losses:
        for place, tensor in zip(_tensors(self._episodes), _tensors(episodes), strict=True):
            place.copy_(tensor)
        self._graph.replay()
        return Losses(*(getattr(self._losses, name).clone() for name in Losses.__dataclass_fields__))


def _tensors(episodes: Episodes) -> list[torch.Tensor]:
    return [getattr(episodes, name) for name in Episodes.__dataclass_fields__]
