"""What a layer distribution found: a curve over blocks for all maps and for each class, with confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captum_vit.evaluation.bootstrap import drawn_counts, interval, sums_by_sample
from captum_vit.metrics.functional import min_max_blocks

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["ALL", "BlockScale", "LayerDistribution", "check_scale", "listed"]

BlockScale: TypeAlias = Literal["image", "mean"]
"""Min-max over the blocks of every map, which are then averaged; or of the average."""

ALL = "all"
"""Name of the curve of all maps."""

_FLAT = "alike in all blocks"


@dataclass(frozen=True, eq=False)
class LayerDistribution:
    """How high the maps of each block are on the objects of a dataset.

    Attributes:
        model: its name.
        relevance: (M, L) float64, the mean of each block's map on the object, raw; one row per map.
        samples: M ids of the images.
        labels: M classes of the regions, None where the dataset has none.
        classes: names of the dataset's classes. A class without a name is called by its number; one whose name another
            has already (ImageNet has such) by both.
        normalise: "image" brings the blocks of every map to [0, 1] and then averages, so that every map counts alike
            whatever its size and the height of its gradients; "mean" averages first, so that the highest block is 1
            and the lowest 0.
        missing: regions without a row, by reason: "blank" (the map of one of the blocks is zero everywhere, or not
            finite) and "empty mask".
        skipped: samples that could not be read, with the reason.

    Raises:
        ValueError: another ``normalise``.
    """

    model: str
    relevance: Tensor
    samples: Sequence[str]
    labels: Sequence[int | None]
    classes: Sequence[str]
    normalise: BlockScale
    missing: Mapping[str, int]
    skipped: Mapping[str, str]

    def __post_init__(self) -> None:
        check_scale(self.normalise)

    def __repr__(self) -> str:
        rows, depth = self.relevance.shape
        return f"LayerDistribution: {self.model}, {rows} maps over {depth} blocks, {len(self.maps) - 1} classes"

    def _repr_markdown_(self) -> str:
        """The table of `markdown`, as notebooks show it."""
        return self.markdown()

    @property
    def maps(self) -> dict[str, int]:
        """Maps that count, by class; those of all first."""
        return {name: int(chosen.sum()) for name, chosen in self._chosen().items()}

    @property
    def left_out(self) -> dict[str, int]:
        """Regions that don't count, by reason: those of `missing`, and maps whose blocks are all alike.

        The latter have no min-max; they count where ``normalise`` is "mean".
        """
        return {**self.missing, _FLAT: len(self.relevance) - self.maps[ALL]}

    def curves(self, *, resamples: int = 1000, seed: int = 0) -> dict[str, NDArray[np.float64]]:
        """Value, low and high of every block, (3, L), by class; those of all first.

        Args:
            resamples: of the bootstrap over images that holds the 95 % interval.
            seed: of the resampling.

        Returns:
            NaN for the interval of a class with one image, and for all of a class whose average is alike in all blocks.
        """
        rows = self._rows()
        return {
            name: _curve(
                rows[chosen],
                [self.samples[k] for k in chosen.nonzero()[:, 0].tolist()],
                rescaled=self.normalise == "mean",
                resamples=resamples,
                seed=seed,
            )
            for name, chosen in self._chosen().items()
        }

    def table(self, *, resamples: int = 1000, seed: int = 0) -> DataFrame:
        """One row per class and block.

        Args:
            resamples: see `curves`.
            seed: see `curves`.

        Returns:
            Columns ``class`` ("all" or a name), ``block`` (from 0), ``value``, ``low`` and ``high`` (95 % confidence
            interval: percentile bootstrap over images) and ``maps`` that count.
        """
        from pandas import DataFrame

        rows, maps = [], self.maps
        for name, curve in self.curves(resamples=resamples, seed=seed).items():
            for block, (value, low, high) in enumerate(curve.T.tolist()):
                row = {"class": name, "block": block, "value": value, "low": low, "high": high}
                rows.append(row | {"maps": maps[name]})
        return DataFrame(rows)

    def markdown(self, *, digits: int = 2, resamples: int = 1000, seed: int = 0) -> str:
        """One row per class, one column per block, and below it what was left out.

        The row of all has the half widths of the confidence intervals; those of the classes stand in `table`.
        """
        depth, maps = self.relevance.shape[1], self.maps
        lines = [["class", *(f"block {block}" for block in range(depth)), "maps"], ["---"] * (depth + 2)]
        for name, (values, low, high) in self.curves(resamples=resamples, seed=seed).items():
            cells = [f"{value:.{digits}f}" for value in values]
            if name == ALL:
                halves = (high - low) / 2
                cells = [f"{cell} ± {half:.{digits}f}" for cell, half in zip(cells, halves, strict=True)]
            lines.append([name, *cells, str(maps[name])])
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        how = "of every map, then averaged" if self.normalise == "image" else "of the average"
        return (
            f"{table}\n\n{self.model}: mean of each block's LeGrad map on the object, min-max over the blocks {how}. "
            f"Regions left out: {listed(self.left_out)}. Samples skipped: {len(self.skipped)}."
        )

    def _rows(self) -> Tensor:
        """(M, L) on the scale that is averaged; NaN in the rows of maps that have none."""
        each_map = self.normalise == "image" and len(self.relevance) > 0
        return min_max_blocks(self.relevance) if each_map else self.relevance

    def _chosen(self) -> dict[str, Tensor]:
        """(M,) which maps count, by class."""
        counts = self._rows().isfinite().all(1)
        chosen = {ALL: counts}
        labels = torch.tensor([-1 if each is None else each for each in self.labels])
        for label in labels[counts & (labels >= 0)].unique().tolist():
            name = self.classes[label] if label < len(self.classes) else str(label)
            name = f"{name} ({label})" if name in chosen else name
            chosen[name] = counts & (labels == label)
        return chosen


def check_scale(normalise: BlockScale) -> None:
    """Refuses another scale with a ValueError."""
    if normalise not in get_args(BlockScale):
        raise ValueError(f"normalise must be 'image' or 'mean', got {normalise!r}.")


def listed(counts: Mapping[str, int]) -> str:
    """Numbers that are not 0 with their reasons, as words."""
    return ", ".join(f"{count} {reason}" for reason, count in counts.items() if count) or "none"


def _curve(rows: Tensor, samples: Sequence[str], *, rescaled: bool, resamples: int, seed: int) -> NDArray[np.float64]:
    """Value, low and high of the average over rows (M, L), (3, L)."""
    sums, counts = sums_by_sample(rows.double(), samples), sums_by_sample(torch.ones(len(rows), 1).double(), samples)

    def averaged(weights: Tensor) -> Tensor:
        means = weights @ sums / (weights @ counts)
        return min_max_blocks(means) if rescaled else means

    value = averaged(torch.ones(1, len(sums)).double())[0].numpy()
    if len(sums) < 2:
        return np.stack([value, *np.full((2, len(value)), np.nan)])
    drawn = averaged(drawn_counts(len(sums), resamples, seed)).numpy()
    return np.stack([value, *np.transpose([interval(column) for column in drawn.T])])
