"""The references themselves, against answers worked out by hand."""

import numpy as np
import pytest

from pauca.fewshot import reference

SUPPORT = np.array([[1.0, 0.0], [0.0, 1.0]])
LABELS = np.array([0, 1])


def test_ridge_with_orthogonal_images_divides_by_one_plus_the_penalty():
    """With K = I: a = 2 Y / (1 + penalty)."""
    logits = reference.ridge_logits(SUPPORT, LABELS, np.array([[3.0, 1.0]]), 2, penalty=4.0)
    np.testing.assert_allclose(logits, [[2 * 3 / 5, 2 * 1 / 5]])


def test_prototypes_and_cosine_of_simple_points():
    query = np.array([[3.0, 4.0]])
    np.testing.assert_allclose(reference.prototype_logits(SUPPORT, LABELS, query, 2), [[-10.0, -9.0]])
    np.testing.assert_allclose(reference.cosine_logits(SUPPORT, LABELS, query, 2), [[0.6, 0.8]])


@pytest.mark.parametrize("penalty", [0.05, 0.1, 10.0])
def test_the_svm_of_two_orthogonal_images_is_solved_by_hand(penalty):
    """With K = 2 I each row minimizes a^2 + b^2 - a under a + b = 0 and a <= C: a = min(C, 1/4), b = -a."""
    dual = reference.svm_dual(2 * np.eye(2), LABELS, 2, penalty)
    a = min(penalty, 0.25)
    np.testing.assert_allclose(dual, [[a, -a], [-a, a]], atol=1e-12)


def test_logistic_regression_meets_its_optimality_condition():
    """Two opposed images on a line: w = (w, -w) with penalty w = 2 (1 - p), p = softmax(2 w)."""
    support, query = np.array([[1.0], [-1.0]]), np.array([[1.0]])
    logits = reference.logistic_logits(support, LABELS, query, 2, penalty=1.0)
    w = logits[0, 0]
    np.testing.assert_allclose(logits[0, 1], -w, atol=1e-9)
    np.testing.assert_allclose(w, 2 * (1 - 1 / (1 + np.exp(-2 * w))), atol=1e-8)
