"""Which mixture-of-experts families of `transformers` pauca computes, and how exactly: a table of all of them.

    python benchmarks/moe_families.py                 # all families, a few minutes on two cores
    python benchmarks/moe_families.py gpt_oss llama4  # some

A family is a model of the installed transformers whose source defines experts. Each is built tiny and with random
weights from its own config class (text part alone), converted with `pauca.moe.convert` under every recipe, and run on
the same tokens as its FP32 original. No GPU and no downloads.

Columns: what stands between an expert's two products; how its weights are stored; the relative difference (Euclidean)
of the last hidden states under `bf16`, `fp8` and `fp4`; the largest relative difference of an expert weight's gradient
under `bf16`; or why `convert` refuses it.
"""

import copy
import importlib
import json
import re
import sys
import warnings
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from pauca.errors import PaucaError
from pauca.moe import Recipe, convert
from pauca.moe.models.other_experts import ConvertedExperts

HOME = Path(transformers.__file__).parent / "models"
DEFINES_EXPERTS = re.compile(r"^@use_experts_implementation|^class \w+(Experts|CDMoE|JetMoeMoE)\b", re.MULTILINE)

# What is set in every config that has a number under that name.
SIZES = {
    **{"vocab_size": 64, "hidden_size": 64, "d_model": 64, "num_hidden_layers": 2, "n_layers": 2, "num_layers": 2},
    **{"num_attention_heads": 4, "n_heads": 4, "num_heads": 4, "num_key_value_heads": 4, "head_dim": 16},
    **{"intermediate_size": 64, "moe_intermediate_size": 64, "d_ff": 64, "ffn_hidden_size": 64},
    **{"expert_ffn_hidden_size": 64, "shared_expert_intermediate_size": 64, "moe_shared_expert_intermediate_size": 64},
    **{"num_experts": 8, "num_local_experts": 8, "n_routed_experts": 8, "moe_num_experts": 8},
    **{"num_experts_per_tok": 2, "moe_top_k": 2, "moe_topk": 2, "moe_k": 2, "top_k_experts": 2},
    **{"n_group": 1, "topk_group": 1, "max_position_embeddings": 64, "decoder_sparse_step": 1},
    **{"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "first_k_dense_replace": 0, "n_shared_experts": 1},
}
# What a family needs besides.
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
BESIDES: dict[str, dict[str, Any]] = {
    "beam": {"mlp_layer_types": ["sparse"] * 2},
    "bailing_hybrid": {"num_expert_group": 1, "num_experts_per_token": 2},
    "dbrx": {
        "attn_config": {"kv_n_heads": 4, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 64, "ffn_hidden_size": 64, "moe_num_experts": 8, "moe_top_k": 2},
    },
    "deepseek_ocr2": {"num_experts_per_tok": 2, "mlp_layer_types": ["sparse"] * 2},
    "deepseek_v2": {"num_experts_per_tok": 2, "first_k_dense_replace": 0},
    "diffusion_gemma": {"num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 64},
    "doge": {"is_moe": True, "num_experts": 16},
    "flint": {"mlp_only_layers": []},
    "dots1": {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1, "first_k_dense_replace": 0},
    "gemma4": {
        **{"enable_moe_block": True, "num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 64},
        **{"vocab_size_per_layer_input": 64},
    },
    "ernie4_5_vl_moe": {"hidden_size": 256, "num_attention_heads": 2, "num_key_value_heads": 2},
    "glm4v_moe": {"rope_parameters": {**_ROPE, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2]}},
    "glm5_next": {"qk_rope_head_dim": 0, "mlp_layer_types": ["sparse"] * 2},
    "hunyuan_v1_moe": {"head_dim": 16},
    "lfm2_moe": {"layer_types": ["full_attention"] * 2, "num_dense_layers": 0},
    "longcat_flash": {"head_dim": 8, "zero_expert_num": 2},
    "mimo_v2_flash": {"head_dim": 24, "num_attention_heads": 8},
    "nllb_moe": {"encoder_sparse_step": 1, "encoder_layers": 1, "decoder_layers": 1},
    "step3p7": {"sliding_window": 8, "swiglu_limits": [7.0, 7.0], "mlp_layer_types": ["sparse"] * 2},
    "switch_transformers": {"encoder_sparse_step": 1, "num_decoder_layers": 2, "d_kv": 16},
    "zaya": {"num_experts_per_tok": 1},
}
TOKENS = torch.arange(2 * 16).reshape(2, 16) * 31 % 57 + 5


@dataclass
class Row:
    """One family's line."""

    family: str
    gate: str = ""
    layout: str = ""
    bf16: float | None = None
    fp8: float | None = None
    fp4: float | None = None
    gradient: float | None = None
    refused: str = ""


def families() -> list[str]:
    """Names of the folders of transformers' models that define experts."""
    files = sorted(HOME.glob("*/modeling_*.py"))
    return sorted({file.parent.name for file in files if DEFINES_EXPERTS.search(file.read_text())})


def build(family: str) -> nn.Module:
    """The smallest model of a family that has its experts: in FP32, random, ready to run."""
    (file,) = (HOME / family).glob("modeling_*.py")
    module = importlib.import_module(f"transformers.models.{family}.{file.stem}")
    torch.manual_seed(0)
    model = _model_class(module)(_config(_model_class(module).config_class, BESIDES.get(family, {})))
    _randomize(model)
    return model.float().eval()


def _model_class(module: Any) -> Any:
    """The language model without a head: of classes that end in Model, the one for text."""
    base = transformers.PreTrainedModel
    classes = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, base)]
    classes = [c for c in classes if c.__module__ == module.__name__ and not c.__name__.endswith("PreTrainedModel")]

    def order(c: type) -> tuple[bool, bool, int]:
        name = c.__name__
        return not name.endswith("TextModel"), not re.search(r"(?<!Vision)(?<!Audio)Model$", name), len(name)

    return min(classes, key=order)


