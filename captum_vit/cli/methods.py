"""``captum-vit list``: the methods and their facts."""

from __future__ import annotations

import json
from typing import Annotated

import typer

__all__ = ["list_methods"]

_INSIDE = "as inside"
"""What a wrapper's map depends on, and whether it is signed, is up to the method inside."""


def list_methods(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable, one object per method.")] = False,
) -> None:
    """Print every method with its facts, then what goes around a method."""
    from captum_vit.attr import METHODS, WRAPPERS

    rows: list[dict[str, str | bool]] = [
        {
            "method": command_line_name,
            "name": method.name,
            "class_specific": getattr(method, "class_specific", _INSIDE),
            "signed": getattr(method, "signed", _INSIDE),
            "passes": method.passes,
            "reference": method.reference,
        }
        for command_line_name, method in {**METHODS, **WRAPPERS}.items()
    ]
    typer.echo(json.dumps(rows, indent=2) if as_json else _table(rows))


def _table(rows: list[dict[str, str | bool]]) -> str:
    header = [column.replace("_", "-") for column in rows[0]]
    cells = [[_text(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    lines = [header, ["-" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _text(value: str | bool) -> str:
    return value if isinstance(value, str) else "yes" if value else "no"
