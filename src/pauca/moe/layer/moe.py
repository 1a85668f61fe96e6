"""The mixture-of-experts layer as a PyTorch module."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from pauca.errors import ConfigError, InputError, PaucaError
from pauca.moe import ops
from pauca.moe.layer.checkpoint import BalanceGradients, is_repetition
from pauca.moe.layer.experts import ExpertBank, Experts
from pauca.moe.layer.permutation import sort_by_expert
from pauca.moe.layer.recipe import Recipe, Recompute
from pauca.moe.layer.rotation import rotate_input
from pauca.moe.layer.router import Router, RouterConfig
from pauca.moe.layer.weights import FrozenWeights, is_capturing
from pauca.moe.ops.formats import ScaleRule


class MoE(nn.Module):
    """A mixture-of-experts feed-forward layer: `y = sum over top-k of p_e(x) E_e(x)`, plus shared experts.

    Dropless: every token reaches all its experts, whatever the load.

    Examples:
        >>> layer = MoE(hidden=64, width=32, experts=8, top_k=2, recipe=Recipe.fp4())
        >>> y = layer(torch.randn(2, 10, 64))
        >>> loss = y.square().mean() + 0.01 * layer.auxiliary_loss

    Attributes:
        router: chooses each token's experts.
        experts: the routed experts; `experts.recipe` may be changed at any time.
        shared: the shared experts as one wide expert that every token visits, or None.
        auxiliary_loss: of the latest forward, 1 when the load is balanced; add a multiple of it to the loss. With the
            z-loss, if the router weighs it. None before the first.
        z_loss: the part of `auxiliary_loss` that is the weighted z-loss, to look at, or None.
    """

    auxiliary_loss: Tensor | None = None
    z_loss: Tensor | None = None

    def __init__(
        self,
        hidden: int,
        width: int,
        experts: int,
        top_k: int,
        *,
        shared_experts: int = 0,
        recipe: Recipe | None = None,
        recompute: Recompute = "none",
        router: RouterConfig | None = None,
    ) -> None:
        """Build a layer.

        Args:
            hidden: channels of a token; a multiple of 32 for the fp8 and fp4 recipes, of 8 for bf16.
            width: channels inside one expert; likewise.
            experts: number of routed experts.
            top_k: experts that each token is routed to.
            shared_experts: experts of the same width that every token visits, with weight 1.
            recipe: numerics; `Recipe.bf16()` by default.
            recompute: what backward computes again rather than keep. Never the routing.
            router: scoring and balancing.
        """
        super().__init__()
        if shared_experts < 0:
            raise ConfigError(f"shared_experts must not be negative, got {shared_experts}")
        self.router = Router(hidden, experts, top_k, router)
        self.experts: ExpertBank = Experts(hidden, width, experts, recipe, recompute)
        self.shared = Experts(hidden, width * shared_experts, 1, recipe, recompute) if shared_experts else None
        self._balance_gradients = BalanceGradients()

    def forward(
        self,
        x: Float[Tensor, "*batch hidden"],
        mask: Tensor | None = None,  # bool [*batch]
    ) -> Float[Tensor, "*batch hidden"]:
        """Every token's experts.

        Args:
            x: tokens, BF16 or FP32.
            mask: True where a token counts, False for padding: that is computed too, but has no part in the auxiliary
                loss and in the load of the experts.
        """
        self.experts.check_tokens(x)
        tokens = x.reshape(-1, x.shape[-1])
        if mask is not None and (mask.shape != x.shape[:-1] or mask.dtype != torch.bool):
            raise InputError(
                f"mask must be torch.bool {tuple(x.shape[:-1])}, True where a token counts, got {mask.dtype} "
                f"{tuple(mask.shape)}; of zeros and ones, give mask.bool()"
            )
        sequences = x.shape[:-2].numel() if self.router.config.balance == "sequence" else 1
        routing = self.router(tokens, None if mask is None else mask.reshape(-1), sequences)
        self.auxiliary_loss = routing.auxiliary_loss
        self.z_loss = None if routing.z_loss is None else routing.z_loss.detach()
        shared = None if self.shared is None else self._visit_shared
        y = self.experts(tokens, routing.expert_ids, routing.probabilities, shared, checked=True).view(x.shape)
        # The balancing loss has a gradient under a reentrant checkpoint, too.
        if not torch.is_grad_enabled() and self.training and not torch.is_inference_mode_enabled():
            self.auxiliary_loss = self._balance_gradients.of_later(routing.auxiliary_loss)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling() and is_repetition():
            return self._balance_gradients.add(y, routing.auxiliary_loss)
        return y

    def _visit_shared(self, tokens: Float[Tensor, "tokens hidden"]) -> Float[Tensor, "tokens hidden"]:
        assert self.shared is not None
        everyone = torch.zeros(len(tokens), 1, dtype=torch.int64, device=tokens.device)
        return self.shared(tokens, everyone, torch.ones_like(everyone, dtype=torch.float32), checked=True)

    def __getstate__(self) -> dict[str, object]:
        # The latest loss holds the graph of its forward, which can be neither copied nor stored.
        state = {name: value for name, value in super().__getstate__().items() if name != "auxiliary_loss"}
        state["_balance_gradients"] = BalanceGradients()
        return state

    @torch.no_grad()
    def inexact_shares(self, x: Float[Tensor, "*batch hidden"]) -> dict[str, Float[Tensor, ""]]:
        """How much the shared scales cost on these tokens: a debugging aid, many times as slow as a forward.

        FC1's input in MXFP4 goes to FP8 with one scale per row for FC1, and with one per expert and channel for FC1's
        weight gradient. A block whose exponent is more than 14 below the largest under its scale loses bits.

        Returns:
            The share of the nonzero elements that lost bits: "fc1_rows" and "fc1_columns". On the device.
        """
        self.experts.check_tokens(x)
        tokens = x.reshape(-1, x.shape[-1])
        permutation = sort_by_expert(self.router.route(tokens).expert_ids, len(self.router.weight))
        rows = rotate_input(tokens) if self.experts.recipe.rotate else tokens.bfloat16()
        blocks = ops.quantize_mxfp4(rows, ScaleRule(self.experts.recipe.scale_rule))
        counts = {
            "fc1_rows": ops.count_inexact(blocks, permutation.row_to_token),
            "fc1_columns": ops.count_inexact(blocks, permutation.row_to_token, permutation.offsets),
        }
        return {name: inexact / nonzero.clamp(min=1) for name, (inexact, nonzero) in counts.items()}


def auxiliary_loss(model: nn.Module) -> Tensor | int:
    """The sum of the balancing losses of a model's MoE layers in their latest forward; 0 if there is none."""
    losses = [m.auxiliary_loss for m in model.modules() if isinstance(m, MoE) and m.auxiliary_loss is not None]
    return sum(losses)


