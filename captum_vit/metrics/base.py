"""The mean over images, as a stream: what nearly every metric class is."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["Fixed", "ImageMean", "RowMetric", "settings"]


class Fixed(partial[Any]):
    """A function with a model or a method and its options; copies of a metric share it, models and all."""

    def __deepcopy__(self, memo: object) -> Fixed:
        return self


def settings(metric: Metric, values: Mapping[str, Any]) -> str:
    """The options of a metric, to be printed with its number.

    Args:
        metric: its constructor says which options there are.
        values: of the options.
    """
    options = [each.name for each in signature(type(metric)).parameters.values() if each.kind is Parameter.KEYWORD_ONLY]
    return ", ".join(f"{name}={values[name]!r}" for name in options if name in values)


class RowMetric(Metric):
    """A metric that adds up what each image gives, so that images can be measured together and counted one by one."""

    full_state_update = False
    is_differentiable = False

    def rows(self, *_: Any, **__: Any) -> Tensor:
        """(B, …) what each image of a batch gives."""
        raise NotImplementedError

    def add_rows(self, rows: Tensor) -> None:
        """Adds some of the `rows`."""
        raise NotImplementedError

    def update(self, *inputs: Any, **options: Any) -> None:
        """Takes what `rows` takes."""
        self.add_rows(self.rows(*inputs, **options))


class ImageMean(RowMetric):
    """Mean of one value per image; images whose value is NaN are left out and counted.

    A metric derives from it and computes (B,) values in ``rows``. The sums are float64 and added over processes, so
    that any split of the images gives the same result to rounding.

    Attributes:
        images: number of images that count.
        excluded: number of images whose value is undefined: a constant map, NaN in a map, an empty mask.
    """

    total: Tensor
    images: Tensor
    excluded: Tensor
    _values: Fixed

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("excluded", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def add_rows(self, rows: Tensor) -> None:
        undefined = rows.isnan()
        self.total += rows[~undefined].double().sum()
        self.images += (~undefined).sum()
        self.excluded += undefined.sum()

    def extra_repr(self) -> str:
        return settings(self, self._values.keywords if hasattr(self, "_values") else vars(self))

    def compute(self) -> Tensor:
        """The mean; NaN when no image counts."""
        return self.total / self.images
