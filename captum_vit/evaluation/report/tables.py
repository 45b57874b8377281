"""Tables and lists of a report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from math import isfinite
from typing import Any

from captum_vit.evaluation.report.charts import Line, chart
from captum_vit.evaluation.result import Result

__all__ = ["configuration", "curves", "means", "table"]

_DIRECTION = {
    True: ' <span aria-hidden="true">↑</span><span class="unseen">more is better</span>',
    False: ' <span aria-hidden="true">↓</span><span class="unseen">less is better</span>',
    None: "",
}


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first cells name the rows; all cells are HTML, the caption is text."""
    top = "".join(f'<th scope="col">{each}</th>' for each in head)
    body = "".join(f'<tr><th scope="row">{first}</th>{"".join(rest)}</tr>' for first, *rest in rows)
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def means(result: Result) -> str:
    """Every method's scores with their intervals, what they leave out, and what a map costs."""
    found, costs = result.table(), result.costs().set_index("method")
    names = list(dict.fromkeys(found["metric"]))
    best = {name: _best(found[found["metric"] == name]["value"], result.higher_is_better(name)) for name in names}
    cells = {(row["method"], row["metric"]): row for row in found.to_dict("records")}
    rows = []
    for method in dict.fromkeys(found["method"]):
        mine = [cells[method, name] for name in names]
        counts = [max(int(each[key]) for each in mine) for key in ("maps", "blank", "excluded")]
        cost = [f"{costs.loc[method, 'milliseconds']:.1f}", _number(costs.loc[method, "peak_mb"], ".0f")]
        scores = [_score(each, best[each["metric"]]) for each in mine]
        rows.append([escape(method), *scores, *(f"<td>{each}</td>" for each in (*counts, *cost))])
    head = [_breakable(name) + _DIRECTION[result.higher_is_better(name)] for name in names]
    rest = ["maps", "blank maps", "without a value", "ms per map", "peak MB"]
    return table("Scores of the methods, with 95 % intervals", ["method", *head, *rest], rows)


def _breakable(name: str) -> str:
    """A name that may go on in another line after a bracket, a line or a sign."""
    return "".join(f"{escape(each)}<wbr>" if each in "(_=" else escape(each) for each in name)


def _best(values: Any, better: bool | None) -> float | None:
    return None if better is None or values.isna().all() else float(values.max() if better else values.min())


def _score(row: Mapping[str, Any], best: float | None) -> str:
    value = _number(row["value"], ".3f")
    shown = f"<strong>{value}</strong>" if row["value"] == best else value
    low, high = _number(row["low"], ".3f"), _number(row["high"], ".3f")
    return (
        f'<td>{shown} <span class="interval">{low} to {high}</span></td>'
        if isfinite(row["low"])
        else f"<td>{shown}</td>"
    )


def _number(value: float, form: str) -> str:
    return format(value, form) if isfinite(value) else "–"


def curves(result: Result) -> str:
    """A chart for every metric that has mean curves; nothing where none has."""
    charts = []
    for metric, rows in result.curves().groupby("metric", sort=False):
        lines = {
            str(method): Line(each["fraction"].tolist(), each["value"].tolist())
            for method, each in rows.groupby("method", sort=False)
        }
        charts.append(chart(lines, title=str(metric), x="share of the image that is changed", y="mean over the maps"))
    return f'<div class="charts">{"".join(charts)}</div>' if charts else ""


def configuration(config: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """What was evaluated, and with what, as one table."""
    flat = {**config, **config.get("versions", {}), **about}
    left_out = ("versions", "classes", "outputs", "unsupported")
    rows = [[escape(name), f"<td>{escape(_text(value))}</td>"] for name, value in flat.items() if name not in left_out]
    return table("Configuration and versions", ["name", "value"], rows)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
