"""How often do the intervals of an accuracy hold the truth? Coverage over many simulated sets of test classes.

    python benchmarks/fewshot_intervals.py

Classes are Gaussian clouds of features: their means, their distance from the others and their spread are drawn anew
for each set, so that some classes are hard. Each set is tested as a real one is, by nearest prototypes on random
episodes that use its classes and images again and again. The truth is the mean over all sets. An interval of 95 %
should hold it in 95 % of the sets. The difference is that to a second model, which sees the same images with noise of
its own.
"""

import argparse

import numpy as np

from pauca.fewshot.intervals import class_interval, mean_interval

SETTINGS = ((20, 5, 1), (20, 5, 5), (16, 5, 1), (40, 5, 1), (10, 5, 1), (20, 2, 1), (8, 5, 1))  # classes, way, shot
FEATURES, IMAGES, QUERIES = 16, 60, 10


def test_set(
    classes: int, way: int, shot: int, episodes: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Accuracy [model, episode, slot] of two models on one drawn set of classes, drawn classes, accuracy by class."""
    means = generator.standard_normal((classes, FEATURES)) * np.exp(0.2 * generator.standard_normal((classes, 1)))
    spread = np.exp(0.35 * generator.standard_normal((classes, 1, 1)))
    images = means[:, None] + spread * generator.standard_normal((classes, IMAGES, FEATURES))
    drawn = np.argsort(generator.random((episodes, classes)), 1)[:, :way]
    chosen = np.argsort(generator.random((episodes, way, IMAGES)), 2)[:, :, : shot + QUERIES]
    hits = []
    for noise in (0.0, 0.7):
        seen = images + noise * generator.standard_normal(images.shape)
        features = seen[drawn[:, :, None], chosen]
        prototypes = features[:, :, :shot].mean(2)
        queries = features[:, :, shot:].reshape(episodes, way * QUERIES, FEATURES)
        distance = np.square(prototypes).sum(-1)[:, None] - 2 * queries @ prototypes.transpose(0, 2, 1)
        right = distance.argmin(-1) == np.arange(way).repeat(QUERIES)
        hits.append(right.reshape(episodes, way, QUERIES).mean(2))
    counts = np.bincount(drawn.ravel(), minlength=classes)
    by_class = [np.bincount(drawn.ravel(), hit.ravel(), classes) / counts for hit in hits]
    return np.array(hits), drawn, np.array(by_class)


def coverage(classes: int, way: int, shot: int, episodes: int, sets: int) -> dict[str, tuple[float, float, float]]:
    """Of accuracy and difference: the share of sets whose interval over episodes and over classes holds the truth, and
    the mean half width of the latter over twice the true spread."""
    generator = np.random.default_rng(0)
    found: dict[str, list] = {"accuracy": [], "difference": []}
    for _ in range(sets):
        hits, drawn, by_class = test_set(classes, way, shot, episodes, generator)
        values = hits.mean(2)
        for what, value, of_class in (
            ("accuracy", values[0], by_class[0]),
            ("difference", values[0] - values[1], by_class[0] - by_class[1]),
        ):
            found[what].append((mean_interval(value), class_interval(value, drawn, of_class)))
    shares = {}
    for what, pairs in found.items():
        means = np.array([over_episodes.mean for over_episodes, _ in pairs])
        widths = np.array([[interval.half_width for interval in pair] for pair in pairs])
        held = np.abs(means - means.mean())[:, None] <= widths
        shares[what] = (*held.mean(0).tolist(), float(widths[:, 1].mean() / (2 * means.std())))
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=300)
    parser.add_argument("--episodes", type=int, default=400)
    options = parser.parse_args()
    print(f"share of {options.sets} sets whose 95 % interval holds the truth, {options.episodes} episodes each")
    print(
        "| classes | way | shot | accuracy: over episodes | over classes | difference: over episodes | over classes |"
    )
    print("|---|---|---|---|---|---|---|")
    for setting in SETTINGS:
        shares = coverage(*setting, options.episodes, options.sets)
        cells = [f"{100 * share:.0f} %" for what in ("accuracy", "difference") for share in shares[what][:2]]
        print("| " + " | ".join([*map(str, setting), *cells]) + " |", flush=True)


if __name__ == "__main__":
    main()
