"""Every kernel compiles for Hopper (sm_90) without a GPU, and stays in registers."""

import importlib
import re
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from pauca.events.device.batch import BLOCK  # noqa: E402

pytestmark = pytest.mark.skipif(triton.knobs.runtime.interpret, reason="the interpreter compiles nothing")

EVENTS = {"words": "*i32", "times": "*i32", "bearings": "*fp32", "where": "*i32", "motion": "*fp32", "blocks": "*i32"}
FRAME = {"height": "i32", "width": "i32", "fx": "fp32", "fy": "fp32", "cx": "fp32", "cy": "fp32", "PAD": 4}
TAPS = {"w0": "fp32", "w1": "fp32", "w2": "fp32"}
# file, kernel, arguments: a Triton type, or a constant
KERNELS = [
    *(
        (
            "vote.vote_kernel",
            {
                **EVENTS,
                **{"images": "*i64", "inside": "*i32", "sensor_width": "i32", **FRAME, "units": "fp32"},
                **{"KIND": kind, "SPLINE": spline, "BLOCK": BLOCK},
            },
        )
        for kind, spline in ((0, True), (1, False), (2, True))
    ),
    *(
        (
            "image_pass.score_images_kernel",
            {
                **{"images": "*i64", "table": "*fp32", "slopes": "*fp32", "values": "*fp64", "height": "i32"},
                **{"width": "i32", **TAPS, "unit": "fp32", "offset": "fp32", "first_exponent": "i32", "PAD": 4},
                **{"RADIUS": radius, "ROWS": 8, "COLUMNS": 128},
            },
        )
        for radius in (1, 2)
    ),
    *(
        (
            "totals.totals_kernel",
            {"parts": parts, "out": "*fp64", "rows": "i32", "columns": "i32", "ROWS": 512 // wide, "WIDE": wide},
        )
        for parts, wide in (("*fp32", 32), ("*fp64", 2))
    ),
    *(
        (
            "gather.gather_kernel",
            {
                **EVENTS,
                **{"slopes": "*fp32", "sums": "*fp32", "rows": "*fp32", "sensor_width": "i32", **FRAME, "most": "i32"},
                **{**TAPS, "KIND": kind, "SPLINE": spline, "RADIUS": radius, "EACH": each, "BLOCK": BLOCK},
            },
        )
        for kind, spline, radius, each in (
            (0, True, 1, False),
            (0, True, 1, True),
            (1, False, 2, False),
            (2, True, 1, True),
        )
    ),
]


def test_no_kernel_is_left_out():
    folder = Path(importlib.import_module("pauca.events.device.kernels").__file__).parent
    names = {
        f"{file.stem}.{name}"
        for file in folder.glob("*.py")
        for name in re.findall(r"^def (\w+_kernel)\(", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert names == {path for path, _ in KERNELS}


@pytest.mark.slow
@pytest.mark.parametrize(("path", "arguments"), KERNELS, ids=[f"{i}-{path}" for i, (path, _) in enumerate(KERNELS)])
def test_compiles(path, arguments):
    file, name = path.split(".")
    kernel = getattr(importlib.import_module(f"pauca.events.device.kernels.{file}"), name)
    types, constants, aligned = {}, {}, {}
    for place, parameter in enumerate(kernel.arg_names):
        value = arguments[parameter]
        if isinstance(value, str):
            types[parameter] = value
            if value.startswith("*"):
                aligned[(place,)] = [["tt.divisibility", 16]]
        else:
            types[parameter], constants[parameter] = "constexpr", value
    compiled = triton.compile(ASTSource(kernel, types, constants, aligned), target=GPUTarget("cuda", 90, 32))
    ptx = compiled.asm["ptx"]
    assert ".target sm_90" in ptx
    assert ".local" not in ptx, "an array went to local memory"
    if name == "vote_kernel":  # results are not waited for
        assert "red." in ptx or "atom." in ptx