@torch.no_grad()
def update_biases(model: nn.Module, group: dist.ProcessGroup | None = None) -> None:
    """`Router.update_bias` on all routers of a model; call it after each optimizer step, on all ranks together.

    Processes that share a router must move its bias alike, so their loads are added up first: over the ranks given to
    `parallelize`; without that, over all ranks of the default group (there is none in a script of one process),
    whether DDP, FSDP or nothing wraps the model. Routers without a `bias_rate` exchange nothing.

    Args:
        model: holds routers.
        group: the ranks that share the model, where these are not all; `dist.new_group([own_rank])` for a rank
            that trains a model of its own.

    Raises:
        PaucaError: another rank has stopped, or does not call this within the process group's timeout.
    """
    modules = list(model.modules())
    banks = {id(module.router): module.experts for module in modules if isinstance(module, MoE)}
    routers = [module for module in modules if isinstance(module, Router)]
    if dist.is_available() and dist.is_initialized():
        together: dict[object, list[Router]] = {}
        over: dict[object, Any] = {}
        for router in routers:
            if router.config.bias_rate:
                ranks = banks[id(router)]._ranks if group is None and id(router) in banks else None
                key = (None if ranks is None else ranks.mesh, router.load.device)
                together.setdefault(key, []).append(router)
                over[key] = group if ranks is None else ranks
        for key, sharing in together.items():
            _sum_loads(sharing, over[key])
    for router in routers:
        router.update_bias()


def _sum_loads(routers: list[Router], over: Any) -> None:
    """Add up what each rank has counted, of all routers in one message."""
    loads = torch.cat([router.load for router in routers])
    if isinstance(over, dist.ProcessGroup | None):
        try:
            dist.all_reduce(loads, group=over)
        except RuntimeError as error:  # names a socket
            raise PaucaError(
                "summing the loads of the experts over the ranks: one of them has stopped, or does not call "
                f"update_biases ({str(error).strip().splitlines()[0]})"
            ) from error
    else:
        over.sum(loads)
    for router, load in zip(routers, loads.split([len(router.load) for router in routers]), strict=True):
        router.load.copy_(load)


@contextmanager
def frozen_weights(model: nn.Module, compiled: bool = False) -> Iterator[None]:
    """Quantize expert weights once for all passes inside, which must not change them: gradient accumulation, inference.

    The FP8 copies take as much memory as the weights take in BF16.

    Each pass looks whether the weights are the same parameters, at the same place in memory, unchanged by anything that
    autograd counts (an optimizer, `mul_`, `copy_`, another tensor as `.data`). What writes past that
    (`weight.data.mul_(2)`, a kernel of one's own) shows only at the end, where some 4,000 values of each weight are
    compared: passes inside have then used the old ones. If such a change is undone before the end, nothing shows it.
    Weights that are not parameters of their layer (computed by an adapter, or sharded by `fully_shard`) are quantized
    in each pass, as without this.

    Args:
        model: holds experts.
        compiled: it, or its blocks, run under `torch.compile`, which no look at the weights must interrupt. They are
            then quantized at once, and must be the same at the end: a step of the optimizer inside is refused, too.

    Raises:
        PaucaError: a weight has changed.

    Examples:
        >>> with frozen_weights(model):
        ...     for batch in micro_batches:
        ...         model(batch).sum().backward()
        >>> optimizer.step()
    """
    banks = [module for module in model.modules() if isinstance(module, ExpertBank) and not module._frozen]
    banks = [bank for bank in banks if not isinstance(bank.masters()[0], DTensor)]
    try:
        for bank in banks:
            bank._freeze(True, compiled)
        yield
        frozen = [(bank, bank._copies) for bank in banks if bank._copies is not None]
        if compiled:
            for bank, copies in frozen:
                copies.require_of(bank.masters())
        _require_unchanged(frozen)
    finally:
        for bank in banks:
            bank._freeze(False)


def _require_unchanged(frozen: list[tuple[ExpertBank, FrozenWeights]]) -> None:
    """Refuse changes that no pass could see. Of others each pass knows, and after the last they do no harm."""
    if is_capturing():
        return
    unseen = [copies.have_changed() for bank, copies in frozen if copies.are_of(bank.masters())]
    if any(map(bool, unseen)):
        raise PaucaError(
            "expert weights changed under frozen_weights() past what autograd counts (through .data, or a kernel): "
            "passes inside have used the old ones; leave it before weights change"
        )


def moe_layers(model: nn.Module) -> dict[str, MoE]:
    """The mixture-of-experts layers of a model, by name, in order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, MoE)}
