"""Which experts a token goes to, and with what weight: a top-k router in fp32.

Two ways of scoring: softmax over all experts (Switch, Mixtral, Qwen3-MoE, DeepSeek-V2) and sigmoid of each
(DeepSeek-V3). Two ways of keeping experts equally busy: an auxiliary loss (arXiv 2101.03961, equation 4), and a bias
that counts in the choice but not in the weight, raised for idle experts and lowered for busy ones after each step
(arXiv 2408.15664).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pauca.errors import ConfigError
from pauca.moe.layer.balance import balancing_loss, balancing_loss_of_sequences, z_loss
from pauca.moe.layer.checkpoint import is_repetition
from pauca.renamed import formerly


@formerly(normalise="normalize")
@dataclass(frozen=True)
class RouterConfig:
    """How tokens choose experts."""

    scoring: Literal["softmax", "sigmoid"] = "softmax"
    """How logits become scores: against all experts (softmax), or each for itself (sigmoid)."""
    normalize: bool = True
    """Divide the weights of the chosen experts by their sum."""
    scale: float = 1.0
    """Factor on the weights, after normalizing (2.5 in DeepSeek-V3)."""
    bias_rate: float = 0.0
    """Step of the balancing bias at each `Router.update_bias`; 0 leaves the bias where it is."""
    balance: Literal["batch", "sequence"] = "batch"
    """Where experts are to be equally busy: over all tokens of a forward, or within each sequence (DeepSeek-V3)."""
    z_weight: float = 0.0
    """Weight of the z-loss, which keeps the logits small, within `auxiliary_loss`. ST-MoE's 0.001 of the whole loss is
    0.1 here, where `auxiliary_loss` counts 0.01."""
    groups: int = 1
    """Experts are divided into this many groups, and a token chooses within the best `top_groups` of them. A group is
    judged by its best expert (softmax) or its best two (sigmoid), as DeepSeek-V2 and V3 do."""
    top_groups: int = 1
    """Groups that a token may choose within."""

    def __post_init__(self) -> None:
        if self.scoring not in ("softmax", "sigmoid"):
            raise ConfigError(f"router scoring must be 'softmax' or 'sigmoid', got {self.scoring!r}")
        if not 1 <= self.top_groups <= self.groups:
            raise ConfigError(f"top_groups must lie in 1..groups, got {self.top_groups} of {self.groups} groups")
        if not 0 <= self.bias_rate < math.inf:  # nor NaN
            raise ConfigError(f"bias_rate must be 0 or more, got {self.bias_rate}")
        if self.balance not in ("batch", "sequence"):
            raise ConfigError(f"balance of a router must be 'batch' or 'sequence', got {self.balance!r}")
        if not 0 <= self.z_weight < math.inf:
            raise ConfigError(f"z_weight must be 0 or more, got {self.z_weight}")
        if not 0 < self.scale < math.inf:
            raise ConfigError(f"scale of a router must be a positive number, got {self.scale}")


@dataclass(frozen=True)
class Routing:
    """The router's decision about a batch of tokens."""

    expert_ids: Int[Tensor, "tokens top_k"]
    probabilities: Float[Tensor, "tokens top_k"]  # fp32 weights of the chosen experts' outputs
    copies: Int[Tensor, " experts"]  # how many tokens chose each expert
    auxiliary_loss: Float[Tensor, ""]  # 1 when both choices and scores are balanced, more otherwise; and the z-loss
    z_loss: Float[Tensor, ""] | None = None  # as `auxiliary_loss` holds it, weighted; None where it has no weight


