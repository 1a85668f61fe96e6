"""Models of `transformers` with pauca's experts: the same modules and weights under the same names, another forward.

transformers 5 keeps the experts of a layer in one module with two weights, `gate_up_proj` [experts, 2 width, hidden]
and `down_proj` [experts, hidden, width]: pauca's own layout. So a conversion moves nothing. It gives those modules
another class (as `fully_shard` does), and all else stays with the model: its router, its shared experts, the names of
its weights, optimizers and hooks that hold them.

Attention's projections are converted on request (`projections`), and so are dense and shared feed-forwards
(`feed_forwards`).
"""

from collections.abc import Mapping
from importlib import metadata
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pauca.errors import ConfigError, InputError, PaucaError
from pauca.moe.layer.experts import ExpertBank, checked_recipe
from pauca.moe.layer.kept import kept_formats
from pauca.moe.layer.recipe import RECIPES, Precision, Recipe, Recompute
from pauca.moe.models.expert_kinds import ExpertKind
from pauca.moe.models.feed_forwards import (
    ConvertedFeedForward,
    check_feed_forwards,
    convert_feed_forwards,
)
from pauca.moe.models.other_experts import ConvertedExperts, conversion_of
from pauca.moe.models.projections import convert_projections, restore_projections

AnyModule = TypeVar("AnyModule", bound=nn.Module)
SUPPORTED_MAJOR = "5"
"""The major version of transformers that is supported: since 5.0 experts are stored fused."""


def convert(
    model: AnyModule,
    recipe: Recipe,
    recompute: Recompute = "none",
    projections: Precision = "bf16",
    feed_forwards: Precision = "bf16",
) -> AnyModule:
    """Let pauca compute the routed experts of a transformers model, in place.

    No weight is copied or renamed, and routers stay the model's own: checkpoints, `generate`, auxiliary losses and
    optimizers do not notice. Convert before wrapping (DDP, FSDP, PEFT).

    Args:
        model: a model, or a part of one: `model.model.layers[3:]` leaves the first three layers as they are. Converting
            a part again changes its recipe.
        recipe: numerics. `Recipe.bf16()` differs from the original by rounding; of an FP32 model too, experts are
            computed in BF16.
        recompute: what backward computes again rather than keep. Never the routing.
        projections: numerics of attention's linear layers (those within modules whose class ends in Attention, with
            sizes that are multiples of 32): as they are; or products in FP8 whose input is kept in FP8 (fp8) or MXFP4
            (fp4). Not measured on a GPU.
        feed_forwards: numerics of dense and shared feed-forwards (two or three linear layers and an activation that
            pauca computes, with sizes that are multiples of 32): as they are; or each computed and kept as one expert
            that every token visits, by the recipe fp8 or fp4. Models without experts can be converted so, too. Not
            measured on a GPU.

    Returns:
        The model.

    Raises:
        InputError: no experts in there, or of a kind that pauca does not compute; nothing is changed then.
        ConfigError: a recipe that cannot hold the sizes of the experts; numerics that there are not.
        PaucaError: transformers is missing, or not of a supported version.

    Examples:
        >>> model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen3-30B-A3B", dtype=torch.bfloat16)
        >>> convert(model, Recipe.fp4())
    """
    require_transformers()
    for option, value in (("projections", projections), ("feed_forwards", feed_forwards)):
        if value not in RECIPES:
            raise ConfigError(f"{option} must be bf16, fp8 or fp4, got {value!r}")
    for name, module in model.named_modules():
        if isinstance(module, ExpertBank) and module._ranks is not None:
            raise InputError(f"{name} is divided over ranks: convert before parallelize; its `recipe` may be set later")
    modules = {name: (module, conversion_of(module)) for name, module in model.named_modules()}
    found = {name: (module, target) for name, (module, target) in modules.items() if target is not None}
    if not found and feed_forwards == "bf16" and not any(isinstance(m, ConvertedFeedForward) for m in model.modules()):
        raise InputError(
            f"no experts found in {type(model).__name__}: none of its modules holds them as transformers' "
            "mixture-of-experts models do, in gate_up_proj and down_proj; without experts give feed_forwards"
        )
    for name, (module, target) in found.items():
        _check(name or type(module).__name__, module, target, recipe)
    kept_formats(recipe, recompute)  # refuses an unknown mode
    dense = check_feed_forwards(model, feed_forwards)
    own = {name: m for name, m in model.named_modules() if isinstance(m, ConvertedFeedForward) and name not in dense}
    _check_restorable(own)
    convert_projections(model, projections, recipe)
    convert_feed_forwards(model, dense, feed_forwards, recipe, recompute)
    for module in own.values():
        _restore(module)
    for module, target in found.values():
        assert not isinstance(target, str)
        _convert_module(module, target, recipe, recompute)
    return model


