"""Models of `transformers` with pauca's experts: the same modules and weights under the same names, another forward.

transformers 5 keeps the experts of a layer in one module with two weights, `gate_up_proj` [experts, 2 width, hidden]
and `down_proj` [experts, hidden, width]: pauca's own layout. So a conversion moves nothing. It gives those modules
another class (as `fully_shard` does), and all else stays with the model: its router, its shared experts, the names of
its weights, optimizers and hooks that hold them.

Attention's projections are converted on request (`projections`), and so are dense and shared feed-forwards
(`feed_forwards`) and what RMS norms keep (`norms`).
"""

from collections.abc import Mapping
from importlib import metadata
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor, nn

from pauca.errors import ConfigError, InputError, PaucaError
from pauca.moe.layer.experts import ExpertBank, checked_recipe
from pauca.moe.layer.kept import kept_formats
from pauca.moe.layer.recipe import RECIPES, Format, Precision, Recipe, Recompute
from pauca.moe.models.expert_kinds import ExpertKind
from pauca.moe.models.feed_forwards import ConvertedFeedForward, check_feed_forwards, convert_feed_forwards
from pauca.moe.models.norms import ConvertedRMSNorm, check_norms, convert_norms
from pauca.moe.models.other_experts import ConvertedExperts, conversion_of
from pauca.moe.models.projections import ConvertedLinear, convert_projections, restore_projections
from pauca.moe.models.restorable import becoming, restore

AnyModule = TypeVar("AnyModule", bound=nn.Module)
SUPPORTED_MAJOR = "5"
"""The major version of transformers that is supported: since 5.0 experts are stored fused."""
_BY_OPTION = ConvertedFeedForward, ConvertedRMSNorm


def convert(
    model: AnyModule,
    recipe: Recipe,
    recompute: Recompute = "none",
    projections: Precision = "bf16",
    feed_forwards: Precision = "bf16",
    norms: Format | None = None,
) -> AnyModule:
    """Let pauca compute the routed experts of a transformers model, in place, and by option more of it.

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
            (fp4).
        feed_forwards: numerics of dense and shared feed-forwards (two or three linear layers and an activation that
            pauca computes, with sizes that are multiples of 32): as they are; or each computed and kept as one expert
            that every token visits, by the recipe fp8 or fp4.
        norms: format in which RMS norms keep their input for backward: as it is (bf16), in FP8 (fp8) or in MXFP4
            (mxfp4); None leaves them as they are, with an FP32 copy of it and more.

    Returns:
        The model.

    Raises:
        InputError: experts of a kind that pauca does not compute, or nothing of what is to be converted; nothing is
            changed then.
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
    if norms is not None and norms not in get_args(Format):
        raise ConfigError(f"norms must be None, bf16, fp8 or mxfp4, got {norms!r}")
    for name, module in model.named_modules():
        if isinstance(module, ExpertBank) and module._ranks is not None:
            raise InputError(f"{name} is divided over ranks: convert before parallelize; its `recipe` may be set later")
    if not isinstance(recipe, Recipe):
        raise ConfigError(f"recipe must be a Recipe, such as Recipe.fp4(), got {recipe!r}")
    modules = {name: (module, conversion_of(module)) for name, module in model.named_modules()}
    found = {name: (module, target) for name, (module, target) in modules.items() if target is not None}
    converted = {name: module for name, module in model.named_modules() if isinstance(module, _BY_OPTION)}
    optional = any(isinstance(module, (ConvertedLinear, *_BY_OPTION)) for module in model.modules())
    if not (found or optional or norms is not None or {projections, feed_forwards} != {"bf16"}):
        raise InputError(
            f"no experts found in {type(model).__name__}: none of its modules holds them as transformers' "
            "mixture-of-experts models do, in gate_up_proj and down_proj; without experts give projections, "
            "feed_forwards or norms"
        )
    for name, (module, target) in found.items():
        _check(name or type(module).__name__, module, target, recipe)
    kept_formats(recipe, recompute)  # refuses an unknown mode
    dense, normed = check_feed_forwards(model, feed_forwards), check_norms(model, norms)
    others = {name: module for name, module in converted.items() if name not in dense and name not in normed}
    _check_restorable(others)
    convert_projections(model, projections, recipe)
    for module in others.values():
        restore(module)
    convert_feed_forwards(model, dense, feed_forwards, recipe, recompute)
    convert_norms(model, normed, norms, recipe)
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
    kinds = ConvertedExperts, *_BY_OPTION
    converted = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    _check_restorable(converted)
    restore_projections(model)
    for module in converted.values():
        restore(module)
    return model


def _check_restorable(converted: Mapping[str, nn.Module]) -> None:
    for name, module in converted.items():
        if type(module).__module__ not in {kind.__module__ for kind in (ConvertedExperts, *_BY_OPTION)}:
            raise InputError(f"{name} has been wrapped since its conversion ({type(module).__name__}): unwrap it first")
        if isinstance(module, ExpertBank) and module._frozen:
            raise InputError(f"{name} is in use by frozen_weights: leave it first")


def _convert_module(module: nn.Module, target: type[ConvertedExperts], recipe: Recipe, recompute: Recompute) -> None:
    if isinstance(module, ConvertedExperts):
        module.recipe, module.recompute = recipe, recompute
        return
    kind = target.kind(module)
    assert isinstance(kind, ExpertKind)
    with becoming(module, target) as bank:
        bank._kind, bank._gate_text = kind, kind.gate_text
        bank._configure(recipe, recompute)


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
