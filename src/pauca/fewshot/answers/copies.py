"""Examples that are one and the same image: copies count once where examples are left out, and labels may disagree."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from pauca.fewshot.answers.examples import Examples, Words

# Of the length of a feature vector: batches of another size round differently, other images are 0.01 off or more.
_SAME = 1e-5


# Bits by which two rows must be alike beyond what makes one pair among all of them so by chance: one in a million.
_MORE_THAN_CHANCE = 20
_ROWS_ASKED = 1000  # of those that differ, how usual a value is
_PAIRS_ASKED = 30_000_000  # values of pairs of rows that are compared: some seconds


class CopiedExamplesWarning(UserWarning):
    """Examples that are copies of one another."""


def copies(features: Float[Tensor, "n d"]) -> Int64[np.ndarray, "n"]:
    """For each example the place of the first one that it is a copy of; its own, mostly."""
    rows = features.double()
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(rows.shape[1], generator=generator, dtype=torch.float64).to(rows.device)
    order = (rows @ direction).argsort(stable=True)  # brings copies together
    sorted_rows = rows[order]
    apart = (sorted_rows[1:] - sorted_rows[:-1]).norm(dim=1) > _SAME * sorted_rows[1:].norm(dim=1)
    run = torch.cat([apart.new_zeros(1), apart]).cumsum(0).cpu().numpy()
    first = np.full(run[-1] + 1, len(rows))
    np.minimum.at(first, run, order.cpu().numpy())
    found = np.empty(len(rows), np.int64)
    found[order.cpu().numpy()] = first[run]
    return found


def no_coincidences(features: Float[Tensor, "n d"], first: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
    """What `copies` found, without rows that may well be equal by chance: few numbers, or counts that are mostly zero.

    Two things have the same value in a column as often as the value is found in it, and columns are taken for
    independent.
    """
    places = np.arange(len(first))
    repeated = np.unique(first[first != places])
    if not len(repeated):
        return first
    distinct = np.flatnonzero(first == places)
    distinct = distinct[:: math.ceil(len(distinct) / _ROWS_ASKED)]
    # The fewer bits of two ways to undo that rows are scaled to length one. Dividing by the largest value does where
    # columns have one zero and one unit; centered or standardized ones are compared pair by pair, which takes longer.
    needed = _MORE_THAN_CHANCE + 2 * math.log2(len(first))
    surely = repeated[_bits_of_columns(features, distinct, repeated) >= needed]
    surely = surely[_bits_of_pairs(features, distinct, surely) >= needed]
    return np.where(np.isin(first, surely), first, places)


def _bits_of_columns(
    features: Float[Tensor, "n d"], distinct: Int64[np.ndarray, "m"], repeated: Int64[np.ndarray, "r"]
) -> Float64[np.ndarray, "r"]:
    """How unusual the values of each repeated row are among the distinct rows, rows divided by their largest value."""
    ordered = _columns(features, distinct).sort(1).values
    asked = _columns(features, repeated)
    count = torch.searchsorted(ordered, asked, right=True) - torch.searchsorted(ordered, asked)
    return (len(distinct) / count.clamp_min(1).double()).log2().sum(0).cpu().numpy()


def _bits_of_pairs(
    features: Float[Tensor, "n d"], distinct: Int64[np.ndarray, "m"], repeated: Int64[np.ndarray, "r"]
) -> Float64[np.ndarray, "r"]:
    """The same, of the values that two rows have alike once one is scaled so that the most of them are."""
    asked = features[torch.from_numpy(repeated).to(features.device)].double()
    columns = asked.shape[1]
    rows = min(len(distinct), max(50, _PAIRS_ASKED // max(1, asked.numel())))
    distinct = distinct[:: math.ceil(len(distinct) / rows)]
    stride = math.ceil(len(distinct) * asked.numel() / _PAIRS_ASKED) or 1
    others = features[torch.from_numpy(distinct).to(features.device), ::stride].double()
    asked = asked[:, ::stride]
    bits = [np.zeros(0)]
    for some in asked.split(max(1, 4_000_000 // max(1, others.numel()))):
        count = _alike(some[:, None], others[None]).sum(1).clamp_min(1).double()
        bits.append((len(distinct) / count).log2().sum(1).cpu().numpy())
    return np.concatenate(bits) * (columns / max(1, asked.shape[1]))


def _alike(one: Float[Tensor, "a 1 d"], other: Float[Tensor, "1 b d"]) -> Bool[Tensor, "a b d"]:
    """The values that are the same in both rows but for a factor, that of most; zero is zero whatever the factor."""
    factor = (one / other).log()  # NaN where the signs differ or both are zero
    factor = factor.where(factor.isfinite(), torch.inf)
    ordered = factor.sort(2).values
    places = torch.arange(ordered.shape[2], device=ordered.device).expand_as(ordered)
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[..., 1:] = ~(ordered[..., 1:] - ordered[..., :-1] <= _SAME)
    start = places.where(begins, 0).cummax(2).values
    length, end = (places - start).max(2, keepdim=True)
    low, high = ordered.gather(2, start.gather(2, end)), ordered.gather(2, end)
    same_factor = (factor >= low) & (factor <= high) & factor.isfinite() & (length > 0)
    return same_factor | ((one == 0) & (other == 0))


def _columns(features: Float[Tensor, "n d"], rows: Int64[np.ndarray, "m"]) -> Float[Tensor, "d m"]:
    """Columns of some rows, each row divided by its largest value: scaled to length one, counts are no counts."""
    chosen = features[torch.from_numpy(rows).to(features.device)].double()
    largest = chosen.abs().amax(1, keepdim=True).clamp_min(torch.finfo(chosen.dtype).tiny)
    return (chosen / largest).round(decimals=9).T.contiguous()


def groups_with_copies(examples: Examples, first: Int64[np.ndarray, "n"]) -> Int64[Tensor, "n"]:
    """The group of each example; copies within a class are of one, and what they are grouped with."""
    numbers = examples.groups.numbers.cpu().numpy().copy()
    firsts: dict[tuple[int, int], int] = {}  # of each image and class: an image may have two
    for place, image in enumerate(zip(first.tolist(), examples.targets.tolist(), strict=True)):
        earlier = firsts.setdefault(image, place)
        if earlier != place:
            numbers[numbers == numbers[place]] = numbers[earlier]
    return torch.from_numpy(numbers).to(examples.targets.device)


def describe_copies(examples: Examples, first: Int64[np.ndarray, "n"], words: Words, of_images: bool = True) -> str:
    """What a user has to know of copies, in words; empty if there are none. Features from elsewhere are no images."""
    word, image = words.examples, of_images and words.images == Words.images
    labels, groups = examples.labels, examples.groups.numbers.cpu().numpy()
    # Nobody has to be told that those are alike which he has put into one group.
    repeated = np.flatnonzero((groups != groups[first]) | (labels != labels[first]))
    if not len(repeated):
        return ""
    disagree = labels[repeated] != labels[first[repeated]]
    contradicting = repeated[disagree]
    total, count, wrong = (_counted(groups[p], words) for p in (slice(None), repeated[~disagree], contradicting))
    sentences = []
    if count:
        sentences.append(
            f"{count} of {total} {word} {'is a copy' if count == 1 else 'are copies'} of another of the same "
            "class, which says nothing new: to find how often the classifier is right, copies count once"
        )
    if wrong:
        place = contradicting[0]
        names: list[Any] = [labels[first[place]].item(), labels[place].item()]
        sentences.append(
            f"{wrong} of {total} {word} {'is' if wrong == 1 else 'are'} the same "
            f"{'image ' if image else ''}as one of another class, first in {names[0]!r} and {names[1]!r}; one of the "
            f"labels is wrong{', and `pauca fewshot data scan` names the files' if image else ''}"
        )
    return "; ".join(sentences)


def _counted(groups: Int64[np.ndarray, "n"], words: Words) -> int:
    """How many there are of what `words` call examples."""
    return len(np.unique(groups)) if words.are_groups else len(groups)
