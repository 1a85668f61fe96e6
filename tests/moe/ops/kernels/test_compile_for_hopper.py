"""Every kernel compiles for Hopper (sm_90) without a GPU, stays in registers and moves vectors."""

import importlib
import re
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from pauca.moe.ops.formats import ScaleRule  # noqa: E402
from pauca.moe.ops.kernels.quantize import rule_arguments  # noqa: E402

pytestmark = pytest.mark.skipif(triton.knobs.runtime.interpret, reason="the interpreter compiles nothing")

INT32, UINT8, BF16, FP32 = "*i32", "*u8", "*bf16", "*fp32"
NOT_ALIGNED = {
    "scales_per_row",
    "parts",
    "blocks",
    "groups",
    "source_rows",
    "tokens",
    "n",
    "rows",
    "copies",
    "experts",
    "top_k",
    "time",
    "heads",
    "epsilon",
}  # integers that may be odd
RULE = rule_arguments(ScaleRule.EVEN)
SWIGLU = {"probability": FP32, "width": "i32", "row_stride": "i32"}
BACKWARD = SWIGLU | {"grad": BF16, "d_probability": FP32}
FP8_OUT = {"codes": UINT8, "scales": UINT8, "TO_FP8": True}

# file, kernel, arguments: a Triton type, or a constant (None for a pointer that is not there)
KERNELS = [
    (
        "quantize.quantize_mxfp4_kernel",
        {"x": BF16, "out": UINT8, "channels": "i32", "row_bytes": "i32", **RULE, "WIDTH": 2048, "PTX": True},
    ),
    *(
        (
            "quantize.quantize_fp8_kernel",
            {
                **{"x": x, "codes": UINT8, "scales": UINT8, "channels": "i32", "scales_per_row": "i32"},
                **{"FP32": x == FP32, "WIDTH": 2048, "TILES": 1},
            },
        )
        for x in (BF16, FP32)
    ),
    *(
        (
            "fp8_to_mxfp4.fp8_to_mxfp4_kernel",
            {
                **{"codes": INT32, "scales": UINT8, "out": INT32, "rows": "i32", "blocks": "i32", "row_words": "i32"},
                **{"scales_per_row": "i32", "CARRY": 256, "SATURATE": best, "BEST": best, "BLOCKS_PER_SCALE": tile},
                **{"ROWS": 4, "BLOCKS": 32, "PTX": True},
            },
        )
        for best in (False, True)
        for tile in (0, 4)
    ),
    (
        "gather_mxfp4_to_fp8_rows.gather_mxfp4_to_fp8_rows_kernel",
        {
            **{"source": INT32, "index": INT32, "codes": INT32, "scales": UINT8, "source_rows": "i32", "blocks": "i32"},
            **{"row_words": "i32", "HAS_INDEX": True, "BLOCKS": 128, "PTX": True},
        },
    ),
    (
        "group_maximum.group_maximum_kernel",
        {
            **{
                "scales": UINT8,
                "index": INT32,
                "offsets": INT32,
                "largest": INT32,
                "source_rows": "i32",
                "parts": "i32",
            },
            **{"stride": "i32", "HAS_INDEX": True, "ROWS": 64, "PARTS": 32},
        },
    ),
    (
        "gather_mxfp4_to_fp8_columns.gather_mxfp4_to_fp8_columns_kernel",
        {
            **{"source": INT32, "index": INT32, "offsets": INT32, "largest": INT32, "out": INT32, "out_scales": UINT8},
            **{"source_rows": "i32", "sixteens": "i32", "blocks": "i32", "row_words": "i32", "groups": "i32"},
            **{"HAS_INDEX": True, "GROUPS": 8, "ROWS": 64, "BLOCKS": 8, "PTX": True},
        },
    ),
    (
        "fp8_rows_to_columns.fp8_rows_to_columns_kernel",
        {
            **{"codes": INT32, "scales": UINT8, "index": None, "offsets": INT32, "largest": INT32, "out": INT32},
            **{"out_scales": UINT8, "source_rows": "i32", "sixteens": "i32", "channels": "i32", "groups": "i32"},
            **{"scales_per_row": "i32", "HAS_INDEX": False, "GROUPS": 64, "ROWS": 128, "TILE": 128, "PTX": True},
        },
    ),
    (
        "gather_rows.gather_rows_kernel",
        {
            **{
                "source": INT32,
                "scales": UINT8,
                "index": INT32,
                "out": INT32,
                "out_scales": UINT8,
                "source_rows": "i32",
            },
            **{"words": "i32", "scales_per_row": "i32", "SCALES": 1, "WIDTH": 1024},
        },
    ),
    (
        "combine.combine_kernel",
        {
            **{"rows": BF16, "inverse": INT32, "weights": FP32, "out": BF16, "n": "i32", "channels": "i32"},
            **{"COPIES": 8, "WEIGHTED": True, "WIDTH": 1024},
        },
    ),
    (
        "combine.combine_backward_kernel",
        {
            **{"grad": BF16, "rows": BF16, "token": INT32, "row_weights": FP32, "d_rows": BF16, "d_weights": FP32},
            **{"tokens": "i32", "channels": "i32", "WIDTH": 1024},
        },
    ),
    *(
        ("swiglu.swiglu_kernel", {"z": z, "z_scales": UINT8, "FORM": form, **SWIGLU, **out, **RULE, "WIDTH": 2048})
        for form, z in enumerate((BF16, UINT8, UINT8))
        for out in ({"plain": BF16}, FP8_OUT, FP8_OUT | {"kept": UINT8, "KEEP": True, "kept_row_bytes": "i32"})
    ),
    (
        "swiglu.swiglu_kernel",
        {"z": BF16, "FORM": 0, **SWIGLU, **FP8_OUT, "kept_z": UINT8, "KEEP_Z": True, "kept_z_row_bytes": "i32", **RULE}
        | {"WIDTH": 2048},
    ),
    *(
        ("swiglu.swiglu_backward_kernel", {"z": z, "z_scales": UINT8, "FORM": form, **BACKWARD, **out, "WIDTH": 2048})
        for form, z in enumerate((BF16, UINT8, UINT8))
        for out in (
            {"plain": BF16},
            FP8_OUT,
            FP8_OUT | {"ACTIVATION": True, "activation_codes": UINT8, "activation_scales": UINT8},
        )
    ),
    *(
        (
            "quantize_fp8_columns.quantize_fp8_columns_kernel",
            {
                **{"x": "*i64", "group_scales": UINT8, "offsets": INT32, "out": INT32, "sixteens": "i32"},
                **{"words": "i32", "groups": "i32", "FP32": fp32, "GROUPS": 64, "ROWS": 128, "CHANNELS": 128},
                **{"PTX": True, "num_warps": 8 if fp32 else 4},
            },
        )
        for fp32 in (False, True)
    ),
    *(
        (
            "rms_norm.rms_norm_kernel",
            {
                **{"x": BF16, "weight": FP32, "y": BF16, "inverse": FP32, "rows": "i32", "channels": "i32"},
                **{"epsilon": "fp32", "ROWS": rows, "WIDTH": 2048 // rows},
            },
        )
        for rows in (1, 4)
    ),
    *(
        (
            "rms_norm.rms_norm_backward_kernel",
            {
                **{"grad": BF16, "x": BF16, "weight": FP32, "inverse": FP32, "d_x": BF16, "d_weight": FP32},
                **{"rows": "i32", "channels": "i32", "ROWS": rows, "WIDTH": 2048 // rows},
            },
        )
        for rows in (1, 4)
    ),
    *(
        (
            "rotate_heads.rotate_heads_kernel",
            {
                **{"source": BF16, "out": BF16, "cosine": FP32, "sine": FP32, "tokens": "i32", "time": "i32"},
                **{f"{out}{name}_stride": "i32" for out in ("", "out_") for name in ("batch", "time", "head")},
                **{"heads": "i32", "half": "i32", "TURN": turn, "TOKENS": 8, "HEADS": 8, "HALF": 32},
            },
        )
        for turn in (1, 0)
    ),
    (
        "sort_by_expert.sort_by_expert_kernel",
        {
            **{"expert_ids": "*i64", "row_to_copy": INT32, "row_to_token": INT32, "copy_to_row": INT32},
            **{"offsets": INT32, "copies": "i32", "rows": "i32", "experts": "i32", "top_k": "i32"},
            **{"EXPERTS": 128, "COPIES": 4096, "GROUP_ROWS": 16},
        },
    ),
    *(
        (
            "rank_visits.rank_visits_kernel",
            {
                **{"expert_ids": "*i64", "row_to_token": INT32, "row_to_rank": INT32, "token_to_rows": INT32},
                **{"counts": "*i64", "tokens": "i32", "visits": "i32", "experts_per_rank": "i32", "fingerprint": "i32"},
                **{"TOKENS": min(2048, 8192 // ranks), "RANKS": ranks, "TOP_K": 8},
            },
        )
        for ranks in (2, 8, 64)
    ),
    (
        "rank_visits.routing_rows_kernel",
        {
            **{"expert_ids": "*i64", "probabilities": INT32, "row_to_token": INT32, "row_to_rank": INT32},
            **{"routing": INT32, "rows": "i32", "top_k": "i32", "experts_per_rank": "i32"},
            **{"ROWS": 256, "CHOICES": 8},
        },
    ),
]


def test_no_kernel_is_left_out():
    folder = Path(importlib.import_module("pauca.moe.ops.kernels").__file__).parent
    names = {f"{file.stem}.{name}" for file in folder.glob("*.py") for name in _kernel_names(file)}
    assert names == {path for path, _ in KERNELS}


def _kernel_names(file: Path) -> list[str]:
    return re.findall(r"^def (\w+_kernel)\(", file.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize(("path", "arguments"), KERNELS, ids=[f"{i}-{path}" for i, (path, _) in enumerate(KERNELS)])
def test_compiles(path, arguments):
    file, name = path.split(".")
    kernel = getattr(importlib.import_module(f"pauca.moe.ops.kernels.{file}"), name)
    types, constants, aligned = {}, {}, {}
    for place, parameter in enumerate(kernel.arg_names):
        value = arguments.get(parameter)
        if isinstance(value, str):
            types[parameter] = value
            if value.startswith("*") or parameter not in NOT_ALIGNED:
                aligned[(place,)] = [["tt.divisibility", 16]]
        else:
            types[parameter] = "constexpr"
            # What a case leaves out is a pointer that is not there, a number that counts nothing, or a switch.
            constants[parameter] = (None if parameter.islower() else False) if value is None else value
    source = ASTSource(kernel, types, constants, aligned)
    compiled = triton.compile(
        source, target=GPUTarget("cuda", 90, 32), options={"num_warps": arguments.get("num_warps", 4)}
    )
    ptx = compiled.asm["ptx"]
    assert ".target sm_90" in ptx
    assert ".local" not in ptx, "an array went to local memory"
    if file not in ("group_maximum", "sort_by_expert", "rank_visits"):  # they move bytes and indices here and there
        assert re.search(r"ld\.global\S*\.v(4\.b32|2\.b32|2\.b64)", ptx), "no wide load"
        assert re.search(r"st\.global\S*\.v(4\.b32|2\.b32|2\.b64)", ptx), "no wide store"
