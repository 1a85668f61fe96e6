"""A training's step as two CUDA graphs, so that the GPU never waits for Python to launch its kernels.

One graph computes the gradients and the step's numbers, the other changes the weights: between them the host looks at
the numbers, as it does without graphs. Warm-up and capture share one stream, since autograd remembers for each
gradient the stream that it was first made on.
"""

import gc
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from pauca.errors import ConfigError
from pauca.moe.layer.moe import moe_layers
from pauca.runs.devices import garbage_waits
from pauca.runs.processes import first_line, gather

STEPS_BEFORE_CAPTURE = 3
"""Steps that run as they are: kernels compile, and the optimizer makes its state, which a capture cannot."""

MODE = "thread_local"
"""NCCL's watchdog asks for events of its own, in a thread of its own, while a step is recorded."""

Batch = tuple[Tensor, Tensor]


class GraphedStep:
    """`compute` and `update` of a training, recorded once and replayed.

    Args:
        model: whose gradients are computed, and then forgotten before the capture.
        compute: gradients of the passes' batches; returns the step's numbers, on the device.
        update: changes the weights by the gradients.
    """

    def __init__(
        self, model: nn.Module, compute: Callable[[Sequence[Batch]], Tensor], update: Callable[[], None]
    ) -> None:
        self._model, self._compute, self._update = model, compute, update
        self._stream = torch.cuda.Stream()
        self._batches: list[Batch] = []  # what the graph reads
        self._numbers: Tensor | None = None  # what it writes
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self._steps = 0
        self.refused = ""
        """Why the step could not be recorded; it is then launched, as it would be without this."""

    @property
    def records(self) -> bool:
        """Whether the next step is recorded, or has been: the optimizer must then be capturable."""
        return self._steps >= STEPS_BEFORE_CAPTURE and not self.refused

    @property
    def is_recorded(self) -> bool:
        """Whether gradients lie where replays write them: there they must stay."""
        return bool(self._graphs)

    def forget(self) -> None:
        """Give the recording's memory back; steps that follow make another one."""
        self._batches, self._numbers, self._graphs, self._steps = [], None, [], 0
        self._model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()

    def compute(self, batches: Sequence[Batch]) -> Tensor:
        """The step's numbers; valid until the next step."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            if self.records and not self._graphs:
                self._capture(batches)
            if self._graphs:
                numbers = self._replay(batches)
            else:
                self._model.zero_grad(set_to_none=True)
                numbers = self._compute(batches)
            for layer in moe_layers(self._model).values():  # their autograd graph would outlive the step
                layer.auxiliary_loss = None
        torch.cuda.current_stream().wait_stream(self._stream)
        return numbers

    def update(self) -> None:
        with torch.cuda.stream(self._stream):
            if self._graphs:
                self._graphs[1].replay()
            else:
                self._update()
        self._steps += 1
        torch.cuda.current_stream().wait_stream(self._stream)

    def _replay(self, batches: Sequence[Batch]) -> Tensor:
        for own, new in zip(self._batches, batches, strict=True):
            for buffer, values in zip(own, new, strict=True):
                buffer.copy_(values)
        self._graphs[0].replay()
        assert self._numbers is not None
        return self._numbers

    def _capture(self, batches: Sequence[Batch]) -> None:
        self._batches = [(tokens.clone(), targets.clone()) for tokens, targets in batches]
        self._model.zero_grad(set_to_none=True)  # so that the graph makes its gradients anew, and adds to none
        torch.cuda.synchronize()
        error = self._record()
        # One rank that lacks memory for it must not launch alone: it would ask the others for their numbers of tokens,
        # which those that replay do not tell.
        refused = next(filter(None, gather(_reason(error))), "")
        if not refused:
            return
        self._graphs = []
        if any(isinstance(weight, DTensor) for weight in self._model.parameters()):
            raise ConfigError(  # FSDP2 takes weights that were to be gathered in the recording for gathered ones
                f"this step cannot be recorded as a CUDA graph ({refused}), and weights that FSDP2 divides are "
                "then in no state to go on with; train with --no-graph (in Python TrainConfig(graph=False)), which "
                "--resume takes, too"
            ) from error
        del error  # which holds on to what was recorded
        gc.collect()
        self.forget()
        self.refused = refused

    def _record(self) -> RuntimeError | None:
        """What forbade it, if anything; nothing of what was recorded has run, and the step is still to be taken."""
        first, second = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        drawn = [(generator, generator.clone_state()) for generator in torch.cuda.default_generators]
        try:
            with garbage_waits():
                with torch.cuda.graph(first, stream=self._stream, capture_error_mode=MODE):
                    self._numbers = self._compute(self._batches)
                with torch.cuda.graph(second, pool=first.pool(), stream=self._stream, capture_error_mode=MODE):
                    self._update()
        except RuntimeError as error:
            for generator, state in drawn:  # torch leaves them within the capture, and could draw from them no more
                generator.graphsafe_set_state(state)
            return error
        self._graphs = [first, second]
        return None


def _reason(error: RuntimeError | None) -> str:
    """The line that says why; nothing where nothing went wrong."""
    if error is None:
        return ""
    first_cause = error.__context__ if isinstance(error.__context__, RuntimeError) else error
    return first_line(first_cause)
