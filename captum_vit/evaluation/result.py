"""What an evaluation found: records, tables, confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from captum_vit.evaluation.bootstrap import drawn_counts, interval, sums_by_sample
from captum_vit.evaluation.store import Record
from captum_vit.metrics.base import ImageMean

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Result"]


@dataclass(frozen=True, eq=False)
class Result:
    """The scores of every map, and what they amount to.

    Attributes:
        records: one per map in the order of the dataset, and one per sample that was skipped.
        metrics: by their names in the records.
        unsupported: methods that can't explain the model, with the reason.
    """

    records: Sequence[Record]
    metrics: Mapping[str, Metric]
    unsupported: Mapping[str, str]
    _tables: dict[tuple[int, int], DataFrame] = field(default_factory=dict, init=False, repr=False)

    def __repr__(self) -> str:
        """What was measured, and the table without the intervals, which take time."""
        table = self.text(resamples=0) if self._by_method() and self.metrics else "no scores"
        return f"{self._counts()}\n{table}"

    def _repr_markdown_(self) -> str:
        """The table of `markdown`, as notebooks show it."""
        return self.markdown() if self._by_method() and self.metrics else self._counts()

    def _repr_html_(self) -> str:
        """The table of `markdown`, as notebooks show it."""
        counts = f"<p>{escape(self._counts())}</p>"
        if not (self._by_method() and self.metrics):
            return counts
        header, *rows = self._cells(3)
        head = "".join(f"<th>{escape(each)}</th>" for each in header)
        body = "".join(f"<tr>{''.join(f'<td>{escape(each)}</td>' for each in row)}</tr>" for row in rows)
        return f"{counts}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _counts(self) -> str:
        methods = self._by_method()
        samples = {each["sample"] for each in self.records} - self.skipped.keys()
        maps = sum(map(len, methods.values()))
        left_out = f", {len(self.unsupported)} methods that can't explain the model" if self.unsupported else ""
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        return f"Result: {len(methods)} methods, {maps} maps of {len(samples)} samples{skipped}{left_out}"

    @property
    def skipped(self) -> dict[str, str]:
        """Samples that could not be read, with the reason."""
        return {each["sample"]: each["skipped"] for each in self.records if "skipped" in each}

    @property
    def predicted(self) -> int:
        """Maps of the predicted class that were asked for by regions without a class or prompt of their own."""
        return sum(bool(each.get("predicted")) for each in self.records)

    def table(self, *, resamples: int = 1000, seed: int = 0) -> DataFrame:
        """One row per method and score.

        Args:
            resamples: of the bootstrap over images.
            seed: of the resampling.

        Returns:
            Columns ``method``, ``metric``, ``value``, ``low`` and ``high`` (95 % confidence interval: percentile
            bootstrap over samples; NaN where there is but one), ``maps`` that count, ``excluded`` maps without a value,
            and ``blank`` maps that the method refused to make.
        """
        from pandas import DataFrame

        if (resamples, seed) in self._tables:
            return self._tables[resamples, seed].copy()
        rows = []
        for method, records in self._by_method().items():
            maps = [each for each in records if "scores" in each]
            for name, metric in self.metrics.items():
                scored = [each for each in maps if name in each["scores"]]
                for score, (value, low, high), counts in _scores(name, metric, scored, resamples, seed):
                    row = {"method": method, "metric": score, "value": value, "low": low, "high": high, **counts}
                    rows.append(row | {"blank": len(records) - len(maps)})
        self._tables[resamples, seed] = DataFrame(rows)
        return self._tables[resamples, seed].copy()

    def costs(self) -> DataFrame:
        """What the maps of each method cost, metrics not included.

        Returns:
            Columns ``method``, ``maps`` that were asked for, ``milliseconds`` per map (median; a forward pass that
            several methods used counts for each of them), and ``peak_mb`` that one batch of maps takes over the loaded
            model, NaN where the system does not tell.
        """
        from pandas import DataFrame

        rows = []
        for method, records in self._by_method().items():
            peaks = [each["bytes"] for each in records if each.get("bytes") is not None]
            seconds = float(np.median([each["seconds"] for each in records]))
            peak = max(peaks) / 1e6 if peaks else np.nan
            rows.append({"method": method, "maps": len(records), "milliseconds": 1000 * seconds, "peak_mb": peak})
        return DataFrame(rows)

    def per_map(self) -> DataFrame:
        """One row per map: sample, region, label, target, method, why it is blank, and every score of this map alone.

        The mean of a column is the score of a method only where the metric is a mean over maps.
        """
        from pandas import DataFrame

        rows = []
        for record in self.records:
            if "method" not in record:
                continue
            row = {name: record[name] for name in ("sample", "region", "label", "target", "method")}
            row["blank"] = record.get("blank")
            for name, state in record.get("scores", {}).items():
                sums = {key: values.sum(0) for key, values in _unpacked([state], self.metrics[name]).items()}
                row |= {_title(name, key): value for key, value in _computed(self.metrics[name], sums).items()}
            rows.append(row)
        return DataFrame(rows)

    def wide(self, **options: Any) -> DataFrame:
        """One row per method, one column per score."""
        return _wide(self.table(**options))

    def markdown(self, *, digits: int = 3, **options: Any) -> str:
        """The table of `wide` with half the width of each confidence interval, and what it does not count.

        The number of maps without a value is the largest of any score.
        """
        header, *rows = self._cells(digits, **options)
        return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))

    def _cells(self, digits: int, **options: Any) -> list[list[str]]:
        """The table of `markdown`, its header first."""
        table = self.table(**options)
        wide = _wide(table)
        half = (table["high"] - table["low"]).div(2).to_numpy()
        halves = dict(zip(zip(table["method"], table["metric"], strict=True), half, strict=True))
        lost = table.groupby("method")[["blank", "excluded"]].max()
        lines = [["method", *wide.columns, "blank", "without a value"]]
        for method, row in wide.iterrows():
            cells = [_cell(value, halves[method, metric], digits) for metric, value in row.items()]
            lines.append([str(method), *cells, *map(str, lost.loc[method])])
        return lines

    def text(self, *, digits: int = 2, **options: Any) -> str:
        """The table of `markdown` for a terminal: numbered columns, and below them what they are and where good is."""
        table = self.table(**options)
        wide = _wide(table)
        half = (table["high"] - table["low"]).div(2).to_numpy()
        halves = dict(zip(zip(table["method"], table["metric"], strict=True), half, strict=True))
        lines = [["method", *(f"[{number}]" for number in range(1, len(wide.columns) + 1))]]
        for method, row in wide.iterrows():
            lines.append([str(method), *(_cell(value, halves[method, each], digits) for each, value in row.items())])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rows = [
            "  ".join([cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))])
            for cells in lines
        ]
        names = [f"[{number}] {title} {self._arrow(title)}" for number, title in enumerate(wide.columns, 1)]
        return "\n".join([*rows, "", *map(str.rstrip, names)])

    def _arrow(self, title: str) -> str:
        """Whether more is better, as far as the metric says so."""
        named = (metric for name, metric in self.metrics.items() if f"{title} ".startswith(f"{name} "))
        return {True: "↑", False: "↓", None: ""}[next(named).higher_is_better]

    def latex(self, *, digits: int = 3, **options: Any) -> str:
        """The table of `wide` for LaTeX, with rules of the package booktabs."""
        text: str = self.wide(**options).to_latex(float_format=f"%.{digits}f", escape=True)
        return text

    def write(self, folder: str | Path, **options: Any) -> None:
        """Writes ``table.csv``, ``table.md``, ``table.tex``, ``costs.csv`` and ``maps.csv``.

        Args:
            folder: which exists.
            options: of `table`.

        Raises:
            OSError: a file that can't be written.
        """
        folder = Path(folder)
        self.table(**options).to_csv(folder / "table.csv", index=False)
        (folder / "table.md").write_text(f"{self.markdown(**options)}\n", encoding="utf-8")
        (folder / "table.tex").write_text(self.latex(**options), encoding="utf-8")
        self.costs().to_csv(folder / "costs.csv", index=False)
        self.per_map().to_csv(folder / "maps.csv", index=False)

    def _by_method(self) -> dict[str, list[Record]]:
        methods: dict[str, list[Record]] = {}
        for each in self.records:
            if "method" in each:
                methods.setdefault(each["method"], []).append(each)
        return methods


def _cell(value: float, half: float, digits: int) -> str:
    """A number with half the width of its interval, where it has one."""
    return f"{value:.{digits}f}" if np.isnan(half) else f"{value:.{digits}f} ± {half:.{digits}f}"


def _wide(table: DataFrame) -> DataFrame:
    wide = table.pivot(index="method", columns="metric", values="value")
    wide = wide.loc[table["method"].unique(), table["metric"].unique()]
    return wide.rename_axis(columns=None)


def _scores(
    name: str, metric: Metric, records: Sequence[Record], resamples: int, seed: int
) -> list[tuple[str, tuple[float, float, float], dict[str, int]]]:
    """Every score of a metric: its name, value with interval, and the numbers of maps that count and do not."""
    states = _unpacked([each["scores"][name] for each in records], metric)
    samples = [each["sample"] for each in records]
    sums = {key: sums_by_sample(values, samples) for key, values in states.items()}  # (samples, …)
    whole = _computed(metric, {key: values.sum(0) for key, values in sums.items()})
    counts = {key: int(states[key].sum()) if key in states else 0 for key in ("images", "excluded")}
    counted = {"maps": counts["images"], "excluded": counts["excluded"]}
    count = len(next(iter(sums.values())))
    drawn = dict.fromkeys(whole, np.empty(0))
    if count > 1 and resamples:
        weights = drawn_counts(count, resamples, seed)
        drawn = _drawn(metric, {key: torch.tensordot(weights, values.double(), 1) for key, values in sums.items()})
    return [(_title(name, key), (value, *interval(drawn[key])), counted) for key, value in whole.items()]


def _drawn(metric: Metric, states: Mapping[str, Tensor]) -> dict[str, NDArray[np.float64]]:
    """What the metric makes of many states (resamples, …), by name."""
    if type(metric).compute is ImageMean.compute:  # a quotient of two sums, which works on all at once
        return {"": (states["total"] / states["images"]).numpy()}
    resamples = len(next(iter(states.values())))
    values = [_computed(metric, {name: each[draw] for name, each in states.items()}) for draw in range(resamples)]
    return {key: np.array([each[key] for each in values]) for key in values[0]}


def _title(metric: str, key: str) -> str:
    return f"{metric} {key}" if key else metric


def _unpacked(states: Sequence[Mapping[str, Any]], metric: Metric) -> dict[str, Tensor]:
    """The states of all maps, (maps, …) each."""
    unpacked = {}
    for key, default in metric.metric_state.items():
        assert isinstance(default, Tensor)
        rows = [_tensor(each[key], default) for each in states]
        unpacked[key] = torch.stack(rows) if rows else default.cpu()[None][:0]
    return unpacked


def _tensor(value: Any, like: Tensor) -> Tensor:
    if isinstance(value, dict):
        flat = torch.zeros(like.numel(), dtype=like.dtype)
        flat[torch.tensor(value["at"], dtype=torch.long)] = torch.tensor(value["values"], dtype=like.dtype)
        return flat.view(value["shape"])
    return torch.tensor(value, dtype=like.dtype)


def _computed(metric: Metric, state: Mapping[str, Tensor]) -> dict[str, float]:
    """What the metric makes of a state; by name where it has several numbers."""
    for key, value in state.items():
        setattr(metric, key, value.to(getattr(metric, key).device))
    value = type(metric).compute(metric)  # without torchmetrics' warning that there was no update
    return {key: float(each) for key, each in value.items()} if isinstance(value, dict) else {"": float(value)}
