"""Positive-definite systems."""

import torch

from pauca.fewshot.base_learners.linear_algebra import (
    cholesky,
    implicit_optimum,
    invert_positive,
    solve_positive,
)


def test_solves_and_differentiates():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(3, 6, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    right = torch.randn(3, 6, 2, generator=generator, dtype=torch.float64, requires_grad=True)

    def solve(root, right):
        return solve_positive(root @ root.mT + torch.eye(6, dtype=torch.float64), right)

    matrix = (root @ root.mT + torch.eye(6, dtype=torch.float64)).detach()
    torch.testing.assert_close(matrix @ solve(root, right), right)
    torch.testing.assert_close(matrix @ invert_positive(matrix), torch.eye(6, dtype=torch.float64).expand(3, 6, 6))
    assert torch.autograd.gradcheck(solve, (root, right))


def test_the_gradient_of_an_optimum_is_that_of_its_conditions():
    """Least squares: the optimum of 1/2 a' K a - a' y is K^-1 y, which autograd differentiates too."""
    generator = torch.Generator().manual_seed(0)
    root, target = (torch.randn(3, 6, n, generator=generator, dtype=torch.float64) for n in (6, 2))
    gram = (root @ root.mT + torch.eye(6, dtype=torch.float64)).requires_grad_()

    def project(gradient, gram, dual):
        return invert_positive(gram) @ gradient

    implicit = implicit_optimum(gram, lambda gram: (invert_positive(gram) @ target,), project)
    weights = torch.randn(3, 6, 2, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((implicit * weights).sum(), gram)
    (expected,) = torch.autograd.grad((solve_positive(gram, target) * weights).sum(), gram)
    torch.testing.assert_close(gradient, expected)


def test_only_the_matrix_that_is_not_positive_definite_is_changed():
    good = torch.diag(torch.tensor([4.0, 9.0]))
    singular = torch.ones(2, 2)
    indefinite = torch.tensor([[1.0, 1.0001], [1.0001, 1.0]])
    factors = cholesky(torch.stack([good, singular, indefinite]))
    torch.testing.assert_close(factors[0], torch.diag(torch.tensor([2.0, 3.0])))
    assert factors.isfinite().all()
    torch.testing.assert_close(factors[1] @ factors[1].mT, singular, rtol=0, atol=2e-3)
    torch.testing.assert_close(factors[2] @ factors[2].mT, indefinite, rtol=0, atol=2e-3)


def test_large_batches_of_large_systems_are_right_with_several_threads():
    """Where batched LU on the CPU is wrong (pytorch issue 142815): n >= 151 and more than one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        generator = torch.Generator().manual_seed(0)
        root = torch.randn(4, 200, 200, generator=generator, dtype=torch.float64)
        matrix = root @ root.mT + torch.eye(200)
        right = torch.randn(4, 200, 3, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(matrix @ solve_positive(matrix, right), right)
    finally:
        torch.set_num_threads(threads)
