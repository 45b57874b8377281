"""Checks of options: each returns the value in its own type, or raises an error with the option's name and value."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable
from math import inf, isfinite
from numbers import Real
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "OptionTypeError",
    "checked_block",
    "checked_blocks",
    "checked_choice",
    "checked_integer",
    "checked_number",
    "checked_switch",
    "is_integer",
]

Choice = TypeVar("Choice", bound=str)


class OptionTypeError(TypeError):
    """An option of another type than it must be; other TypeErrors of a constructor are about the model."""


def checked_switch(name: str, value: bool) -> bool:
    """A switch.

    Raises:
        OptionTypeError: neither True nor False.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise OptionTypeError(f"{name} must be True or False, got {value!r}.")
    return bool(value)


def checked_choice(name: str, value: Choice, choices: Collection[Choice]) -> Choice:
    """One of two or more words.

    Raises:
        ValueError: none of them.
    """
    if not isinstance(value, str) or value not in choices:
        *first, last = map(repr, choices)
        raise ValueError(f"{name} must be {', '.join(first)} or {last}, got {value!r}.")
    return value


def checked_integer(name: str, value: int, low: int, high: int | None = None) -> int:
    """An integer of at least ``low`` and at most ``high``.

    Raises:
        OptionTypeError: no integer.
        ValueError: one outside these limits.
    """
    number = _integer(name, value)
    if number < low or (high is not None and number > high):
        raise ValueError(
            f"{name} must be {f'at least {low}' if high is None else f'in [{low}, {high}]'}, got {number}."
        )
    return number


def checked_number(
    name: str,
    value: float,
    low: float = -inf,
    high: float = inf,
    *,
    above: bool = False,
    below: bool = False,
    finite: bool = True,
) -> float:
    """A number of an interval.

    Args:
        name: of the option.
        value: what was given.
        low: its least value.
        high: its greatest value.
        above: whether ``low`` itself is refused.
        below: whether ``high`` itself is refused.
        finite: whether infinity is refused; NaN always is.

    Raises:
        OptionTypeError: no real number.
        ValueError: one outside the interval.
    """
    if isinstance(value, (bool, Tensor)) or not isinstance(value, Real):
        raise OptionTypeError(f"{name} must be a number, got {value!r}.")
    number = float(value)
    fits = (low < number if above else low <= number) and (number < high if below else number <= high)
    if not fits or (finite and not isfinite(number)):
        if high < inf:
            wanted = f"in {'(' if above else '['}{low:g}, {high:g}{')' if below else ']'}"
        else:
            least = f"{'above' if above else 'at least'} {low:g}" if low > -inf else ""
            wanted = " and ".join(filter(None, ["finite" if finite else "", least]))
        raise ValueError(f"{name} must be {wanted}, got {value}.")
    return number


def checked_block(name: str, value: int, depth: int, also: str = "") -> int:
    """The index from 0 of a block, negative from the last.

    Args:
        name: of the option.
        value: what was given.
        depth: the number of blocks.
        also: what else the option may be, for the message.

    Raises:
        OptionTypeError: no integer.
        ValueError: no such block.
    """
    index = _integer(name, value, also)
    if not -depth <= index < depth:
        raise ValueError(f"{name} must be in [{-depth}, {depth - 1}]{also}, got {index}.")
    return index % depth


def checked_blocks(name: str, values: Iterable[int], depth: int) -> list[int]:
    """The indices from 0 of some blocks, each once and in their order.

    Raises:
        OptionTypeError: no list of integers.
        ValueError: no block, or one that does not exist.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0:
        hint = f"; write [{values!r}]" if is_integer(values) else ""
        raise OptionTypeError(f"{name} must be a list of indices, got {values!r}{hint}.")
    chosen = list(values)
    if not chosen:
        raise ValueError(f"{name} must hold at least one index, got none.")
    for each in chosen:
        if not is_integer(each):
            raise OptionTypeError(f"{name} must hold integers, got {each!r}.")
    return sorted({checked_block(name, each, depth) for each in chosen})


def _integer(name: str, value: int, also: str = "") -> int:
    if not is_integer(value):
        raise OptionTypeError(f"{name} must be an integer{also}, got {value!r}.")
    return operator.index(value)


def is_integer(value: Any) -> bool:
    """Whether a value counts: also NumPy's and a tensor of one integer, but no truth value."""
    if isinstance(value, (bool, np.bool_)) or (isinstance(value, Tensor) and value.dtype == torch.bool):
        return False
    try:
        operator.index(value)
    except (TypeError, ValueError):
        return False
    return True
