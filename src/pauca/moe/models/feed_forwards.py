"""Dense and shared feed-forwards of a transformers model in few bits: a bank of one expert that every token visits.

Where each of its three linear layers would keep an input, and the gate what it multiplies, a bank keeps its input and
FC1's output in the recipe's format, and nothing else. The layers stay where they are, with their names and weights.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn

from pauca.errors import InputError
from pauca.moe.layer.experts import ExpertBank
from pauca.moe.layer.recipe import RECIPES, Precision, Recipe, Recompute
from pauca.moe.models.expert_kinds import find_gate
from pauca.moe.models.restorable import becoming
from pauca.moe.ops.formats import BLOCK
from pauca.moe.ops.gates import Gate


@dataclass(frozen=True)
class FeedForwardKind:
    """A feed-forward's linear layers by name, and its gate."""

    fc1: tuple[str, ...]  # gate and up, or one layer that gives both
    down: str
    gate: Gate


class ConvertedFeedForward(ExpertBank):
    """A feed-forward of a transformers model: pauca's computation on linear layers that keep their names."""

    _kind: FeedForwardKind
    _original: tuple[type[nn.Module], tuple[str, ...]]  # its class, and the attributes that conversion added

    def _layers(self) -> list[Any]:
        """Those of FC1, and FC2's."""
        return [self.get_submodule(name) for name in (*self._kind.fc1, self._kind.down)]

    @property
    def gate_up(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return torch.cat(self.gate_up_parts(), 1)

    @property
    def down(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._layers()[-1].weight[None]

    @property
    def biases(self) -> tuple[Tensor | None, Tensor | None]:  # pyright: ignore[reportIncompatibleVariableOverride]
        *fc1, last = (layer.bias for layer in self._layers())
        return None if fc1[0] is None else torch.cat(fc1)[None], None if last is None else last[None]

    def gate_up_parts(self) -> tuple[Tensor, ...]:
        return tuple(layer.weight[None] for layer in self._layers()[:-1])

    def masters(self) -> tuple[Tensor, ...]:
        return tuple(layer.weight for layer in self._layers())

    def forward(self, *tokens: Any, **named: Any) -> Any:
        given = (*tokens, *named.values())
        # An adapter's layer, or one with a hook, does more than a product with its weight. So may an activation.
        are_linear = all(type(layer) is nn.Linear for layer in self._layers())
        if len(given) != 1 or not are_linear or any(map(_is_watched, [*self.modules()][1:])):
            return self._original[0].forward(self, *tokens, **named)
        x: Tensor = given[0]
        rows = x.reshape(-1, x.shape[-1])
        everyone = torch.zeros(len(rows), 1, dtype=torch.int64, device=x.device)
        return super().forward(rows, everyone, torch.ones_like(everyone, dtype=torch.float32)).view(x.shape)


def find_feed_forwards(model: nn.Module) -> tuple[dict[str, FeedForwardKind], dict[str, str]]:
    """The feed-forwards that pauca computes, by name; and why it does not compute others.

    They are found by what they do: two or three linear layers and an activation, which read and give the same channels.
    """
    found: dict[str, FeedForwardKind] = {}
    refused: dict[str, str] = {}
    for name, module in model.named_modules():
        kind = module._kind if isinstance(module, ConvertedFeedForward) else _kind_of(module)
        if isinstance(kind, str):
            refused[name] = kind
        elif kind is not None:
            found[name] = kind
    return found, refused


def check_feed_forwards(model: nn.Module, precision: Precision) -> dict[str, FeedForwardKind]:
    """Those that `convert_feed_forwards` is to convert; none for bf16.

    Raises:
        InputError: there are none, or their weights are neither BF16 nor FP32.
    """
    if precision == "bf16":
        return {}
    found, refused = find_feed_forwards(model)
    if not found:
        reasons = [
            f"{name or 'the module'} ({type(model.get_submodule(name)).__name__}): {why}"
            for name, why in refused.items()
        ]
        raise InputError(
            f"no feed-forwards found in {type(model).__name__}: "
            + (reasons[0] if reasons else "none of its modules is two or three linear layers and an activation")
            + f", with sizes that are multiples of {BLOCK}; leave feed_forwards at bf16"
        )
    for name, kind in found.items():
        for layer in (*kind.fc1, kind.down):
            inner = f"{name}.{layer}" if name else layer
            weight = model.get_submodule(inner).weight
            if type(weight) is not nn.Parameter or weight.dtype not in (torch.bfloat16, torch.float32):
                what = getattr(weight, "dtype", type(weight).__name__)
                raise InputError(f"{inner}: its weights are {what}: load the model in bfloat16 or float32")
    return found


def convert_feed_forwards(
    model: nn.Module, found: dict[str, FeedForwardKind], precision: Precision, experts: Recipe, recompute: Recompute
) -> None:
    """Let pauca compute them, in place: by the experts' recipe where that is of the same precision."""
    recipe = experts
    if experts.precision != precision:
        recipe = replace(RECIPES[precision], scale_rule=experts.scale_rule, fast_accumulate=experts.fast_accumulate)
    for name, kind in found.items():
        module = model.get_submodule(name)
        if isinstance(module, ConvertedFeedForward):
            module.recipe, module.recompute = recipe, recompute
            continue
        with becoming(module, ConvertedFeedForward) as bank:
            bank._kind, bank._gate_text = kind, "" if kind.gate == Gate() else kind.gate.to_json()
            bank._configure(recipe, recompute)


def _is_watched(module: nn.Module) -> bool:
    """Whether a hook sees or changes what it computes, or another forward stands in its own's place (accelerate's)."""
    forward = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return bool(forward or module._backward_hooks or module._backward_pre_hooks)


def _kind_of(module: nn.Module) -> FeedForwardKind | str | None:
    """Of a module that consists of linear layers; None if it is none."""
    layers = {name: child for name, child in module.named_children() if type(child) is nn.Linear}
    if len(layers) not in (2, 3) or "forward" in vars(module):
        return None
    owned = {f"{name}.{kind}" for name in layers for kind in ("weight", "bias")}
    if {name for name, _ in module.named_parameters()} - owned or any(True for _ in module.buffers()):
        return None
    if any(hasattr(ConvertedFeedForward, name) for name in (*module._modules, *vars(module)) if name not in _OF_ANY):
        return None
    reason = None
    for *fc1, down in permutations(layers):
        if not _fit([layers[name] for name in fc1], layers[down]):
            continue
        gate = _gate_of(module, fc1, down, layers)
        if gate is not None:
            biased = layers[fc1[0]].bias is not None
            return FeedForwardKind((*fc1,), down, Gate(**{**vars(gate), "biased": biased}))
        reason = "what stands between its linear layers is none of the gates that pauca computes"
    return reason


_OF_ANY = {*vars(nn.Module()), *dir(nn.Module)}


def _fit(fc1: Sequence[nn.Linear], down: nn.Linear) -> bool:
    """Whether their sizes are those of FC1 and FC2."""
    hidden, width = down.weight.shape
    sizes = {tuple(layer.weight.shape) for layer in fc1}
    wanted = {(width, hidden)} if len(fc1) == 2 else {(width, hidden), (2 * width, hidden)}
    one_bias = len({layer.bias is None for layer in fc1}) == 1
    return len(sizes) == 1 and sizes <= wanted and one_bias and not hidden % BLOCK and not width % BLOCK


def _gate_of(module: nn.Module, fc1: Sequence[str], down: str, layers: dict[str, nn.Linear]) -> Gate | None:
    """The gate of which FC2 reads the result, if these layers are FC1 and FC2: the module is asked, with others."""
    if any(isinstance(child, nn.Dropout) and child.p for child in module.modules()):
        return None
    apart = len(fc1) == 2
    gated = apart or layers[fc1[0]].weight.shape[0] > layers[down].weight.shape[1]
    parts = [slice(0, 2), slice(2, 4)] if apart else [slice(None)]
    asked = nn.Module()
    vars(asked).update(vars(module) | {"training": True})  # dropout without a module of its own shows
    stand_ins = {name: _Channels(part) for name, part in zip(fc1, parts, strict=True)}
    others = {name: child for name, child in module.named_children() if name not in layers}
    others = nn.ModuleDict(copy.deepcopy(others)).train()._modules  # whose dropout shows, too
    asked._modules = module._modules | others | stand_ins | {down: _Channels(slice(None))}

    def between(probe: Tensor) -> Any:
        """Two sequences, and two channels each of gate and up: what mixes or reorders any of them shows."""
        pairs = torch.stack([probe, probe.flip(0)], 1 if interleaved else 2).flatten(1)
        try:
            result = type(module).forward(asked, torch.stack([pairs, pairs.roll(1, 0)]))  # pyright: ignore[reportCallIssue]
        except Exception:  # it asks for other arguments or shapes, or for what else its class has
            return None
        if not isinstance(result, Tensor) or result.shape != (2, len(probe), 2):
            return None
        own = result[0, :, :1]
        both = torch.cat([own, own.flip(0)], 1)
        return own if torch.allclose(result, torch.stack([both, both.roll(1, 0)]), rtol=1e-4, atol=1e-5) else None

    for interleaved in (False, True) if gated and not apart else (False,):
        gate = find_gate(module, between, gated, interleaved)
        if gate is not None:
            return gate
    return None


class _Channels(nn.Module):
    """Stands for a linear layer: gives some of its input's channels."""

    def __init__(self, part: slice) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return x[..., self.part]
