"""What the base learners compute, for one episode at a time, slowly and obviously, in numpy and float64."""

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize
from scipy.special import logsumexp


def example_weights(labels: Int[np.ndarray, "n"], way: int) -> Float[np.ndarray, "n"]:
    """The weight of each image with which every class that is there counts alike: n / (classes, its class's images)."""
    counts = np.bincount(labels, minlength=way)
    return len(labels) / (np.count_nonzero(counts) * counts[labels])


def ridge_logits(
    support: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, "n"],
    query: Float[np.ndarray, "q d"],
    way: int,
    penalty: float = 50.0,
) -> Float[np.ndarray, "q way"]:
    """Ridge regression onto twice the one-hot labels, by the normal equations of the weights themselves.

    The squared error of each image counts with its weight (`example_weights`). The meaning of `Ridge`.
    """
    targets = 2 * np.eye(way)[labels]
    weighted = support.T * example_weights(labels, way)
    normal = weighted @ support + penalty * np.eye(support.shape[1])
    return query @ np.linalg.solve(normal, weighted @ targets)


def prototype_logits(
    support: Float[np.ndarray, "n d"], labels: Int[np.ndarray, "n"], query: Float[np.ndarray, "q d"], way: int
) -> Float[np.ndarray, "q way"]:
    """Negative mean squared difference to the mean of each class; the meaning of `Prototypes`.

    The mean of few images lies further from everything than that of many, by the variance over their number: the excess
    over the class with the most images is taken off. Every class needs an image.
    """
    counts = np.bincount(labels, minlength=way)
    means = np.stack([support[labels == k].mean(0) for k in range(way)])
    freedom = len(labels) - way
    variance = np.mean((support - means[labels]) ** 2) * len(labels) / freedom if freedom else 0.0
    excess = variance * (1 / counts - 1 / counts.max())
    return np.array([[-np.mean((row - mean) ** 2) for mean in means] for row in query]) + excess


def cosine_logits(
    support: Float[np.ndarray, "n d"], labels: Int[np.ndarray, "n"], query: Float[np.ndarray, "q d"], way: int
) -> Float[np.ndarray, "q way"]:
    """Cosine to the mean of each class's unit vectors."""
    unit = support / np.linalg.norm(support, axis=1, keepdims=True)
    means = [unit[labels == k].mean(0) for k in range(way)]
    return np.array([[row @ m / (np.linalg.norm(row) * np.linalg.norm(m)) for m in means] for row in query])


def logistic_logits(
    support: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, "n"],
    query: Float[np.ndarray, "q d"],
    way: int,
    penalty: float = 1.0,
) -> Float[np.ndarray, "q way"]:
    """Multinomial logistic regression with an L2 penalty, by L-BFGS on the weights.

    The meaning of `LogisticRegression`. The cross-entropy of each image counts with its weight (`example_weights`).
    """
    targets = np.eye(way)[labels]
    counts = example_weights(labels, way)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(-1, way)
        logits = support @ weights
        normalizer = np.asarray(logsumexp(logits, axis=1))
        value = (counts * (normalizer - (logits * targets).sum(1))).sum() + penalty / 2 * (flat**2).sum()
        slope = (support.T * counts) @ (np.exp(logits - normalizer[:, None]) - targets) + penalty * weights
        return float(value), slope.ravel()

    options = {"maxiter": 10000, "maxcor": 50, "ftol": 0, "gtol": 1e-11}
    start = np.zeros(support.shape[1] * way)
    result = minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    return query @ result.x.reshape(-1, way)


def svm_dual(
    gram: Float[np.ndarray, "n n"],
    labels: Int[np.ndarray, "n"],
    way: int,
    penalty: float = 0.1,
    sweeps: int = 20000,
    tolerance: float = 1e-13,
) -> Float[np.ndarray, "n way"]:
    """Optimal dual variables of the Crammer-Singer SVM: each image's row in turn, exactly, until none moves."""
    targets = np.eye(way)[labels]
    upper = (penalty * example_weights(labels, way))[:, None] * targets
    dual = np.zeros_like(targets)
    for _ in range(sweeps):
        moved = 0.0
        for i in range(len(labels)):
            slope = gram[i] @ dual - targets[i]
            row = _onto_bounded_zero_sum(dual[i] - slope / gram[i, i], upper[i])
            moved, dual[i] = max(moved, float(np.abs(row - dual[i]).max())), row
        if moved < tolerance:
            break
    return dual


def _onto_bounded_zero_sum(value: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """The nearest point with sum 0 below `upper`: min(upper, value - shift), whose sum falls as the shift rises."""
    steps = np.sort(value - upper)  # the shifts at which one more entry leaves its bound
    sums = np.array([np.minimum(upper, value - step).sum() for step in steps])
    last = int(np.flatnonzero(sums >= 0)[-1])
    return np.minimum(upper, value - steps[last] - sums[last] / (last + 1))


def svm_logits(
    support: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, "n"],
    query: Float[np.ndarray, "q d"],
    way: int,
    penalty: float = 0.1,
    diagonal: float = 1.0,
) -> Float[np.ndarray, "q way"]:
    """Scores of the Crammer-Singer SVM with `diagonal` added to its Gram matrix."""
    gram = support @ support.T + np.diag(diagonal / example_weights(labels, way))
    return query @ support.T @ svm_dual(gram, labels, way, penalty)