def _config(config_class: Any, besides: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        default = config_class().to_dict()
    names = {name for name in SIZES if isinstance(default.get(name), int)} | {"pad_token_id"}
    if "qk_rope_head_dim" in names:  # latent attention, whose heads have sizes of their own
        names.discard("head_dim")
    return config_class(**{**{name: SIZES[name] for name in names}, **besides})


@torch.no_grad()
def _randomize(model: nn.Module) -> None:
    """Weights of unit variance, so that experts add as much as they read, as in trained models."""
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "embed" not in name:
            weight.normal_(std=weight.shape[-1] ** -0.5)
        elif "bias" in name:
            weight.normal_(std=0.1)


def run(model: nn.Module) -> None:
    """Forward and backward of the whole model."""
    besides = {"decoder_input_ids": TOKENS} if model.config.is_encoder_decoder else {}
    states = model(input_ids=TOKENS, use_cache=False, **besides).last_hidden_state
    assert states.isfinite().all()
    states.square().mean().backward()


def difference(exact: Tensor, found: Tensor) -> float:
    return float((exact - found).norm() / exact.norm())


def measure(family: str) -> Row:
    """One line, compared for each layer of experts on what the model itself gives it."""
    original = build(family)
    try:
        converted = convert(copy.deepcopy(original), Recipe.bf16())
    except PaucaError as error:
        run(original)
        return Row(family, refused=str(error))
    banks = {name: module for name, module in converted.named_modules() if isinstance(module, ConvertedExperts)}
    calls = _record_calls(original, list(banks))
    run(converted)
    row = Row(family, *_describe(next(iter(banks.values()))))
    for recipe in (Recipe.bf16(), Recipe.fp8(), Recipe.fp4()):
        convert(converted, recipe)
        outputs, gradients = [], []
        for name, call in calls.items():
            exact, exact_gradients = _passes(original.get_submodule(name), call)
            found, found_gradients = _passes(banks[name], call)
            outputs.append(difference(exact, found))
            gradients += [difference(g, found_gradients[k]) for k, g in exact_gradients.items() if g.any()]
        setattr(row, recipe.precision, max(outputs))
        if recipe.precision == "bf16":
            row.gradient = max(gradients)
    return row


def _record_calls(model: nn.Module, names: list[str]) -> dict[str, tuple[Tensor, ...]]:
    """What the model gives to modules with these names."""
    calls: dict[str, tuple[Tensor, ...]] = {}
    for name in names:

        def record(_: nn.Module, arguments: tuple[Tensor, ...], name: str = name) -> None:
            calls[name] = tuple(argument.detach() for argument in arguments)

        model.get_submodule(name).register_forward_pre_hook(record)
    run(model)
    return calls


def _passes(module: nn.Module, call: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
    """What a module gives, and the gradients of its weights when that is to become a fixed random matrix."""
    module.zero_grad()
    result = module(*call)
    y = result[0] if isinstance(result, tuple) else result
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(0)))
    named = module.named_parameters()
    return y.detach(), {name: weight.grad.clone() for name, weight in named if weight.grad is not None}


def _describe(bank: ConvertedExperts) -> tuple[str, str]:
    gate = bank._kind.gate
    words = [gate.function if gate.gated else f"{gate.function}, no gate"]
    if gate.limit < float("inf"):
        words.append(f"limit {gate.limit:g}{' after' if gate.limit_after else ''}")
    words += [f"alpha {gate.alpha:g}"] * (gate.alpha != 1) + ["up + 1"] * bool(gate.offset)
    layout = ["transposed"] * (not bank.gate_up.is_contiguous()) + ["interleaved"] * gate.interleaved
    layout += ["biases"] * gate.biased
    if type(bank) is not ConvertedExperts:
        layout.append("own module")
    return ", ".join(words), ", ".join(layout) or "common"


def table(rows: list[Row]) -> str:
    lines = ["| family | between the products | layout | `bf16` | `fp8` | `fp4` | gradient, `bf16` |", "|" + "---|" * 7]
    for row in rows:
        if row.refused:
            lines.append(f"| {row.family} | refused: {row.refused} | | | | | |")
        else:
            numbers = " | ".join(f"{100 * (n or 0):.2f} %" for n in (row.bf16, row.fp8, row.fp4, row.gradient))
            lines.append(f"| {row.family} | {row.gate} | {row.layout} | {numbers} |")
    done = sum(not row.refused for row in rows)
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    return "\n".join([*lines, "", f"{done} of {len(rows)} families converted ({versions})."])


def main() -> None:
    arguments = [argument for argument in sys.argv[1:] if argument != "--json"]
    warnings.simplefilter("ignore")
    known = families()
    for family in arguments:
        if family not in known:
            near = get_close_matches(family, known, n=1)
            sys.exit(
                f"{family}: transformers {transformers.__version__} has no family of experts of this name"
                f"{f' (did you mean {near[0]}?)' if near else ''}; known are {', '.join(known)}"
            )
    rows = [measure(family) for family in arguments or known]
    print(json.dumps([asdict(row) for row in rows]) if "--json" in sys.argv else table(rows))


if __name__ == "__main__":
    main()
