"""Expert weights quantized once per change, and what makes that safe to leave on.

A copy serves training passes between two steps of an optimizer, nothing else. It is used only while the weights are
the optimizer's own parameters, at the same place in memory, in the same version; the step forgets it. What no version
counts (`weight.data.mul_(2)`, a kernel) is found before the step that would have used its gradients: all bits of every
weight are added up row by row when a copy is made, and again there.
"""

from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from pauca.errors import InputError, PaucaError
from pauca.moe.layer.experts import ExpertBank
from pauca.moe.layer.weights import FrozenWeights, is_capturing


class QuantizedOnce:
    """What `quantize_once` has begun; `remove` ends it."""

    def __init__(self, model: nn.Module, *optimizers: torch.optim.Optimizer) -> None:
        """See `quantize_once`."""
        stepped = {id(weight) for one in optimizers for group in one.param_groups for weight in group["params"]}
        banks = [module for module in model.modules() if isinstance(module, ExpertBank)]
        self._banks = [bank for bank in banks if _can_be_kept(bank) and all(id(w) in stepped for w in bank.masters())]
        if not self._banks:
            raise InputError(
                "quantize_once found no experts whose weights are parameters of the optimizers given, whole on this "
                "rank (fully_shard gathers weights anew for each pass): give the optimizers that step them, or leave "
                "it out"
            )
        self._kept: dict[ExpertBank, _Kept] = {}
        self._masters = {bank: bank.masters() for bank in self._banks}
        self._hooks: list[Any] = []
        for one in optimizers:
            self._hooks += [one.register_step_pre_hook(self._before), one.register_step_post_hook(self._after)]
        for bank in self._banks:
            bank._once = self

    def remove(self) -> None:
        """Quantize in each pass again."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._leave()

    def _leave(self) -> None:
        """Of the banks; the hooks then find nothing to do."""
        for bank in self._banks:
            if bank._once is self:
                bank._once = None
        self._banks = []
        self._kept.clear()

    def forget(self, bank: ExpertBank) -> None:
        """A bank's copies, which another recipe would take otherwise; the next pass makes new ones."""
        self._kept.pop(bank, None)

    def copies(self, bank: ExpertBank) -> list[Tensor]:
        """`prepare_weights` of a bank for one pass, or nothing where the pass must quantize for itself."""
        masters = bank.masters()
        in_training = bank.training and torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        same = all(one is other for one, other in zip(masters, self._masters[bank], strict=True))
        if not in_training or not same or is_capturing():
            return []
        kept = self._kept.get(bank)
        if kept is None or not kept.is_of(bank):
            self._kept[bank] = kept = _Kept(bank)
        return kept.weights.copies

    def _before(self, *_: object) -> None:
        """Before a step: refuse one whose gradients are of other weights, and give the copies' memory back."""
        if is_capturing():  # its replays change weights without a word
            self._leave()  # not `remove`: torch is on its way through the hooks
            return
        kept, self._kept = self._kept, {}
        # Of weights in another version, the passes since have used new copies or none.
        living = (bank for bank in kept if getattr(bank, "_once", None) is self)  # not unconverted since
        suspects = [kept[bank].changed() for bank in living if kept[bank].is_of(bank)]
        if suspects and bool(torch.stack(suspects).any()):
            raise PaucaError(
                "expert weights changed since they were quantized, past what autograd counts (through .data, or a "
                "kernel): the gradients are of the old ones. Change weights under torch.no_grad() instead, or leave "
                "out quantize_once"
            )

    def _after(self, *_: object) -> None:
        self._kept.clear()


class _Kept:
    """The copies of a bank's weights, and the sums that show whether a bit of those has changed."""

    def __init__(self, bank: ExpertBank) -> None:
        self.weights = FrozenWeights(bank.masters(), *bank.operands())
        self._masters = bank.masters()
        self._sums = [_row_sums(weight) for weight in self._masters]

    def is_of(self, bank: ExpertBank) -> bool:
        return self.weights.are_of(bank.masters())

    def changed(self) -> Tensor:
        pairs = zip(self._masters, self._sums, strict=True)
        return torch.stack([(_row_sums(weight) != sums).any().cpu() for weight, sums in pairs]).any()


def quantize_once(model: nn.Module, *optimizers: torch.optim.Optimizer) -> QuantizedOnce:
    """Quantize expert weights once for all training passes between two steps, from now on: gradient accumulation.

    Unlike `frozen_weights` it is called once, before training, and changes of the weights need no care: after a step,
    `load_state_dict`, an edit under `torch.no_grad()` or another tensor as `.data` the next pass quantizes anew. A
    change that nothing counts is refused before the next step. Passes without gradients or in evaluation, compiled
    ones, those in a CUDA graph, and weights that adapters compute or `fully_shard` divides are quantized in each pass,
    as without this. Where an optimizer's step is captured as a CUDA graph, this ends by itself.

    The FP8 copies take as much memory as the weights take in BF16, from the first pass to the step, and all weights are
    read twice more a step, to see that they are the same. With one pass a step there is nothing to save.

    Args:
        model: holds experts.
        optimizers: all that step the experts' weights.

    Raises:
        InputError: no expert's weights are these optimizers'.
        PaucaError: at a step: weights have changed in a way that passes since could not see. The step is not taken.

    Examples:
        >>> quantize_once(model, optimizer)
        >>> for batch in micro_batches:
        ...     model(batch).sum().backward()
        >>> optimizer.step()
    """
    return QuantizedOnce(model, *optimizers)


def _can_be_kept(bank: ExpertBank) -> bool:
    return all(isinstance(weight, nn.Parameter) and not isinstance(weight, DTensor) for weight in bank.masters())


@torch.no_grad()
def _row_sums(weight: Tensor) -> Int64[Tensor, "*rows"]:
    """The bits of each row, added up eight bytes at a time, modulo 2^64."""
    rows = weight.detach().contiguous()
    size = rows.element_size()
    if rows.shape[-1] * size % 8 or rows.storage_offset() * size % 8:  # the latter: a view into a flat buffer
        return rows.view(torch.int16 if size == 2 else torch.int32).sum(-1)
    # Of int32 torch would make a copy in int64 first: five times the traffic (3.2 ms for 553 million weights, H200).
    return rows.view(torch.int64).sum(-1)