def unconvert(model: AnyModule) -> AnyModule:
    """Undo `convert`, in place: the model's own experts compute again, with the weights as they are now.

    Raises:
        InputError: converted modules that are in use by `frozen_weights`, or were wrapped since.
    """
    for name, module in model.named_modules():
        if isinstance(module, ExpertBank) and module._ranks is not None:
            raise InputError(f"{name} is divided over ranks: gather its weights and load them into the original model")
    kinds = ConvertedExperts, ConvertedFeedForward
    converted = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    _check_restorable(converted)
    restore_projections(model)
    for module in converted.values():
        _restore(module)
    return model


def _check_restorable(converted: Mapping[str, ConvertedExperts | ConvertedFeedForward]) -> None:
    for name, module in converted.items():
        if type(module).__module__ not in (ConvertedExperts.__module__, ConvertedFeedForward.__module__):
            raise InputError(f"{name} has been wrapped since its conversion ({type(module).__name__}): unwrap it first")
        if module._frozen:
            raise InputError(f"{name} is in use by frozen_weights: leave it first")


def _restore(module: Any) -> None:
    original_class, settings = module._original
    for setting in settings:
        delattr(module, setting)
    module.__class__ = original_class


def _convert_module(module: nn.Module, target: type[ConvertedExperts], recipe: Recipe, recompute: Recompute) -> None:
    if isinstance(module, ConvertedExperts):
        module.recipe, module.recompute = recipe, recompute
        return
    original_class, before, kind = type(module), set(vars(module)), target.kind(module)
    assert isinstance(kind, ExpertKind)
    module.__class__ = target
    assert isinstance(module, ConvertedExperts)
    module._kind, module._gate_text = kind, kind.gate_text
    module._configure(recipe, recompute)
    module._original = original_class, (*(vars(module).keys() - before), "_original")


def require_transformers() -> None:
    try:
        installed = metadata.version("transformers")
    except metadata.PackageNotFoundError as error:
        raise PaucaError("transformers is not installed: pip install 'pauca[hf]'") from error
    if installed.split(".")[0] != SUPPORTED_MAJOR:
        raise PaucaError(
            f"transformers {installed} stores experts in a way that pauca does not know: "
            f"pip install 'transformers>={SUPPORTED_MAJOR},<{int(SUPPORTED_MAJOR) + 1}'"
        )


def _check(name: str, experts: Any, found: type[ConvertedExperts] | str, recipe: Recipe) -> None:
    """Refuse experts that pauca cannot compute as they are."""
    named = f"{name} ({type(experts).__name__})"
    if isinstance(found, str):
        raise InputError(f"{named} cannot be converted: {found}")
    kind = experts._kind if isinstance(experts, ConvertedExperts) else found.kind(experts)
    if isinstance(kind, str):
        raise InputError(f"{named} cannot be converted: {kind}")
    if not isinstance(experts, ConvertedExperts):
        for weight in found.stored(experts, kind):
            reason = _refusal_of_weight(weight)
            if reason is not None:
                raise InputError(f"{named} cannot be converted: {reason}")
    _, hidden, width = found.views(experts, kind)[1].shape
    try:
        checked_recipe(recipe, hidden, width)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def _refusal_of_weight(weight: Tensor) -> str | None:
    if type(weight) is not nn.Parameter:
        return f"its weights are wrapped ({type(weight).__name__}): convert before sharding, without quantization"
    if weight.dtype not in (torch.bfloat16, torch.float32):
        return f"its weights are {weight.dtype}: load the model in bfloat16 or float32"
    return None
