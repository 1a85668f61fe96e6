"""The losses of the recipe `strong`."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from pauca.errors import ConfigError
from pauca.fewshot.model import MCRNet
from pauca.fewshot.training.augment import AugmentConfig
from pauca.fewshot.training.bank import ContrastBank
from pauca.fewshot.training.strong import (
    STRONG,
    Answers,
    StrongConfig,
    StrongNetwork,
    distillation,
    losses_of_step,
)

MODEL = replace(STRONG.model, backbone="conv4-32", image_size=16)


def answers(seed: int) -> Answers:
    generator = torch.Generator().manual_seed(seed)
    return Answers(*(torch.randn(6, width, generator=generator) for width in (32, 5, 16, 8)))


def test_distillation_is_nothing_where_the_answers_are_the_same():
    torch.testing.assert_close(distillation(answers(0), answers(0), 4.0), torch.tensor(0.0), atol=1e-5, rtol=0)


def test_distillation_is_the_divergence_of_softened_answers_and_the_angle_of_features():
    ours, theirs = answers(0), answers(1)
    expected = 1 - F.cosine_similarity(ours.features, theirs.features).mean()
    for name in ("classes", "views"):
        p, q = ((getattr(part, name) / 4).softmax(1) for part in (theirs, ours))
        expected = expected + 16 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(distillation(ours, theirs, 4.0), expected)


def test_a_weight_of_zero_leaves_its_part_out_and_the_total_is_the_weighted_sum():
    torch.manual_seed(0)
    network, bank = StrongNetwork(MCRNet(MODEL), 5), ContrastBank(20, 64)
    teacher = StrongNetwork(MCRNet(MODEL), 5).eval().requires_grad_(False)
    images, labels = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8), torch.arange(4)
    config = StrongConfig(views=4, negatives=10, view_weight=0.5, contrast_weight=2.0, distillation_weight=0.25)
    found, seen = losses_of_step(network, bank, teacher, images, labels, config, AugmentConfig(2, flip=True))
    expected = found.cross_entropy + 0.5 * found.views + 2 * found.contrast + 0.25 * found.distillation
    torch.testing.assert_close(found.total, expected)
    torch.testing.assert_close(seen.norm(dim=1), torch.ones(4))
    found.total.backward()
    assert all(p.grad is None for p in teacher.parameters())
    bare = replace(config, view_weight=0.0, contrast_weight=0.0)
    found, _ = losses_of_step(network, bank, None, images, labels, bare, AugmentConfig(2, flip=True))
    torch.testing.assert_close(found.total, found.cross_entropy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generations": 0}, "at least 1 generation"),
        ({"view_weight": -1.0}, "cannot be negative"),
        ({"temperature": 0.0}, "must be positive"),
        ({"warm_up": 1.0}, "warm_up"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        StrongConfig(**changes)


_ONE_GRAPH = """
import torch
from dataclasses import replace
from pauca.fewshot.backbones import set_training_step
from pauca.fewshot.model import MCRNet
from pauca.fewshot.training.augment import AugmentConfig
from pauca.fewshot.training.bank import ContrastBank
from pauca.fewshot.training.strong import STRONG, StrongConfig, StrongNetwork, losses_of_step
model = replace(STRONG.model, image_size=16)
network, teacher = StrongNetwork(MCRNet(model), 5).train(), StrongNetwork(MCRNet(model), 5).eval()
bank, config = ContrastBank(9, 64), StrongConfig(views=4, negatives=5)
def losses(images, labels):
    return losses_of_step(network, bank, teacher, images, labels, config, AugmentConfig(2, flip=True))[0].total
losses = torch.compile(losses, backend="aot_eager", fullgraph=True)
for step in (0, 40_000):
    set_training_step(network, step)
    losses(torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8), torch.arange(2)).backward()
print(torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""


@pytest.mark.slow
def test_a_step_is_one_graph_that_is_compiled_once():
    """A break or a new graph at every step would cost a GPU most of its rate."""
    done = subprocess.run([sys.executable, "-c", _ONE_GRAPH], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "1", done.stderr[-2000:]
