"""What an evaluation found: records, tables, confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor
from torchmetrics import Metric

from captum_vit.evaluation.bootstrap import drawn_counts, interval
from captum_vit.evaluation.store import Record
from captum_vit.metrics.base import ImageMean
from captum_vit.metrics.model_metric import CurveMetric

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

    def curves(self) -> DataFrame:
        """The mean curves of the metrics that follow the model while the image changes step by step.

        Returns:
            Columns ``metric``, ``method``, ``fraction`` of the image that is changed, to within a patch, and ``value``,
            the mean over the maps that count. No rows where there is no such metric.
        """
        from pandas import DataFrame

        columns: dict[str, list[Any]] = {"metric": [], "method": [], "fraction": [], "value": []}
        for name, metric in self.metrics.items():
            if not isinstance(metric, CurveMetric):
                continue
            for method, records in self._by_method().items():
                states = _totals(
                    _sums_by_sample(name, [each for each in records if name in each.get("scores", {})], metric)
                )
                values = (states["levels"] / states["images"]).tolist()
                columns["metric"] += [name] * len(values)
                columns["method"] += [method] * len(values)
                columns["fraction"] += metric.fractions
                columns["value"] += values
        return DataFrame(columns)

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
                row |= {_title(name, key): value for key, value in _alone(self.metrics[name], state).items()}
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

    def higher_is_better(self, score: str) -> bool | None:
        """Whether more of a score of the table is better; None where its metric does not say."""
        named = (metric for name, metric in self.metrics.items() if f"{score} ".startswith(f"{name} "))
        better: bool | None = next(named).higher_is_better
        return better

    def _arrow(self, title: str) -> str:
        return {True: "↑", False: "↓", None: ""}[self.higher_is_better(title)]

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
    sums = _sums_by_sample(name, records, metric)
    count = next(iter(sums.values())).matrix.shape[0]
    total = _totals(sums)
    whole = _computed(metric, total)
    counts = {key: int(total[key].sum()) if key in total else 0 for key in ("images", "excluded")}
    counted = {"maps": counts["images"], "excluded": counts["excluded"]}
    drawn = dict.fromkeys(whole, np.empty(0))
    if count > 1 and resamples:
        weights = drawn_counts(count, resamples, seed).numpy()
        drawn = _drawn(metric, {key: each.weighted(weights).double() for key, each in sums.items()})
    return [(_title(name, key), (value, *interval(drawn[key])), counted) for key, value in whole.items()]


def _drawn(metric: Metric, states: Mapping[str, Tensor]) -> dict[str, NDArray[np.float64]]:
    """What the metric makes of many states (resamples, …), by name."""
    if type(metric).compute is ImageMean.compute:  # a quotient of two sums, which works on all at once
        return {"": (states["total"] / states["images"]).numpy()}
    resamples = len(next(iter(states.values())))
    values = [_computed(metric, {name: each[draw] for name, each in states.items()}) for draw in range(resamples)]
    return {key: np.array([each[key] for each in values]) for key in values[0]}


def _alone(metric: Metric, state: Mapping[str, Any]) -> dict[str, float]:
    """What the metric makes of one map, by name."""
    if type(metric).compute is ImageMean.compute:  # a quotient, for which nothing has to be built
        return {"": state["total"] / state["images"] if state["images"] else np.nan}
    return _computed(metric, {key: _tensor(value, getattr(metric, key)) for key, value in state.items()})


def _title(metric: str, key: str) -> str:
    return f"{metric} {key}" if key else metric


class _Sums(NamedTuple):
    """What each sample adds to one state of a metric: sparse, for a state of thousands of classes is 0 nearly all over.

    Attributes:
        matrix: (samples, numbers of the state).
        like: a state.
    """

    matrix: csr_array
    like: Tensor

    def weighted(self, weights: NDArray[np.float64]) -> Tensor:
        """(W, …) states in which each sample counts as often as each row of the weights (W, samples) says."""
        states = torch.from_numpy(np.ascontiguousarray((self.matrix.T @ weights.T).T))
        return states.to(self.like.dtype).view(-1, *self.like.shape)


def _totals(sums: Mapping[str, _Sums]) -> dict[str, Tensor]:
    """The states of all samples."""
    return {key: each.weighted(np.ones((1, each.matrix.shape[0])))[0] for key, each in sums.items()}


def _sums_by_sample(name: str, records: Sequence[Record], metric: Metric) -> dict[str, _Sums]:
    """By name of the state."""
    names, numbers = np.unique([each["sample"] for each in records], return_inverse=True)
    states = [each["scores"][name] for each in records]
    sums = {}
    for key, default in metric.metric_state.items():
        assert isinstance(default, Tensor)
        like = _tensor(states[0][key], default) if states else default.cpu()
        places = [_places(each[key]) for each in states]
        rows = np.repeat(numbers, [len(at) for at, _ in places])
        columns = np.concatenate([np.empty(0, np.int64), *(at for at, _ in places)])
        values = np.concatenate([np.empty(0), *(values for _, values in places)])
        matrix = csr_array((values, (rows, columns)), shape=(len(names), like.numel()))
        sums[key] = _Sums(matrix, like)
    return sums


def _places(value: Any) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Where a state is not 0, in reading order, and what it is there."""
    if isinstance(value, dict):
        return np.array(value["at"], dtype=np.int64), np.array(value["values"], dtype=np.float64)
    flat = np.ravel(np.array(value, dtype=np.float64))
    return np.arange(len(flat)), flat


def _tensor(value: Any, like: Tensor) -> Tensor:
    if isinstance(value, dict):
        flat = torch.zeros(prod(value["shape"]), dtype=like.dtype)
        flat[torch.tensor(value["at"], dtype=torch.long)] = torch.tensor(value["values"], dtype=like.dtype)
        return flat.view(value["shape"])
    return torch.tensor(value, dtype=like.dtype)


def _computed(metric: Metric, state: Mapping[str, Tensor]) -> dict[str, float]:
    """What the metric makes of a state; by name where it has several numbers."""
    for key, value in state.items():
        setattr(metric, key, value.to(getattr(metric, key).device))
    value = type(metric).compute(metric)  # without torchmetrics' warning that there was no update
    return {key: float(each) for key, each in value.items()} if isinstance(value, dict) else {"": float(value)}
