"""Small batched positive-definite systems, solved without the host waiting for the device.

Only Cholesky factors: batched LU on the CPU (solve, inv, det) gives wrong results or raises for n >= 151 with several
threads (pytorch issue 142815).
"""

from collections.abc import Callable

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


def solve_with_factor(factor: Float[Tensor, "*b n n"], right: Float[Tensor, "*b n k"]) -> Float[Tensor, "*b n k"]:
    """x = (L L')^-1 b."""
    if factor.device.type == "cpu":
        return torch.cholesky_solve(right, factor)
    # cuSOLVER's batched potrs takes one right-hand side; for more, torch.cholesky_solve goes matrix by matrix.
    half = torch.linalg.solve_triangular(factor, right, upper=False)
    return torch.linalg.solve_triangular(factor.mT, half, upper=True)


def invert_positive(matrix: Float[Tensor, "*b n n"]) -> Float[Tensor, "*b n n"]:
    """Inverse of matrices that are positive definite by construction."""
    factor = torch.linalg.cholesky_ex(matrix).L
    if factor.device.type == "cpu":
        return torch.cholesky_inverse(factor)
    half = torch.linalg.solve_triangular(factor, torch.eye(factor.shape[-1]).to(factor).expand_as(factor), upper=False)
    return half.mT @ half


class _PositiveSolve(torch.autograd.Function):
    """x = A^-1 b. The gradient reuses the factor: two triangular solves instead of a differentiated Cholesky."""

    @staticmethod
    def forward(ctx, matrix: Tensor, right: Tensor) -> Tensor:
        factor = cholesky(matrix)
        solution = solve_with_factor(factor, right)
        ctx.save_for_backward(factor, solution)
        return solution

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        factor, solution = ctx.saved_tensors
        right_gradient = solve_with_factor(factor, gradient)
        return -right_gradient @ solution.mT, right_gradient


def solve_positive(matrix: Float[Tensor, "e n n"], right: Float[Tensor, "e n k"]) -> Float[Tensor, "e n k"]:
    """Solve A x = b for symmetric positive definite A, differentiably in both."""
    return _PositiveSolve.apply(matrix, right)  # pyright: ignore[reportReturnType]


class _ImplicitOptimum(torch.autograd.Function):
    """What `solve` finds. Its gradient comes from the optimality conditions, not from the steps that led there."""

    @staticmethod
    def forward(ctx, gram: Tensor, solve: Callable, project: Callable) -> Tensor:
        dual, *details = solve(gram)
        ctx.save_for_backward(gram, dual, *details)
        ctx.project = project
        return dual

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gram, dual, *details = ctx.saved_tensors
        return -ctx.project(gradient, gram, dual, *details) @ dual.mT, None, None


def implicit_optimum(
    gram: Float[Tensor, "e n n"], solve: Callable[..., tuple[Tensor, ...]], project: Callable[..., Tensor]
) -> Float[Tensor, "e n way"]:
    """The optimal dual variables a of a kernel machine, differentiable in its Gram matrix K.

    Where the optimum moves with K, the conditions on it, linear in dK a, give da = -P dK a with a symmetric P.

    Args:
        gram: K.
        solve: from K to a, and what else `project` needs.
        project: from a gradient, K, a and the rest of what `solve` gave to P times the gradient.
    """
    return _ImplicitOptimum.apply(gram, solve, project)  # pyright: ignore[reportReturnType]
