"""Writes the generated parts of README.md and docs/: run ``python docs/generate.py``.

A generated part stands between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``. Its text comes from the code (class
attributes, signatures, docstrings, pyproject.toml), so that no fact is written twice; tests/test_docs.py fails where a
page is out of date.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from captum_vit import METHODS, BackgroundSuppression, ViTAttribution

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

TESTED = {
    "torch": "2.15",
    "torchvision": "0.29",
    "captum": "0.9",
    "timm": "1.0.31",
    "transformers": "5.23",
    "open_clip_torch": "3.3",
    "numpy": "2.4",
}
"""Versions that this release was tested with."""

_PART = re.compile(r"(<!-- ([\w:-]+):begin -->\n).*?(<!-- \2:end -->)", re.DOTALL)
_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{5})")


def method_table(page: Path) -> str:
    """Every method of `METHODS` with its facts, linked from ``page`` to the method's own page."""
    rows = []
    for name, method in METHODS.items():
        link = os.path.relpath(ROOT / "docs" / "methods" / f"{name}.md", page.parent).replace(os.sep, "/")
        rows.append(
            [
                f"[`{method.__name__}`]({link})",
                _first_line(method),
                _yes(method.class_specific),
                _yes(method.signed),
                method.passes,
                _linked(method.reference),
            ]
        )
    return _table(["method", "what its map shows", "per target", "signed", "cost of a map", "formula from"], rows)


def facts(method: type[ViTAttribution]) -> str:
    """The class attributes of one method, and its options with their defaults."""
    facts_rows = [
        ["class", f"`captum_vit.{method.__name__}`"],
        ["name", method.get_name()],
        ["depends on the target", _yes(getattr(method, "class_specific", None))],
        ["can be negative", _yes(getattr(method, "signed", None))],
        ["cost of a map", method.passes],
        ["formula from", _linked(method.reference)],
    ]
    options = [
        each
        for each in inspect.signature(method).parameters.values()
        if each.kind is inspect.Parameter.KEYWORD_ONLY and each.default is not inspect.Parameter.empty
    ]
    listed = ", ".join(f"`{each.name}={each.default!r}`" for each in options)
    return _table(["fact", "value"], [*facts_rows, ["options", listed or "none"]])


def requirements() -> str:
    """The libraries that matter for results: oldest version taken, and version tested."""
    metadata = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    rows = []
    for library, tested in TESTED.items():
        found = re.search(rf'"{library}>=([\d.]+)"', metadata)
        if found is None:
            raise ValueError(f"pyproject.toml must give a lower bound for {library}, got none.")
        rows.append([library, found[1], tested])
    return _table(["library", "at least", "tested with"], rows)


def generated(page: Path) -> str:
    """The text of ``page`` with every generated part up to date.

    Raises:
        KeyError: a part that nothing generates.
    """
    parts: dict[str, Callable[[], str]] = {"methods": partial(method_table, page), "requirements": requirements}
    pages: dict[str, type[ViTAttribution]] = {**METHODS, "background-suppression": BackgroundSuppression}
    parts |= {f"facts:{name}": partial(facts, method) for name, method in pages.items()}
    return _PART.sub(lambda found: f"{found[1]}{parts[found[2]]()}\n{found[3]}", page.read_text(encoding="utf-8"))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _first_line(method: type[ViTAttribution]) -> str:
    return (inspect.getdoc(method) or "").split("\n")[0].rstrip(".")


def _linked(reference: str) -> str:
    return _ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", reference)


def _yes(fact: bool | None) -> str:
    """A fact; a wrapper's class has none of its own."""
    return "as the method inside" if fact is None else "yes" if fact else "no"


if __name__ == "__main__":
    for each in PAGES:
        each.write_text(generated(each), encoding="utf-8")
