"""A protocol's numbers beside those of the paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from captum_vit.evaluation.protocols.base import Protocol

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["ProtocolResult"]


@dataclass(frozen=True, eq=False)
class ProtocolResult:
    """What a protocol found.

    Attributes:
        protocol: what was done.
        table: one row per method, model and column, in the paper's order: ``ours``, ``low`` and ``high`` (95 %
            confidence interval: bootstrap over images) and ``published``, all in the paper's units; NaN where there is
            no number.
        notes: what the paper leaves open, what was chosen, what stands in for what, and which methods are missing.
    """

    protocol: Protocol
    table: DataFrame
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        return self.markdown()

    def _repr_markdown_(self) -> str:
        """As notebooks show it."""
        return self.markdown()

    def markdown(self) -> str:
        """Title, table and notes. A cell is our number ± half its confidence interval, and the paper's in brackets."""
        columns = list(dict.fromkeys(self.table["column"]))
        lines = [["method", "model", *columns], ["---"] * (len(columns) + 2)]
        digits = {column.name: column.digits for run in self.protocol.runs for column in run.columns}
        for (method, model), rows in self.table.groupby(["method", "model"], sort=False):
            row_of = {row["column"]: row for row in rows.to_dict("records")}
            cells = [_cell(row_of[each], digits[each]) if each in row_of else "" for each in columns]
            lines.append([str(method), str(model), *cells])
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        notes = "\n".join(f"- {each}" for each in self.notes)
        return (
            f"## {self.protocol.name}: {self.protocol.title}\n\n{table}\n\n"
            f"Ours ± half of the 95 % confidence interval (the paper's): {self.protocol.reference}.\n\n{notes}\n"
        )


def _cell(row: dict[str, float], digits: int) -> str:
    known = {name: row[name] == row[name] for name in ("ours", "low", "published")}  # NaN differs from itself
    ours = f"{row['ours']:.{digits}f}" if known["ours"] else "–"
    half = f" ± {(row['high'] - row['low']) / 2:.{digits}f}" if known["low"] else ""
    return f"{ours}{half}" + (f" ({row['published']:.{digits}f})" if known["published"] else "")