class _Fp32Linear(torch.autograd.Function):
    """x @ weight.T in fp32 that keeps x as it came for backward, not an fp32 copy of it twice the size."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x.float() @ weight.float().t()

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        return (gradient @ weight.float()).to(x.dtype), (gradient.t() @ x.float()).to(weight.dtype)


def _count(load: Tensor, copies: Tensor) -> None:
    """Add to a load what has been routed, once where a checkpoint repeats its forward."""
    if not is_repetition():
        load += copies


_count_compiled = torch.library.custom_op("pauca::count_load", _count, mutates_args=("load",))


@_count_compiled.register_fake
def _(load: Tensor, copies: Tensor) -> None:
    return None


def _normalized(scores: Float[Tensor, "tokens n"]) -> Float[Tensor, "tokens n"]:
    # The sum is 0 only where every sigmoid has underflowed: such a token gets no output, not NaN.
    return scores / (scores.sum(-1, keepdim=True) + torch.finfo(torch.float32).tiny)


class Router(nn.Module):
    """Scores each token against each expert and picks the best `top_k`.

    Attributes:
        bias: [experts], counts in the choice alone. FP32 whatever the model is cast to: a step of 1e-3 is lost or
            doubled where BF16's neighbors are 4e-3 and more apart.
        load: [experts], int64: the copies of tokens that each expert got in training since the last `update_bias`.
    """

    bias: Tensor
    load: Tensor  # no buffer: DistributedDataParallel would overwrite each rank's count by the first one's

    def __init__(self, hidden: int, experts: int, top_k: int, config: RouterConfig | None = None) -> None:
        super().__init__()
        self.config = RouterConfig() if config is None else config
        if not isinstance(self.config, RouterConfig):
            raise ConfigError(f"router must be a RouterConfig, got {config!r}")
        if hidden < 1:
            raise ConfigError(f"hidden must be positive, got {hidden}")
        if not 1 <= top_k <= experts:
            raise ConfigError(f"top_k must lie in 1..experts, got top_k {top_k} of {experts} experts")
        if experts % self.config.groups:
            raise ConfigError(f"{experts} experts cannot be divided into {self.config.groups} groups")
        if top_k > experts // self.config.groups * self.config.top_groups:
            raise ConfigError(f"top_k {top_k} is more than the experts in {self.config.top_groups} group(s)")
        self.top_k = top_k
        self.weight = nn.Parameter(torch.empty(experts, hidden))
        self.register_buffer("bias", torch.zeros(experts, dtype=torch.float32))
        self.load = torch.zeros(experts, dtype=torch.int64)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.weight.shape[1] ** -0.5)
        nn.init.zeros_(self.bias)
        nn.init.zeros_(self.load)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Router":
        """Move with the model (`to`, `cuda`, `to_empty`), but keep the types of bias and load (`bfloat16`, `half`)."""
        bias, load = self.bias, self.load
        super()._apply(fn, recurse)
        if self.bias.dtype != torch.float32:
            self.bias = bias.to(self.bias.device)
        moved = fn(load)
        self.load = moved if moved.dtype == load.dtype else load.to(moved.device)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        name = prefix + "bias"
        if isinstance(state_dict.get(name), Tensor):  # `assign=True` would take its type too
            state_dict[name] = state_dict[name].float()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def forward(
        self, x: Float[Tensor, "tokens hidden"], mask: Bool[Tensor, " tokens"] | None = None, sequences: int = 1
    ) -> Routing:
        """`route`, and in training the load is counted for `update_bias`."""
        routing = self.route(x, mask, sequences)
        if self.training:
            if self.load.device != x.device:  # wrappers move parameters and buffers alone
                self.load = self.load.to(x.device)
            # An operation in a compiled graph: whether it runs in backward is known only when it runs.
            (_count_compiled if torch.compiler.is_compiling() else _count)(self.load, routing.copies)
        return routing

    def route(
        self, x: Float[Tensor, "tokens hidden"], mask: Bool[Tensor, " tokens"] | None = None, sequences: int = 1
    ) -> Routing:
        """Choose each token's experts; changes nothing in the router.

        Args:
            mask: True where a token counts, in `copies` and `auxiliary_loss`; False for padding, which is routed too.
            sequences: how many sequences the tokens are, one after the other and all of one length.
        """
        with torch.autocast(x.device.type, enabled=False):
            logits = _Fp32Linear.apply(x, self.weight)
            scores = logits.softmax(-1) if self.config.scoring == "softmax" else logits.sigmoid()
            expert_ids = self._choose(scores.detach())
            chosen = scores.gather(1, expert_ids)
            if self.config.normalize:
                chosen = _normalized(chosen)
            copies = torch.zeros(len(self.weight), dtype=torch.int64, device=x.device)
            counting = torch.ones_like(expert_ids) if mask is None else mask[:, None].expand_as(expert_ids).long()
            copies.scatter_add_(0, expert_ids.reshape(-1), counting.reshape(-1))
            shares = scores if self.config.scoring == "softmax" else _normalized(scores)
            if self.config.balance == "sequence" and len(x):
                loss = balancing_loss_of_sequences(shares, expert_ids, sequences, mask)
            else:
                loss = balancing_loss(shares, copies, self.top_k, mask)
            weighted = self.config.z_weight * z_loss(logits, mask) if self.config.z_weight else None
            loss = loss if weighted is None else loss + weighted
            return Routing(expert_ids, chosen * self.config.scale, copies, loss, weighted)

    def _choose(self, scores: Float[Tensor, "tokens experts"]) -> Int[Tensor, "tokens top_k"]:
        scores = scores + self.bias
        groups = self.config.groups
        if self.config.top_groups < groups:
            by_group = scores.unflatten(1, (groups, -1))
            best = min(2 if self.config.scoring == "sigmoid" else 1, by_group.shape[-1])
            worth = by_group.topk(best, -1).values.sum(-1)
            chosen = torch.zeros_like(worth, dtype=torch.bool)
            chosen.scatter_(1, worth.topk(self.config.top_groups, -1).indices, True)
            scores = by_group.masked_fill(~chosen[..., None], float("-inf")).flatten(1)
        return scores.topk(self.top_k, -1, sorted=False).indices

    @torch.no_grad()
    def update_bias(self) -> None:
        """Move the bias towards equal load and start counting anew.

        By the loads that this rank has counted: ranks that share a router call `update_biases`, which adds
        theirs up first.
        """
        load = self.load.float()
        if self.bias.dtype != torch.float32:  # cast in place, as wrappers with mixed precision do
            self.bias = self.bias.float()
        self.bias += self.config.bias_rate * torch.sign(load.mean() - load)
        self.load.zero_()
