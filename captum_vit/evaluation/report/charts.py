"""Lines over steps or blocks, as SVG that takes its colours from the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, isfinite, log10, nan

__all__ = ["Line", "chart"]

_WIDTH, _HEIGHT = 480, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 44
_COLOURS, _DASHES = 7, ("", "6 3", "2 3", "8 3 2 3", "1 4")


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        x: where its points are.
        y: how high they are.
        low: lower end of a band, where there is one.
        high: upper end.
    """

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def chart(lines: Mapping[str, Line], *, title: str, x: str, y: str) -> str:
    """A figure with a caption, a legend, and the numbers as a table that can be opened.

    Lines are told apart by colour and dashes: 7 × 5 pairs before one comes again. Points that are not finite are left
    out.

    Args:
        lines: by name.
        title: the caption.
        x: what the horizontal axis is.
        y: what the vertical axis is.
    """
    across = _ticks([value for each in lines.values() for value in each.x])
    up = _ticks([value for each in lines.values() for value in (*each.y, *each.low, *each.high) if isfinite(value)])
    label = escape(f"{title}: {y} by {x}, numbers below")
    drawn = "".join(_line(each, number, across, up) for number, each in enumerate(lines.values()))
    keys = "".join(
        f'<li><svg class="key" viewBox="0 0 28 8" aria-hidden="true"><line x1="0" y1="4" x2="28" y2="4" '
        f"{_style(number)}/></svg>{escape(name)}</li>"
        for number, name in enumerate(lines)
    )
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
        f"{_axes(across, up, x, y)}{drawn}</svg>"
        f'<ul class="legend">{keys}</ul>{_numbers(lines, title, x)}</figure>'
    )


def _ticks(values: Sequence[float]) -> list[float]:
    """Round numbers around all values, the first below and the last above them."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    spread = (high - low) or abs(high) or 1.0
    power = 10 ** floor(log10(spread / 4))
    step = next(each * power for each in (1, 2, 5, 10) if each * power >= spread / 5)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _place(value: float, ticks: Sequence[float], start: float, end: float) -> float:
    return round(start + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (end - start), 1)


def _x(value: float, ticks: Sequence[float]) -> float:
    return _place(value, ticks, _LEFT, _WIDTH - _RIGHT)


def _y(value: float, ticks: Sequence[float]) -> float:
    return _place(value, ticks, _HEIGHT - _BOTTOM, _TOP)


def _style(number: int) -> str:
    dash = _DASHES[number % len(_DASHES)]
    return f'class="line c{number % _COLOURS}"' + (f' stroke-dasharray="{dash}"' if dash else "")


def _line(line: Line, number: int, across: Sequence[float], up: Sequence[float]) -> str:
    colour = f"c{number % _COLOURS}"
    points = [(_x(a, across), _y(b, up)) for a, b in zip(line.x, line.y, strict=True) if isfinite(b)]
    drawn = f'<polyline points="{_joined(points)}" {_style(number)}/>'
    if len(points) == 1:
        drawn = f'<circle cx="{points[0][0]}" cy="{points[0][1]}" r="3" class="dot {colour}"/>'
    ends = zip(line.x, line.low, line.high, strict=True) if line.low else ()
    known = [(_x(a, across), _y(b, up), _y(c, up)) for a, b, c in ends if isfinite(b + c)]
    band = _joined([*((a, b) for a, b, _ in known), *((a, c) for a, _, c in reversed(known))])
    return (f'<polygon points="{band}" class="band {colour}"/>' if band else "") + drawn


def _joined(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


def _axes(across: Sequence[float], up: Sequence[float], x: str, y: str) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = [
        f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{_y(each, up)}" y2="{_y(each, up)}"/>'
        f'<text class="end" x="{_LEFT - 8}" y="{_y(each, up) + 4}">{each:.4g}</text>'
        for each in up
    ]
    parts += [f'<text class="middle" x="{_x(each, across)}" y="{bottom + 17}">{each:.4g}</text>' for each in across]
    parts.append(f'<text class="middle" x="{(_LEFT + right) / 2}" y="{_HEIGHT - 6}">{escape(x)}</text>')
    parts.append(f'<text class="middle" transform="translate(13 {bottom / 2}) rotate(-90)">{escape(y)}</text>')
    return "".join(parts)


def _numbers(lines: Mapping[str, Line], title: str, x: str) -> str:
    columns = list(dict.fromkeys(value for each in lines.values() for value in each.x))
    head = "".join(f'<th scope="col">{value:.4g}</th>' for value in columns)
    rows = []
    for name, each in lines.items():
        at = dict(zip(each.x, each.y, strict=True))
        found = (at.get(value, nan) for value in columns)
        cells = "".join(f"<td>{value:.3g}</td>" if isfinite(value) else "<td>–</td>" for value in found)
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    label = escape(f"{title}: numbers")
    return (
        f'<details><summary>Numbers<span class="unseen"> of {escape(title)}</span></summary>'
        f'<div class="wide" role="region" tabindex="0" aria-label="{label}"><table>'
        f'<caption>{escape(title)}</caption><thead><tr><th scope="col">{escape(x)}</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></details>"
    )
