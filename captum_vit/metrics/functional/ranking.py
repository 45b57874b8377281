"""Pixels in the order of a map, equal ones together."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["counts_by_rank"]


def counts_by_rank(values: Tensor, *marks: Tensor) -> list[tuple[Tensor, Tensor]]:
    """How many marked elements have been met when the values are walked through from the highest, ties in one step.

    Args:
        values: (B, N).
        marks: each (B, N) boolean.

    Returns:
        For each of the marks, (B, N) counts after every step and before it. Of equal values only the last is a step;
        at the others both counts stay what they were.

    Example:
        >>> values, marked = torch.tensor([[5.0, 7.0, 5.0, 1.0]]), torch.tensor([[True, False, True, True]])
        >>> counts_by_rank(values, marked)
        [(tensor([[0, 0, 2, 3]]), tensor([[0, 0, 0, 2]]))]
    """
    ordered, order = values.sort(dim=1, descending=True)
    last = pad(ordered[:, 1:] != ordered[:, :-1], (0, 1), value=True)
    counts = []
    for marked in marks:
        met = marked.gather(1, order).cumsum(1)
        after = torch.where(last, met, 0).cummax(1).values
        counts.append((after, pad(after[:, :-1], (1, 0))))
    return counts
