"""The demo as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import platform
from collections.abc import Sequence
from html import escape
from importlib.metadata import version

import torch

from captum_vit import __version__
from captum_vit.cli.demonstration.scores import COLUMNS, Row, averaged
from captum_vit.cli.demonstration.tables import best, cell, counted, heading

__all__ = ["page"]

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
p, dl, summary { max-width: 46rem; }
.wide { overflow-x: auto; }
img { width: 100%; height: auto; background: white; border-radius: 6px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: bottom; }
th { white-space: normal; }
th:first-child, td:first-child { text-align: left; }
tbody tr:hover { background: var(--soft); }
details { margin: .5rem 0; } summary { cursor: pointer; }
dt { font-weight: 600; } dd { margin: 0 0 .5rem 1rem; }
code { background: var(--soft); padding: .1rem .3rem; border-radius: 4px; }
footer { margin-top: 3rem; font-size: .85rem; opacity: .75; }
"""

_COLUMN = 2.9
"""Width of a column of the figure, as many as methods and one more, below which the page scrolls."""


def page(png: bytes, rows: Sequence[Row], *, command: str) -> str:
    """The whole page.

    Args:
        png: the figure.
        rows: all models and methods.
        command: what reproduces it.
    """
    models = list(dict.fromkeys(row.model for row in rows))
    columns = len({row.method for row in rows})
    single = "".join(
        f"<details><summary>{escape(model)}</summary>{_table([row for row in rows if row.model == model])}</details>"
        for model in models
    )
    meanings = "".join(
        f"<dt>{escape(heading(name))}</dt><dd>{escape(column.meaning)}</dd>" for name, column in COLUMNS.items()
    )
    libraries = ("torch", "timm", "open_clip_torch", "captum")
    versions = ", ".join(f"{name} {version(name)}" for name in libraries)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>captum-vit demo</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Where do vision transformers look?</h1>
<p>Methods of captum_vit on three small trained models and synthetic scenes, whose objects are known to the
pixel.</p>
<div class="wide"><img style="min-width: {columns * _COLUMN:g}rem"
alt="Heat maps: one row per object, one column per method; the object is outlined in white"
src="data:image/png;base64,{base64.b64encode(png).decode()}"></div>
<p>One row per object, outlined in white. Two rows show the same scene and ask for different objects: the map of a
class-specific method moves, that of the others can't. Every map is scaled by itself.</p>
<h2>Scores</h2>
<p>Mean over the models: {counted(rows)}. Arrows point to the better end, the best value
is bold, and a random map shows what chance scores.</p>
{_table(averaged(rows))}
{single}
<h2>What is measured</h2>
<dl>{meanings}</dl>
<p>The classifier, which says of each class whether it is present, has its probabilities by a sigmoid; the models that
compare an image with 64 prompts have theirs by a softmax. These are small models on simple images: an order of
methods here is no order on photographs.</p>
<footer>captum_vit {escape(__version__)}, {escape(versions)}, Python {escape(platform.python_version())},
CPU threads: {torch.get_num_threads()}. Made by <code>{escape(command)}</code></footer>
</body>
</html>
"""


def _table(rows: Sequence[Row]) -> str:
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in ("method", *map(heading, COLUMNS)))
    body = "".join(
        f"<tr><td>{escape(row.method)}</td>{''.join(_cell(rows, row, name) for name in COLUMNS)}</tr>" for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(rows: Sequence[Row], row: Row, name: str) -> str:
    shown = escape(cell(row, name))
    return f"<td><b>{shown}</b></td>" if best(rows, row, name) else f"<td>{shown}</td>"
