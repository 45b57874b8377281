"""Curves of a model's score while an image is changed step by step, in the order of a map."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import floor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captum_vit.metrics.functional.maps import check_integer

__all__ = ["Agreement", "Contrast", "Curve", "area", "check_fractions", "even_steps", "first", "shares_of"]


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
        TypeError: steps that are no integer.
        ValueError: fewer steps than one or more than patches.

    Example:
        >>> even_steps(10, 4)
        tensor([ 0,  2,  5,  7, 10])
    """
    check_integer("steps", steps)
    if not 1 <= steps <= patches:
        raise ValueError(f"steps must be in [1, {patches}], the number of patches that can change, got {steps}.")
    return torch.arange(steps + 1) * patches // steps


def check_fractions(fractions: Sequence[float] | Tensor | NDArray[np.floating[Any]]) -> tuple[float, ...]:
    """The fractions as numbers, if they increase inside [0, 1].

    Of single precision they are read as they are printed: 0.7, not 0.699999988.

    Raises:
        TypeError: no sequence of numbers.
        ValueError: none, fractions that do not increase, or that leave [0, 1].

    Example:
        >>> check_fractions(torch.tensor([0.1, 0.2, 0.7]))
        (0.1, 0.2, 0.7)
    """
    numbers = np.asarray(fractions.cpu() if isinstance(fractions, Tensor) else fractions)
    if numbers.ndim != 1 or numbers.dtype.kind not in "fiu":
        raise TypeError(f"fractions must be a sequence of numbers, got {fractions!r}.")
    values = tuple(float(str(each)) for each in numbers)
    if not values or not all(low < high for low, high in pairwise(values)):
        raise ValueError(f"fractions must increase, got {values}.")
    for value in (values[0], values[-1]):
        if not 0 <= value <= 1:
            raise ValueError(f"fractions must be in [0, 1], got {value}.")
    return values


def shares_of(patches: int, fractions: Sequence[float]) -> Tensor:
    """(S,) numbers of patches, ⌊fraction · patches⌋.

    A product that rounding leaves less than 1e-9 below an integer is that integer: 0.29 of 100 are 29, though the
    product of floats is 28.999….

    Example:
        >>> shares_of(16, [0, 0.1, 0.2, 0.9])
        tensor([ 0,  1,  3, 14])
    """
    return torch.tensor([floor(patches * fraction + 1e-9) for fraction in fractions])


def first(counts: Tensor) -> Tensor:
    """(S, 2) windows of ranks: the first ``counts`` patches."""
    return torch.stack([torch.zeros_like(counts), counts], dim=1)
