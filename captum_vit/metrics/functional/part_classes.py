"""Which parts tell a class from the others, and which it shares with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

__all__ = ["TargetPair", "minimal_sufficient_sets", "target_pair"]

_SHARED = 2


class TargetPair(NamedTuple):
    """Two classes that each share two parts with a third one, and not the same.

    Attributes:
        first: a class.
        second: another class.
        shared_first: the parts that the first one shares.
        shared_second: the parts that the second one shares.
    """

    first: int
    second: int
    shared_first: frozenset[str]
    shared_second: frozenset[str]


def minimal_sufficient_sets(class_parts: Sequence[Mapping[str, int]], label: int) -> list[frozenset[str]]:
    """The sets of parts that no other class has, of which every part is needed for that.

    Args:
        class_parts: for each class the variant of each of its parts.
        label: index of the class.

    Returns:
        Smaller sets first; none where another class has all parts of this one.

    Raises:
        IndexError: no such class.

    Example:
        >>> birds = [{"beak": 0, "tail": 0}, {"beak": 0, "tail": 1}, {"beak": 1, "tail": 0}]
        >>> [sorted(each) for each in minimal_sufficient_sets(birds, 0)]
        [['beak', 'tail']]
    """
    _check_label(class_parts, label)
    others = [_shared(class_parts[label], parts) for k, parts in enumerate(class_parts) if k != label]
    found: list[frozenset[str]] = []
    for size in range(1, len(class_parts[label]) + 1):
        for each in map(frozenset, combinations(class_parts[label], size)):
            if not any(each <= other for other in others) and not any(smaller <= each for smaller in found):
                found.append(each)
    return found


def target_pair(class_parts: Sequence[Mapping[str, int]], label: int) -> TargetPair | None:
    """The first two other classes that share exactly two parts each with a class, and no part both.

    Args:
        class_parts: for each class the variant of each of its parts.
        label: index of the class.

    Returns:
        The pair; None where there is none.

    Raises:
        IndexError: no such class.

    Example:
        >>> birds = [[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 0, 1], [1, 1, 0, 0]]
        >>> class_parts = [dict(zip(("beak", "eye", "tail", "wing"), each)) for each in birds]
        >>> pair = target_pair(class_parts, 0)
        >>> pair.first, pair.second, sorted(pair.shared_first), sorted(pair.shared_second)
        (1, 3, ['beak', 'eye'], ['tail', 'wing'])
    """
    _check_label(class_parts, label)
    shared = {k: _shared(class_parts[label], parts) for k, parts in enumerate(class_parts) if k != label}
    near = [k for k, parts in shared.items() if len(parts) == _SHARED]
    for first, second in combinations(near, 2):
        if not shared[first] & shared[second]:
            return TargetPair(first, second, shared[first], shared[second])
    return None


def _shared(one: Mapping[str, int], other: Mapping[str, int]) -> frozenset[str]:
    return frozenset(part for part, variant in one.items() if other.get(part) == variant)


def _check_label(class_parts: Sequence[Mapping[str, int]], label: int) -> None:
    if not 0 <= label < len(class_parts):
        raise IndexError(f"label must be in [0, {len(class_parts)}), the classes of class_parts, got {label}.")
