"""Curves of a model's score while an image is changed step by step, in the order of a map."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Agreement", "Contrast", "Curve", "area", "check_fractions", "even_steps", "first"]


class Curve(NamedTuple):
    """A score with the curve that it sums up.

    Attributes:
        score: (B,); NaN where the map ranks nothing.
        values: (B, S) what the model says at every step; NaN where the map ranks nothing.
        fractions: (S,) how much of the image is changed by then, in [0, 1].
    """

    score: Tensor
    values: Tensor
    fractions: Tensor


class Contrast(NamedTuple):
    """A score that compares two orders.

    Attributes:
        score: (B,); NaN where the map ranks nothing.
        morf: the curve while the most relevant pixels change first.
        lerf: the curve while the least relevant pixels change first.
    """

    score: Tensor
    morf: Curve
    lerf: Curve


class Agreement(NamedTuple):
    """A score that compares what parts of an image are said to be worth with what their loss costs.

    Attributes:
        score: (B,) in [-1, 1]; NaN where the map ranks nothing.
        relevance: (B, N) the sum of the map over each part.
        drops: (B, N) what the model loses without it.
    """

    score: Tensor
    relevance: Tensor
    drops: Tensor


def area(values: Tensor, fractions: Tensor) -> Curve:
    """The area under curves (B, S) over fractions (S,), by the trapezoidal rule."""
    fractions = fractions.to(values)
    return Curve(torch.trapezoid(values, fractions), values, fractions)


def even_steps(patches: int, steps: int) -> Tensor:
    """(S + 1,) numbers of patches from none to all in equal steps; where that is uneven, steps differ by one patch.

    Raises:
        ValueError: fewer steps than one or more than patches.

    Example:
        >>> even_steps(10, 4)
        tensor([ 0,  2,  5,  7, 10])
    """
    if not 1 <= steps <= patches:
        raise ValueError(f"steps must be in [1, {patches}], the number of patches that can change, got {steps}.")
    return torch.arange(steps + 1) * patches // steps


def check_fractions(fractions: Sequence[float], patches: int) -> Tensor:
    """(S,) numbers of patches, ⌊fraction · patches⌋.

    Raises:
        ValueError: fractions that do not increase or leave [0, 1].

    Example:
        >>> check_fractions([0, 0.1, 0.2, 0.9], 16)
        tensor([ 0,  1,  3, 14])
    """
    if not fractions or any(low >= high for low, high in pairwise(fractions)):
        raise ValueError(f"fractions must increase, got {tuple(fractions)}.")
    for fraction in (fractions[0], fractions[-1]):
        if not 0 <= fraction <= 1:
            raise ValueError(f"fractions must be in [0, 1], got {fraction}.")
    return torch.tensor([int(patches * fraction) for fraction in fractions])


def first(counts: Tensor) -> Tensor:
    """(S, 2) windows of ranks: the first ``counts`` patches."""
    return torch.stack([torch.zeros_like(counts), counts], dim=1)
