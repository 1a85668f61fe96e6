"""Time and exactness of the base learners, forward with backward, beside a general batched QP solver (qpth).

    python benchmarks/fewshot_heads.py [--shots 1 5 15] [--repeats 7] [--peer-python PYTHON] [--json PATH]

8 episodes, 5-way, 6 queries a class, 256 features, float32, one thread on the CPU. qpth solves the quadratic programs
of MetaOptNet: for ridge one of n variables for each episode and class, for the SVM one of 5 n variables for each
episode, with the Kronecker product of Gram matrix and identity. Where qpth is not installed, `--peer-python` names a
Python that has it; the same script then runs there, on this checkout. "off" is the largest difference from our head in
float64, relative to the largest entry: of the logits, and of the gradient in the support features. In the last column
the peer runs in float64 too: how far two independent solvers agree. Where they do not, in the gradient of the SVM with
15 shots, finite differences side with ours (tests/fewshot/base_learners/test_svm.py).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from pauca.fewshot.base_learners import make_base_learner
from pauca.runs import describe_machine, write_text

EPISODES, WAY, QUERIES, FEATURES = 8, 5, 6, 256
Head = Callable[[Tensor, Tensor, Tensor], Tensor]


def draw(shot: int) -> tuple[Tensor, Tensor, Tensor]:
    """Support features, labels and query features around random class centers, in float64."""
    generator = torch.Generator().manual_seed(shot)
    centers = 0.5 * torch.randn(EPISODES, WAY, 1, FEATURES, generator=generator, dtype=torch.float64)
    noise = torch.randn(EPISODES, WAY, shot + QUERIES, FEATURES, generator=generator, dtype=torch.float64)
    images = torch.nn.functional.leaky_relu(centers + noise, 0.1)
    labels = torch.arange(WAY).repeat_interleave(shot).expand(EPISODES, -1).contiguous()
    return images[:, :, :shot].flatten(1, 2), labels, images[:, :, shot:].flatten(1, 2)


def ours(name: str) -> Head:
    """A base learner of pauca with its published constants."""
    head = make_base_learner(name, scale=1.0)
    return lambda support, labels, query: head(support, labels, query, WAY)


def qpth_ridge(support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
    """Minimize 1/2 a' (K + 50 I) a - 2 y' a for each class, under a constraint that never binds."""
    from qpth.qp import QPFunction

    n = support.shape[1]
    gram = support @ support.mT + 50 * torch.eye(n, dtype=support.dtype)
    targets = torch.nn.functional.one_hot(labels, WAY).to(support.dtype)
    linear = -2 * targets.mT.flatten(0, 1)
    nothing = support.new_zeros(len(linear), n, n)
    empty = support.new_empty(0)
    quadratic = gram.repeat_interleave(WAY, 0)
    dual = QPFunction(verbose=False)(quadratic, linear, nothing, nothing[..., 0] + 1, empty, empty)
    return query @ support.mT @ dual.reshape(EPISODES, WAY, n).mT


def qpth_svm(support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
    """The Crammer-Singer dual with (n way)^2 matrices."""
    from qpth.qp import QPFunction

    n = support.shape[1]
    gram = support @ support.mT + torch.eye(n, dtype=support.dtype)
    targets = torch.nn.functional.one_hot(labels, WAY).to(support.dtype).flatten(1)
    quadratic = torch.stack([torch.kron(one, torch.eye(WAY, dtype=support.dtype)) for one in gram])
    bounds = torch.eye(n * WAY, dtype=support.dtype).expand(EPISODES, -1, -1)
    sums = torch.kron(torch.eye(n, dtype=support.dtype), support.new_ones(1, WAY)).expand(EPISODES, -1, -1)
    zero = support.new_zeros(EPISODES, n)
    dual = QPFunction(verbose=False)(quadratic, -targets, bounds, 0.1 * targets, sums, zero)
    return query @ support.mT @ dual.reshape(EPISODES, n, WAY)


HEADS: dict[str, Head] = {f"pauca {name}": ours(name) for name in ("ridge", "svm", "prototypes", "logistic", "cosine")}
PEERS: dict[str, Head] = {"qpth ridge": qpth_ridge, "qpth svm": qpth_svm}


def step(head: Head, support: Tensor, labels: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of the cross-entropy in the support features."""
    support = support.detach().requires_grad_()
    logits = head(support, labels, query)
    answers = torch.arange(WAY).repeat_interleave(QUERIES).repeat(EPISODES)
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits.flatten(0, 1), answers), support)
    return logits.detach(), gradient


