"""The optimizer's state of a model whose experts are divided over ranks, for `torch.distributed.checkpoint`.

What an optimizer keeps for a rank's experts has their names on every rank, but is another part on each. Here, as in the
model's own state dict, it becomes a part of one whole (a DTensor sharded over the ranks), so that a checkpoint holds
all experts once and can be loaded on any number of ranks.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.optim import Optimizer

from pauca.moe.parallel.experts import ParallelExperts


def optimizer_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """An optimizer's state by the names of the parameters; all ranks must call it.

    Examples:
        >>> state = {"model": model.state_dict(), "optimizer": optimizer_state(model, optimizer)}
        >>> torch.distributed.checkpoint.load(state, checkpoint_id=folder)  # in place, or save
        >>> model.load_state_dict(state["model"])
        >>> load_optimizer_state(model, optimizer, state["optimizer"])
    """
    state = get_optimizer_state_dict(model, optimizer)
    return _exchange_experts(model, dict(state), lambda bank, own, _: bank.as_shard(own))


def load_optimizer_state(model: nn.Module, optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Give an optimizer what `optimizer_state` described; all ranks must call it."""
    own = _exchange_experts(model, state, lambda bank, value, weight: bank.from_shard(value, weight))
    set_optimizer_state_dict(model, optimizer, own)


def _exchange_experts(
    model: nn.Module, state: dict[str, Any], exchange: Callable[[ParallelExperts, Tensor, Tensor], Tensor]
) -> dict[str, Any]:
    """The state with `exchange` applied to all that has the shape of a divided weight."""
    of_parameters = dict(state["state"])
    for prefix, bank in model.named_modules():
        if isinstance(bank, ParallelExperts):
            for name, weight in bank.divided().items():
                of_parameters[f"{prefix}.{name}"] = {
                    key: exchange(bank, value, weight) if isinstance(value, Tensor) and value.ndim else value
                    for key, value in of_parameters[f"{prefix}.{name}"].items()
                }
    return state | {"state": of_parameters}
