"""Expert parallelism: each rank holds some of a layer's experts, and tokens travel to them and back.

Forward sends each token once to each rank that holds one of its experts, in the format in which the recipe keeps it
(MXFP4: what arrives is what is kept, quantized once), and gets the weighted sum of that rank's experts back in BF16.
Backward sends the output's gradient the same way (FP8 under fp8 and fp4) and gets the input's back in BF16. All is of
`torch.distributed`: NCCL between GPUs, gloo between CPUs.

A device mesh says who does what. Along its dimension "ep" ranks divide the experts; along any other they hold the same
ones. Every rank has tokens of its own.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, cast
from zlib import crc32

import torch
from jaxtyping import BFloat16, Float, Int, Int32
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from pauca.errors import ConfigError
from pauca.moe import ops
from pauca.moe.layer import passes
from pauca.moe.layer.call import ExpertCall, recall, remember
from pauca.moe.layer.derivatives import first_derivative_only
from pauca.moe.layer.experts import ExpertBank, add_down_bias
from pauca.moe.layer.kept import from_bytes, to_bytes
from pauca.moe.layer.passes import Gradients, Wanted, quantize
from pauca.moe.layer.permutation import Permutation, sort_by_expert
from pauca.moe.layer.recipe import Format, Recompute
from pauca.moe.layer.rotation import rotate_input, rotate_weights
from pauca.moe.ops.formats import Fp8Tensor, Stored
from pauca.moe.parallel.exchange import (
    Exchange,
    Journey,
    arrange_exchange,
    bounded_exchange,
    require_equal_tokens,
    routing_rows,
)
from pauca.moe.parallel.ranks import Ranks
from pauca.moe.parallel.wire import gradient_format, wire_format


class ParallelExperts(ExpertBank):
    """This rank's part of a bank of experts; `parallelize` makes a bank one.

    `gate_up` and `down` hold this rank's experts alone. In a state dict they are DTensors, sharded over "ep": what
    `torch.distributed.checkpoint` stores once, whole, and loads on any number of ranks. A plain state dict of all
    experts, as one process writes it, can be loaded too.
    """

    def _join(self, ranks: Ranks, parts: tuple[str, ...], dispatch: Format | None, overlap: bool, name: str) -> None:
        """Become one of the ranks' parts; the weights are still those of all experts."""
        self._ranks, self._parts, self._name, self.total = ranks, parts, name, len(self.down)
        self.dispatch: Format | None = dispatch
        self.overlap = overlap
        self.bounded = False
        """Send every token to every rank, so that the host never waits for the GPU, and a CUDA graph can hold it all.
        All ranks must then have the same number of tokens; their CPUs compare that before each forward."""
        self._configure(self.recipe, self.recompute)  # without copies of the weights before
        self.register_state_dict_post_hook(_name_shards)
        self.register_load_state_dict_pre_hook(_take_shards)

    def divided(self) -> dict[str, nn.Parameter]:
        """By name, the weights of which each rank holds those of its own experts."""
        return {name: self.get_parameter(name) for name in self._parts}

    @property
    def _own(self) -> slice:
        """Which of all experts are here."""
        each = self.total // self._ranks.count
        return slice(self._ranks.place * each, (self._ranks.place + 1) * each)

    def reset_parameters(self) -> None:
        """Draw all experts one by one and keep one's own, so that the same seed everywhere gives different experts."""
        own = self._own
        for weight in (self.gate_up, self.down):
            for expert in range(self.total):
                drawn = torch.empty_like(weight[0]).normal_(std=weight.shape[2] ** -0.5)
                if own.start <= expert < own.stop:
                    weight.data[expert - own.start] = drawn

    @torch.compiler.disable
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        x: Float[Tensor, "tokens hidden"],
        expert_ids: Int[Tensor, "tokens top_k"],
        probabilities: Float[Tensor, "tokens top_k"],
        shared: Callable[[Tensor], Tensor] | None = None,
        *,
        checked: bool = False,
    ) -> Float[Tensor, "tokens hidden"]:
        """What `Experts` computes; all ranks along "ep" must call it together, with any number of tokens, even none.

        `expert_ids` count over all ranks' experts. Waits for the device once, to learn how much arrives.
        """
        self._refuse_averaging()
        if not checked:
            self._check_call(x, expert_ids, probabilities)
        with torch.autocast(x.device.type, enabled=False):
            tokens, weights, gate_up = x.bfloat16().contiguous(), probabilities.float(), self.gate_up
            if self.recipe.rotate:
                tokens, gate_up = rotate_input(tokens), rotate_weights(gate_up)
            dispatched = self._send(tokens, expert_ids, weights, self._fingerprint(tokens, gate_up, weights))
        addend = None if shared is None or not self.overlap else _beside(shared, x)
        gate_up_bias, down_bias = self.biases
        with torch.autocast(x.device.type, enabled=False):
            y = _ParallelExperts.apply(
                tokens, gate_up, self.down, weights, gate_up_bias, dispatched, self._recipe_text, self.recompute,
                self._gate_text, *self._prepared_weights(),
            )  # fmt: skip
            y = add_down_bias(y, expert_ids, probabilities, down_bias).to(x.dtype)
        if shared is None:
            return y
        return y + (shared(x) if addend is None else addend())

    def _refuse_averaging(self) -> None:
        """Ranks hold different experts; what takes them for copies of each other would spoil them without a word.

        Raises:
            ConfigError: this forward is one of `DistributedDataParallel` over several of these ranks, and it was not
                told to leave them alone.
        """
        around = DistributedDataParallel._get_active_ddp_module()
        if around is None or all(getattr(weight, "_ddp_ignored", False) for weight in self.divided().values()):
            return
        unlike, alike = map(dist.get_process_group_ranks, (self._ranks.group, around.process_group))
        if len(set(unlike) & set(alike)) > 1:  # else it averages what ranks hold copies of
            raise ConfigError(
                f"layer {self._name!r}: DistributedDataParallel gives every rank the first one's experts and averages "
                "what belongs to different ones; leave it out and call average_gradients after backward, or use "
                "fully_shard"
            )

    @torch.no_grad()
    def _send(self, x: Tensor, expert_ids: Tensor, probabilities: Tensor, fingerprint: int) -> "_Dispatched":
        format_, each = wire_format(self.recipe, self.dispatch), len(self.down)
        quantized = quantize(x, format_, self.recipe)  # before the host waits, so that the GPU has something to do
        if self.bounded:
            if not (x.is_cuda and torch.cuda.is_current_stream_capturing()):  # recorded as the steps before it
                require_equal_tokens(len(x), fingerprint, self._ranks.group, self._ranks.group_of_cpus)
            exchange = bounded_exchange(expert_ids, each, self._ranks.group)
        else:
            exchange = arrange_exchange(expert_ids, each, self._ranks.group, fingerprint)
        # First, so that rows are put in order while tokens travel.
        rows = exchange.row_to_token, exchange.row_to_rank
        routing = exchange.send([routing_rows(expert_ids, probabilities, *rows, each)])
        tokens = exchange.send(to_bytes(exchange.rows(quantized)))
        return _Dispatched(exchange, routing, tokens, format_, x.shape[1])

    def _fingerprint(self, x: Tensor, gate_up: Tensor, probabilities: Tensor) -> int:
        """A digest of what must be the same on every rank for one forward and backward to fit together, of 31 bits."""
        differentiable = (x, probabilities, gate_up, self.down, self.biases[0])
        wanted = [torch.is_grad_enabled() and tensor is not None and tensor.requires_grad for tensor in differentiable]
        sizes = [probabilities.shape[1], *self.down.shape]
        text = json.dumps(
            [self._name, sizes, self._recipe_text, self.recompute, self.dispatch, self._gate_text, wanted]
        )
        return crc32(text.encode()) >> 1

    def as_shard(self, own: Tensor) -> DTensor:
        """This rank's experts, or what `fully_shard` has left it of them, as a part of all experts; nothing travels."""
        if not isinstance(own, DTensor):
            return DTensor.from_local(own, self._ranks.experts_mesh, [Shard(0)], run_check=False)
        over = own.device_mesh.mesh_dim_names
        mesh = self._ranks.mesh_of_parts(over[0]) if over and own.placements == (Shard(0),) else None
        if mesh is None:  # divided in another way
            return DTensor.from_local(own.full_tensor(), self._ranks.experts_mesh, [Shard(0)], run_check=False)
        shape = torch.Size((len(own) * self._ranks.count, *own.shape[1:]))
        return DTensor.from_local(
            own.to_local(), mesh, [Shard(0), Shard(0)], run_check=False, shape=shape, stride=own.stride()
        )

    def from_shard(self, value: Tensor, like: Tensor) -> Tensor:
        """A rank's experts, laid out like one of its tensors, from its shard or from all experts."""
        if isinstance(value, DTensor) and value.device_mesh.ndim == 2 and isinstance(like, DTensor):
            return DTensor.from_local(
                value.to_local(), like.device_mesh, like.placements, run_check=False, shape=like.shape,
                stride=like.stride(),
            )  # fmt: skip
        if isinstance(value, DTensor) and value.device_mesh == self._ranks.experts_mesh:
            value = value.to_local()
        elif not isinstance(value, DTensor) and len(value) == len(like) * self._ranks.count:
            value = own_of(value, self._ranks)
        if isinstance(like, DTensor) and not isinstance(value, DTensor):
            return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
        return value

    def extra_repr(self) -> str:
        own = self._own
        return f"experts {own.start} to {own.stop - 1} of {self.total}, {super().extra_repr()}"


