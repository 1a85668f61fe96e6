"""The operations' face: what they refuse, in one line, and where they run."""

import pytest
import torch

from pauca import InputError
from pauca.moe import ops
from pauca.moe.ops import checked, reference
from pauca.moe.ops.formats import Fp8Tensor, Granularity, ScaleRule

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(32, 96, generator=GENERATOR).bfloat16()
FP8 = reference.quantize_fp8_rowwise(X)
ENDS = torch.tensor([16, 32], dtype=torch.int32)


def test_a_cpu_runs_the_reference():
    assert checked.backend_of(X) is reference
    packed = ops.quantize_mxfp4(X, ScaleRule.FLOOR)
    assert torch.equal(packed.data, reference.quantize_mxfp4(X, ScaleRule.FLOOR).data)


@pytest.mark.gpu
def test_a_hopper_gpu_runs_the_kernels():
    from pauca.moe.ops import kernels

    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("this GPU is not a Hopper")
    assert checked.backend_of(X.cuda()) is kernels


def test_every_kernel_has_a_reference_of_the_same_name():
    kernels = pytest.importorskip("pauca.moe.ops.kernels", reason="needs Triton")
    assert all(hasattr(reference, name) and hasattr(ops, name) for name in kernels.__all__)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.quantize_mxfp4(X.T), "x must be a contiguous BF16 matrix"),
        (lambda: ops.quantize_mxfp4(X[:, :48].contiguous()), "48 channels; a multiple of 32 is needed"),
        (lambda: ops.quantize_fp8_rowwise(X[:, :24].contiguous()), "24 channels; a multiple of 16 is needed"),
        (lambda: ops.gather_rows(X, torch.zeros(8, dtype=torch.int32)[::2]), "index must be contiguous int32"),
        (
            lambda: ops.fp8_rows_to_columns(reference.quantize_fp8_rowwise(X[:24]), ENDS),
            "24 rows in groups: pad to a multiple of 16",
        ),
        (
            lambda: ops.fp8_to_mxfp4(ops.fp8_rows_to_columns(FP8, ENDS)),
            "row layout .* is needed",
        ),
        (
            lambda: ops.swiglu(reference.quantize_fp8_tilewise(X), torch.ones(32)),
            "z in FP8 must have one scale per row",
        ),
        (lambda: ops.swiglu(FP8, torch.ones(31)), r"probability must be FP32 of shape \(32,\)"),
        (lambda: ops.swiglu_fp8(X, torch.ones(32), ScaleRule.EVEN), "a multiple of 64 is needed"),
        (
            lambda: ops.swiglu_backward(X, torch.ones(32), X),
            r"gradient must be BF16 of shape \(32, 48\)",
        ),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_inputs_without_rows_give_outputs_without_rows():
    empty = X[:0]
    packed, fp8 = ops.quantize_mxfp4(empty), ops.quantize_fp8_rowwise(empty)
    assert packed.shape == fp8.shape == (0, 96)
    nothing = torch.tensor([0, 0], dtype=torch.int32)
    assert ops.fp8_rows_to_columns(fp8, nothing).shape == (0, 96)
    assert ops.gather_mxfp4_to_fp8_columns(packed, None, nothing).scales.tolist() == [[0] * 96] * 2
    padding = torch.full((16,), -1, dtype=torch.int32)
    assert (ops.gather_mxfp4_to_fp8_rows(packed, padding).dequantize() == 0).all()


def test_count_inexact_finds_what_a_shared_scale_loses():
    x = torch.ones(16, 64).bfloat16()
    x[0, :32] = 2.0**-20
    packed = ops.quantize_mxfp4(x)
    ends = torch.tensor([16], dtype=torch.int32)
    assert [count.item() for count in ops.count_inexact(packed)] == [32, 1024]
    assert [count.item() for count in ops.count_inexact(packed, None, ends)] == [32, 1024]
    columns = ops.gather_mxfp4_to_fp8_columns(packed, None, ends)
    assert isinstance(columns, Fp8Tensor)
    assert columns.granularity is Granularity.GROUP