def measure(heads: dict[str, Head], shots: list[int], repeats: int) -> list[dict[str, float | str]]:
    """A row for each head and shot. Heads take turns, so that a slow moment of the machine hits all of them."""
    rows = []
    for shot in shots:
        support, labels, query = draw(shot)
        single = support.float(), labels, query.float()
        times: dict[str, list[float]] = {name: [] for name in heads}
        for repeat in range(repeats + 1):
            for name, head in heads.items():
                start = time.perf_counter()
                step(head, *single)
                if repeat:  # the first warms up
                    times[name].append(1e3 * (time.perf_counter() - start))
        for name, head in heads.items():
            exact = step(ours(name.split()[1]), support, labels, query)
            logits, gradient = off(step(head, *single), exact)
            row = {"head": name, "shot": shot, "ms": statistics.median(times[name])}
            row |= {"logits off": logits, "gradient off": gradient}
            row["float64 off"] = max(off(step(head, support, labels, query), exact))
            rows.append(row)
    return rows


def off(found: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor]) -> tuple[float, ...]:
    """Largest difference relative to the largest entry, of logits and gradient."""
    return tuple(float((f - e).abs().max() / e.abs().max()) for f, e in zip(found, exact, strict=True))


def table(rows: list[dict[str, float | str]]) -> str:
    """The rows as text, with each peer's time over that of our head of the same kind."""
    time_of = {(row["head"], row["shot"]): float(row["ms"]) for row in rows}
    lines = [
        f"{'head':20} {'shot':>4} {'ms':>9} {'logits off':>11} {'gradient off':>13} {'peer / ours':>12}  in float64"
    ]
    for row in sorted(rows, key=lambda row: (row["shot"], str(row["head"]).split()[1], str(row["head"]))):
        peer = time_of.get((str(row["head"]).replace("pauca", "qpth"), row["shot"]))
        is_peer = str(row["head"]).startswith("qpth")
        ratio = f"{peer / row['ms']:11.1f}x" if peer and not is_peer else 12 * " "
        agreement = f"  {row['float64 off']:10.1e}" if is_peer else ""
        numbers = f"{row['ms']:9.2f} {row['logits off']:11.1e} {row['gradient off']:13.1e}"
        lines.append(f"{row['head']:20} {row['shot']:4} {numbers} {ratio}{agreement}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5, 15])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--peer-python", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.peer_python:
        # The peer's Python brings qpth; everything else, torch first of all, is that of this one.
        here = [str(Path(__file__).parents[1] / "src"), *(path for path in sys.path if "site-packages" in path)]
        arguments = [a for a in sys.argv[1:] if a not in ("--peer-python", str(options.peer_python))]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(here)}
        sys.exit(subprocess.run([options.peer_python, __file__, *arguments], env=environment).returncode)
    torch.set_num_threads(1)
    peers = PEERS if find_spec("qpth") else {}
    rows = measure({**HEADS, **peers}, options.shots, options.repeats)
    machine = describe_machine(" ".join(["python", *sys.argv]))
    print(f"{machine['processor']}, 1 thread, torch {torch.__version__}{'' if peers else '; qpth is not installed'}")
    print(table(rows))
    if options.json:
        write_text(options.json, json.dumps({"machine": machine, "rows": rows}, indent=1), force=True)


if __name__ == "__main__":
    main()
