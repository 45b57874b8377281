"""What is asked for of speed and memory, and what a run reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from report import Row, markdown_table


@dataclass(frozen=True)
class Goal:
    """A number that a run is held to.

    Attributes:
        what: what is measured, over what.
        limit: the most that is asked for.
        measured: from the rows of one run to the number; None where they do not hold it.
        at_least: whether ``limit`` is the least instead.
        device: where it is measured.
    """

    what: str
    limit: float
    measured: Callable[[Sequence[Row]], float | None]
    at_least: bool = False
    device: str = "cpu"

    def line(self, got: float) -> list[str]:
        """What was asked for, what was measured, and whether that is enough."""
        reached = got >= self.limit if self.at_least else got <= self.limit
        return [*self.asked(), _short(got), "yes" if reached else "no"]

    def asked(self) -> list[str]:
        """What is measured, and how much of it."""
        return [self.what, f"at {'least' if self.at_least else 'most'} {_short(self.limit)}"]


HEAD = ["measured", "asked for", "got", "reached"]


def goal_table(goals: Iterable[Goal], rows: Sequence[Row]) -> str:
    """The goals that one run measured."""
    found = ((goal, goal.measured(rows)) for goal in goals)
    return markdown_table(HEAD, [goal.line(got) for goal, got in found if got is not None])


def overview(parts: Iterable[tuple[Iterable[Goal], dict[str, Sequence[Row]], dict[str, str]]]) -> str:
    """All goals, those that were not measured with the command that measures them.

    Args:
        parts: for each, its goals; the rows of the latest run of each device; the command for each device.
    """
    lines = []
    for goals, runs, commands in parts:
        for goal in goals:
            got = goal.measured(runs.get(goal.device, []))
            if got is None:
                lines.append([goal.device, *goal.asked(), "not measured", f"`{commands[goal.device]}` fills this in"])
            else:
                lines.append([goal.device, *goal.line(got)])
    return markdown_table(["device", *HEAD], lines)


def value(rows: Iterable[Row], field: str, **wanted: Any) -> float | None:
    """A number of the row that has these values; None where there is none."""
    found = (row[field] for row in rows if all(str(row[name]) == str(each) for name, each in wanted.items()))
    number = next(found, "")
    return None if number in ("", None) else float(number)


def share(number: float | None, of: float | None) -> float | None:
    """A quotient, of numbers that were measured."""
    return None if number is None or of is None else number / of


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 20 else f"{number:.2f}"
