"""Experts that transformers keeps in ways of its own, each with a class that computes them in place.

Unlike those of `use_experts_implementation` they have no common layout, so each class says where its weights lie and
how its module is called. All take their module's place as `ConvertedExperts` does: same weights, same names.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pauca.moe.layer.experts import ExpertBank
from pauca.moe.models.expert_kinds import ExpertKind, kind_by_activation, kind_of


class ConvertedExperts(ExpertBank):
    """Experts of a transformers model: pauca's computation on weights that keep their names."""

    _kind: ExpertKind
    _original: tuple[type[nn.Module], tuple[str, ...]]  # its class, and the attributes that conversion added
    is_whole_layer = False
    """Whether the module does more than its experts: is called otherwise, or holds more than their weights."""

    @classmethod
    def kind(cls, module: Any) -> ExpertKind | str:
        """What a module of transformers holds, or why it cannot be converted."""
        return kind_of(module)

    @staticmethod
    def stored(module: Any, kind: ExpertKind) -> tuple[Tensor, ...]:
        """The weights of a module, converted or not."""
        return getattr(module, kind.gate_up), getattr(module, kind.down)

    @staticmethod
    def views(module: Any, kind: ExpertKind) -> tuple[Tensor, Tensor]:
        """Its weights in pauca's layout."""
        return kind.weights(module)

    @property
    def gate_up(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.views(self, self._kind)[0]

    @property
    def down(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.views(self, self._kind)[1]

    @property
    def biases(self) -> tuple[Tensor | None, Tensor | None]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._kind.biases(self)

    def masters(self) -> tuple[Tensor, ...]:
        return self.stored(self, self._kind)

    def parts(self) -> tuple[str, ...] | str:
        # FC2's bias is added where a token is, and stays whole.
        bias = (f"{self._kind.gate_up}_bias",) if self._kind.gate.biased else ()
        return self._kind.gate_up, self._kind.down, *bias


class ConvertedLongcatExperts(ConvertedExperts):
    """LongCat-Flash: choices beyond the experts that have weights give the token itself.

    Such a choice is computed by some expert, with weight zero: rows that add nothing.
    """

    is_whole_layer = True

    num_routed_experts: int
    gate_up_proj: Tensor

    def parts(self) -> tuple[str, ...] | str:
        if len(self.gate_up_proj) > self.num_routed_experts:
            return (
                "its gate_up_proj has rows for the experts that do nothing, too, so that ranks cannot share it evenly"
            )
        return super().parts()

    @classmethod
    def kind(cls, module: Any) -> ExpertKind | str:
        return kind_by_activation(module.act_fn)

    @staticmethod
    def views(module: Any, kind: ExpertKind) -> tuple[Tensor, Tensor]:
        return module.gate_up_proj[: module.num_routed_experts], module.down_proj

    def forward(self, x: Tensor, expert_ids: Tensor, probabilities: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        identity = expert_ids >= self.num_routed_experts
        y = super().forward(x, expert_ids % self.num_routed_experts, probabilities.masked_fill(identity, 0))
        return y + x * probabilities.masked_fill(~identity, 0).sum(1, keepdim=True).to(x.dtype)


class ConvertedDbrxExperts(ConvertedExperts):
    """DBRX: gate and up are matrices apart, which each pass copies into one and does not keep so."""

    is_whole_layer = True

    @classmethod
    def kind(cls, module: Any) -> ExpertKind | str:
        return kind_by_activation(module.mlp.activation_fn)

    @staticmethod
    def stored(module: Any, kind: ExpertKind) -> tuple[Tensor, ...]:
        return module.mlp.w1, module.mlp.v1, module.mlp.w2

    @staticmethod
    def views(module: Any, kind: ExpertKind) -> tuple[Tensor, Tensor]:
        return torch.cat(ConvertedDbrxExperts._gate_and_up(module), 1), ConvertedDbrxExperts._down(module)

    @staticmethod
    def _gate_and_up(module: Any) -> tuple[Tensor, ...]:
        return tuple(weight.unflatten(0, (-1, module.ffn_hidden_size)) for weight in (module.mlp.w1, module.mlp.v1))

    def gate_up_parts(self) -> tuple[Tensor, ...]:
        return self._gate_and_up(self)

    @staticmethod
    def _down(module: Any) -> Tensor:
        return module.mlp.w2.unflatten(0, (-1, module.ffn_hidden_size)).transpose(1, 2)

    @property
    def down(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._down(self)  # without the copy that `views` makes of the other

    def parts(self) -> tuple[str, ...] | str:
        return "mlp.w1", "mlp.v1", "mlp.w2"

    def forward(self, x: Tensor, expert_ids: Tensor, probabilities: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        y = super().forward(x.reshape(-1, x.shape[-1]), expert_ids, probabilities)
        return y.view(x.shape[0], -1, x.shape[-1])


class ConvertedLlama4Moe(ConvertedExperts):
    """Llama 4: the router's weight scales an expert's input, so each chosen copy is a token of its own."""

    is_whole_layer = True

    top_k: int
    hidden_dim: int
    router: Any
    shared_expert: Any

    @classmethod
    def kind(cls, module: Any) -> ExpertKind | str:
        return kind_by_activation(module.experts.act_fn)

    @staticmethod
    def stored(module: Any, kind: ExpertKind) -> tuple[Tensor, ...]:
        return module.experts.gate_up_proj, module.experts.down_proj

    @staticmethod
    def views(module: Any, kind: ExpertKind) -> tuple[Tensor, Tensor]:
        return module.experts.gate_up_proj.transpose(1, 2), module.experts.down_proj.transpose(1, 2)

    def parts(self) -> tuple[str, ...] | str:
        return "experts.gate_up_proj", "experts.down_proj"

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        tokens = hidden_states.reshape(-1, self.hidden_dim)
        scores, logits = self.router(tokens)
        ids = logits.topk(self.top_k, dim=1).indices
        copies = tokens[:, None] * scores.gather(1, ids)[..., None]
        one = torch.ones(ids.numel(), 1, device=ids.device)
        routed = super().forward(copies.flatten(0, 1), ids.reshape(-1, 1), one)
        return self.shared_expert(tokens) + routed.view(copies.shape).sum(1), logits


class ConvertedJetMoe(ConvertedExperts):
    """JetMoE: a softmax over the chosen logits, and one bias for the sum; its attention's experts stay as they are."""

    is_whole_layer = True

    router: Any
    bias: Tensor

    @classmethod
    def kind(cls, module: Any) -> ExpertKind | str:
        return kind_by_activation(module.activation)

    @staticmethod
    def stored(module: Any, kind: ExpertKind) -> tuple[Tensor, ...]:
        return module.input_linear.weight, module.output_linear.weight

    @staticmethod
    def views(module: Any, kind: ExpertKind) -> tuple[Tensor, Tensor]:
        return module.input_linear.weight, module.output_linear.weight

    def parts(self) -> tuple[str, ...] | str:
        return "input_linear.weight", "output_linear.weight"

    def forward(self, layer_input: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        tokens = layer_input.reshape(-1, layer_input.shape[-1])
        chosen, ids = self.router.layer(tokens).float().topk(self.router.top_k, dim=1)
        return super().forward(tokens, ids, chosen.softmax(1)).view(layer_input.shape) + self.bias


_OTHERS: dict[str, type[ConvertedExperts]] = {
    "Step3p7Experts": ConvertedExperts,
    "LongcatFlashExperts": ConvertedLongcatExperts,
    "DbrxExperts": ConvertedDbrxExperts,
    "Llama4TextMoe": ConvertedLlama4Moe,
    "JetMoeMoE": ConvertedJetMoe,
}
_REFUSED = {
    "SwitchTransformersExperts": "each expert is a module of its own",
    "NllbMoeExperts": "each expert is a module of its own",
    "DogeCDMoE": "its experts are single rows of an embedding",
}


def conversion_of(module: nn.Module) -> type[ConvertedExperts] | str | None:
    """The class that computes a module's experts, or why there is none, or None for modules that hold no experts."""
    if isinstance(module, ConvertedExperts):
        return type(module)
    if {"has_bias", "is_transposed"} <= vars(module).keys():  # of `use_experts_implementation`
        return ConvertedExperts
    name = type(module).__name__
    if name in _REFUSED:
        return f"{_REFUSED[name]}; keep its own"
    return _OTHERS.get(name)
