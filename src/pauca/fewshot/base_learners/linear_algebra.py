"""Small batched positive-definite systems, solved without the host waiting for the device.

Only Cholesky factors: batched LU on the CPU (solve, inv, det) gives wrong results or raises for n >= 151 with several
threads (pytorch issue 142815).
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

# Relative to the mean diagonal. Rounding of a float32 Gram matrix of some hundred rows stays below the first; the
# second is for matrices that are singular by design.
JITTERS = (1e-5, 1e-3)


@torch.no_grad()
def cholesky(matrix: Float[Tensor, "*b n n"]) -> Float[Tensor, "*b n n"]:
    """Lower Cholesky factor; a matrix that is not positive definite gets just enough diagonal to become so."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    for jitter in JITTERS:
        if matrix.device.type == "cpu" and not info.any():
            break
        failed = (info > 0)[..., None, None]
        mean_diagonal = matrix.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        raised = matrix + jitter * mean_diagonal * torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        second, second_info = torch.linalg.cholesky_ex(torch.where(failed, raised, matrix))
        factor = torch.where(failed, second, factor)
        info = torch.where(info > 0, second_info, info)
    return factor


class _PositiveSolve(torch.autograd.Function):
    """x = A^-1 b. The gradient reuses the factor: two triangular solves instead of a differentiated Cholesky."""

    @staticmethod
    def forward(ctx, matrix: Tensor, right: Tensor) -> Tensor:
        factor = cholesky(matrix)
        solution = torch.cholesky_solve(right, factor)
        ctx.save_for_backward(factor, solution)
        return solution

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        factor, solution = ctx.saved_tensors
        right_gradient = torch.cholesky_solve(gradient, factor)
        return -right_gradient @ solution.mT, right_gradient


def solve_positive(matrix: Float[Tensor, "e n n"], right: Float[Tensor, "e n k"]) -> Float[Tensor, "e n k"]:
    """Solve A x = b for symmetric positive definite A, differentiably in both."""
    return _PositiveSolve.apply(matrix, right)  # pyright: ignore[reportReturnType]
