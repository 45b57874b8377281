"""What every dataset yields: an image, and what is known about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from PIL import Image
from torch import Tensor

__all__ = ["DamagedSampleError", "Points", "Region", "Sample"]


@dataclass(frozen=True, eq=False)
class Points:
    """Labelled points of an image.

    Attributes:
        positions: (P, 2) coordinates (X, Y) in [0, 1] from the top left corner, as shares of width and height.
        labels: (P,) int64: 1 on the object, 0 beside it, -1 for one that does not count.
    """

    positions: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Region:
    """One thing in an image that a map can be asked for, and where it is, as far as that is known.

    Attributes:
        label: class index in the dataset's own order, see its ``classes``; None where the dataset has no classes.
        prompt: what a model with a text tower is asked for, such as "red star"; None where there is no name.
        mask: (H, W) int64 at the image's own resolution: 1 object, 0 background, -1 void.
        points: labelled points.
        boxes: (N, 4) float32, (left, top, right, bottom) in pixels of the image as it was distributed.
        parts: masks (H, W) int64 by name, of the object's parts.
        embedding: (D,) what stands for the prompt where it is no text, such as a sound.
    """

    label: int | None = None
    prompt: str | None = None
    mask: Tensor | None = None
    points: Points | None = None
    boxes: Tensor | None = None
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    embedding: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Sample:
    """An image with what is known about it.

    Attributes:
        id: names the image in its dataset; the same in every run.
        image: RGB, as it was distributed.
        label: the image's class in the dataset's own order, where it has one.
        regions: at least one; several where an image is asked about several classes or prompts.
    """

    id: str
    image: Image.Image
    label: int | None
    regions: tuple[Region, ...]


class DamagedSampleError(ValueError):
    """A file or a record that exists and can't be read; the other samples of the dataset are not concerned.

    Args:
        id: of the sample.
        reason: what is wrong with which file.

    Attributes:
        id: of the sample.
        reason: what is wrong with which file.
    """

    def __init__(self, id: str, reason: str) -> None:  # noqa: A002
        super().__init__(id, reason)
        self.id, self.reason = id, reason

    def __str__(self) -> str:
        return f"sample {self.id} can't be read: {self.reason}."