class ParallelOtherExperts(ParallelExperts):
    """This rank's part of experts that keep the names and the layout that another library gave their weights."""

    _kind: Any  # where the weights lie: `pauca.moe.models.expert_kinds.ExpertKind`

    @property
    def gate_up(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._kind.weights(self)[0]

    @property
    def down(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._kind.weights(self)[1]

    @property
    def biases(self) -> tuple[Tensor | None, Tensor | None]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._kind.biases(self)

    def masters(self) -> tuple[Tensor, ...]:
        return getattr(self, self._kind.gate_up), getattr(self, self._kind.down)


def divide_banks(
    banks: Mapping[str, ExpertBank], mesh: DeviceMesh, dispatch: Format | None = None, overlap: bool = True
) -> list[ParallelExperts]:
    """Leave of banks of experts this rank's part, where they stand; see `parallelize`.

    Modules and parameters stay the objects that they are: hooks, and an optimizer that was made before, go on with
    them. One weight is divided after the other, the largest first, so that there is never more than the model and a
    part of one: memory that suffices for that one suffices for all.

    Args:
        banks: by names that are the same on all ranks, which tell layers apart where their sizes do not.
        mesh: see `parallelize`, as for the rest.
    """
    divided, ranks = [], Ranks(mesh)
    for name, bank in banks.items():
        parts = check_division(bank, ranks, dispatch)
        bank.__class__ = _divided_class(bank)  # pyright: ignore[reportAttributeAccessIssue]
        assert isinstance(bank, ParallelExperts)
        bank._join(ranks, parts, dispatch, overlap, name)
        divided.append(bank)
    weights = {weight for bank in divided for weight in bank.divided().values()}  # shared ones once
    for weight in sorted(weights, key=lambda weight: weight.nbytes, reverse=True):
        own = own_of(weight, ranks)
        # A graph of before knows the whole weight's shape. Another type makes autograd begin anew with this parameter.
        weight.grad, weight.data = None, own.new_empty(0, dtype=torch.float64)
        weight.data = own
    return divided


def check_division(whole: ExpertBank, ranks: Ranks, dispatch: Format | None) -> tuple[str, ...]:
    """The names of a bank's weights to divide over ranks.

    Raises:
        ConfigError: they cannot be divided, or not sent so.
    """
    total, parts = len(whole.down), whole.parts()
    if total % ranks.count:
        raise ConfigError(
            f"{total} experts cannot be divided evenly by {ranks.count} ranks: "
            "choose a number of ranks that divides them"
        )
    if isinstance(parts, str):
        raise ConfigError(f"{parts}: cannot be divided over ranks")
    if any(isinstance(whole.get_parameter(part), DTensor) for part in parts):
        raise ConfigError("call parallelize before fully_shard, which has divided the experts' weights already")
    wire_format(whole.recipe, dispatch)
    return parts


def own_of(weight: Tensor, ranks: Ranks) -> Tensor:
    """Of a weight of all experts, [experts, ...] or its first two dimensions as one, this rank's part."""
    rows = len(weight) // ranks.count
    return weight.detach()[ranks.place * rows : (ranks.place + 1) * rows].clone()


def _divided_class(whole: ExpertBank) -> type[ParallelExperts]:
    """What computes a bank once it is divided.

    A layer that does more than its experts (its router and shared experts in one module with them) keeps what it does
    around them, and another class computes its experts.
    """
    if getattr(whole, "is_whole_layer", False):
        return cast(type[ParallelExperts], _around_divided(cast(Any, type(whole))))
    return ParallelExperts if getattr(whole, "_kind", None) is None else ParallelOtherExperts


@cache
def _around_divided(layer: type[ExpertBank]) -> type[ExpertBank]:
    """A layer's class with `ParallelExperts` in the place of the bank that it calls."""
    return type(f"Parallel{layer.__name__}", (layer, ParallelExperts), {})  # pyright: ignore[reportGeneralTypeIssues]


def _name_shards(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """In a state dict, weights of the experts are parts of a whole."""
    assert isinstance(module, ParallelExperts)
    for name in module._parts:
        state[prefix + name] = module.as_shard(state[prefix + name])


def _take_shards(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    assert isinstance(module, ParallelExperts)
    for name, own in module.divided().items():
        if prefix + name in state:
            state[prefix + name] = module.from_shard(state[prefix + name], own)


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def _beside(shared: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], Tensor]:
    """Begin `shared(x)` on a stream of its own, where there are streams; the result is a function that waits for it.

    Autograd runs backward on the streams of forward, and so beside backward's journeys too.
    """
    if x.device.type != "cuda":
        y = shared(x)  # while the sockets work
        return lambda: y
    main, side = torch.cuda.current_stream(x.device), _side_stream(x.device)
    side.wait_stream(main)
    with torch.cuda.stream(side):
        y = shared(x)
    x.record_stream(side)  # backward on that stream may be the last to read it

    def wait() -> Tensor:
        main.wait_stream(side)
        y.record_stream(main)
        return y

    return wait


@dataclass(frozen=True)
class _Dispatched:
    """Tokens under way to their experts."""

    exchange: Exchange
    routing: Journey
    tokens: Journey
    format: Format
    hidden: int

    def routing_here(self) -> tuple[Int32[Tensor, "rows top_k"], Float[Tensor, "rows top_k"]]:
        """Which experts of this rank each arriving token visits, PADDING for others, and with what weights."""
        (routing,) = self.routing.arrive()
        ids, weights = (half.contiguous() for half in routing.chunk(2, 1))
        return ids, weights.view(torch.float32)

    def tokens_here(self) -> Stored:
        return cast(Stored, from_bytes(self.tokens.arrive(), self.format, self.hidden))


class _ParallelExperts(torch.autograd.Function):
    """Experts on tokens that arrive; outputs travel back. Backward retraces both ways, and routes nothing again."""

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        gate_up: Tensor,
        down: Tensor,
        probabilities: Tensor,
        gate_up_bias: Tensor | None,
        dispatched: _Dispatched,
        recipe: str,
        recompute: Recompute,
        gate: str,
        *prepared: Tensor,
    ) -> Tensor:
        exchange = dispatched.exchange
        ids, weights = dispatched.routing_here()
        permutation = sort_by_expert(ids, len(down), exchange.copies)
        tokens = dispatched.tokens_here()
        call = ExpertCall(gate_up, down, weights, permutation, list(prepared), recipe, recompute, gate, gate_up_bias)
        y_rows, kept = passes.forward(call, tokens) if len(ids) else (x.new_empty(0, x.shape[1]), [])
        ctx.exchange, ctx.prepared = exchange, len(prepared)
        remember(ctx, call, tokens, kept)
        return _sum_outputs(exchange.send_back([y_rows]), exchange)

    @staticmethod
    @first_derivative_only
    def backward(ctx, dy: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        call, x, kept = recall(ctx)
        exchange, format_ = ctx.exchange, gradient_format(call.recipe)
        journey = exchange.send(to_bytes(exchange.rows(quantize(dy.contiguous(), format_, call.recipe))))
        dy_rows = cast(Tensor | Fp8Tensor, from_bytes(journey.arrive(), format_, dy.shape[1]))
        if len(call.probabilities):
            needs = ctx.needs_input_grad
            wanted = Wanted(needs[0], needs[1], needs[2], needs[4])
            gradients = passes.backward(call, dy_rows, kept, x, wanted)
        else:
            gradients = _gradients_of_nothing(call, dy)
        wanted_x, wanted_probabilities = ctx.needs_input_grad[0], ctx.needs_input_grad[3]
        dx = exchange.send_back([cast(Tensor, gradients.x)]) if wanted_x else None
        d_weights = exchange.send_back([_by_choice(gradients, call.permutation)]) if wanted_probabilities else None
        return (
            _sum_outputs(dx, exchange) if dx else None,
            gradients.gate_up,
            gradients.down,
            _sum_choices(d_weights, exchange) if d_weights else None,
            gradients.gate_up_bias,
            *(None,) * (4 + ctx.prepared),
        )


def _gradients_of_nothing(call: ExpertCall, dy: Tensor) -> Gradients:
    """The gradients on a rank that no token visits: weights that stood still, not weights without a gradient."""
    nothing = dy.new_empty(0, dtype=torch.float32)
    bias = None if call.gate_up_bias is None else torch.zeros_like(call.gate_up_bias)
    return Gradients(dy[:0], torch.zeros_like(call.gate_up), torch.zeros_like(call.down), nothing, bias)


def _sum_outputs(journey: Journey, exchange: Exchange) -> BFloat16[Tensor, "tokens hidden"]:
    """What the experts' ranks give back, summed for each token in FP32 and in a fixed order."""
    (rows,) = journey.arrive()
    return ops.combine(rows, exchange.token_to_rows)


def _by_choice(gradients: Gradients, permutation: Permutation) -> Float[Tensor, "arrived top_k"]:
    """The weights' gradients of the tokens that arrived; 0 for choices whose experts are elsewhere."""
    # PADDING is -1: it names the last element, which is the zero put behind the rows.
    return nn.functional.pad(gradients.row_probability, (0, 1))[permutation.copy_to_row]


def _sum_choices(journey: Journey, exchange: Exchange) -> Float[Tensor, "tokens top_k"]:
    """Every choice has its gradient from one rank; the others say 0."""
    (rows,) = journey.arrive()
    return nn.functional.pad(rows, (0, 0, 0, 1))[exchange.token_to_rows].sum(1)
