"""What a classifier says of its own examples when it has not seen them."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pauca.fewshot.answers.groups import pairs, shares, voted
from pauca.fewshot.network import FewShotModel
from pauca.fewshot.types import PADDING

# Each example is left out once, together with one of every other class, so that all classes have one less and none is
# at a disadvantage: of 2 examples in 10 classes the probabilities of examples that are left out alone are off by 0.12,
# of these by 0.03 (CIFAR-100, EfficientNet-Lite0). More than so many parts change nothing and take long.
_MOST_PARTS = 20
_FEW = 200  # examples; with more a part is five times as cheap to leave out
_VALUES_AT_ONCE = 8_000_000


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Logits of the examples that were left out; those that are their class's only one are not among them."""

    logits: Float[Tensor, "m way"]
    labels: Int64[Tensor, "m"]
    shots: float  # harmonic mean over the classes of how many examples of each there are, or groups of examples
    weights: Float[Tensor, "m"]  # what each counts: 1, and the members of a group 1 together

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def trials(self) -> float:
        """As how many examples they count."""
        return float(self.weights.sum())


@torch.no_grad()
def hold_out(
    model: FewShotModel,
    features: Float[Tensor, "n d"],
    targets: Int64[Tensor, "n"],
    way: int,
    groups: Int64[Tensor, "n"] | None = None,
    votes: bool = False,
) -> HeldOut | None:
    """Classify each example by the others, one of each class left out at a time.

    Examples of one group are left out together; None makes a group of each. With `votes` those of one group and class
    answer together, as one.
    None if no two classes have two groups: then there is nothing to be learned from leaving one out.
    """
    places, class_of_pair = pairs(targets, groups)
    counts = torch.bincount(class_of_pair, minlength=way)
    if int((counts >= 2).sum()) < 2:
        return None
    parts = most_parts(int(counts.max()), len(class_of_pair))
    part_of = _parts(targets, groups, way, parts)
    logits, labels, members = [], [], []
    size = max(1, _VALUES_AT_ONCE // features.numel())
    for chosen in torch.arange(parts, device=targets.device).split(size):
        left_out = (part_of == chosen[:, None]) & _others_are_left(part_of, targets, way, chosen)  # parts n
        support_labels = torch.where(left_out, PADDING, targets)
        found = model.classify(
            features.expand(len(chosen), -1, -1), support_labels, features.expand(len(chosen), -1, -1), way
        )
        logits.append(found[left_out])
        labels.append(targets.expand_as(left_out)[left_out])
        members.append(places.expand_as(left_out)[left_out])
    shots = float(1 / counts[counts >= 2].double().reciprocal().mean())
    kept, member_of = torch.cat(members).unique(return_inverse=True)
    if votes:
        answers, asked = voted(torch.cat(logits), member_of), class_of_pair[kept]
        return HeldOut(answers, asked, shots, answers.new_ones(len(asked), dtype=torch.float64))
    return HeldOut(torch.cat(logits), torch.cat(labels), shots, shares(member_of))


def most_parts(largest: int, examples: int) -> int:
    """In how many parts so many examples are left out, of which the largest class has so many."""
    return min(largest, _MOST_PARTS if examples <= _FEW else _MOST_PARTS // 4)


def _parts(targets: Int64[Tensor, "n"], groups: Int64[Tensor, "n"] | None, way: int, parts: int) -> Int64[Tensor, "n"]:
    """The part that each example is left out with: each class's in turn, and the whole of a group at once."""
    if groups is None:
        of_class = torch.nn.functional.one_hot(targets, way)
        return ((of_class.cumsum(0) * of_class).sum(1) - 1) % parts
    # A group may have examples of several classes, so it goes where the fewest groups of these classes are.
    taken = torch.zeros(parts, way, dtype=torch.int64)
    part_of: dict[int, int] = {}
    members: dict[int, set[int]] = {}
    for group, target in zip(groups.tolist(), targets.tolist(), strict=True):
        members.setdefault(group, set()).add(target)
    for group, classes in members.items():
        own = sorted(classes)
        part_of[group] = int(taken[:, own].sum(1).argmin())
        taken[part_of[group], own] += 1
    return torch.tensor([part_of[group] for group in groups.tolist()], device=targets.device)


def _others_are_left(
    part_of: Int64[Tensor, "n"], targets: Int64[Tensor, "n"], way: int, chosen: Int64[Tensor, "p"]
) -> Bool[Tensor, "p n"]:
    """Whether the class of each example has others outside each of the chosen parts."""
    outside = (part_of != chosen[:, None]).long() @ torch.nn.functional.one_hot(targets, way)
    return outside[:, targets] > 0
