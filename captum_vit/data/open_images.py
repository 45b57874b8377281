"""The labelled points of Open Images V7."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import Dataset

from captum_vit.data.reading import read_rgb, require
from captum_vit.data.sample import Points, Region, Sample

__all__ = ["OpenImagesPoints"]

_PAGE = "https://storage.googleapis.com/openimages/web/download_v7.html"
_LAYOUT = (
    "a folder of <ImageId>.jpg, oidv7-val-annotations-point-labels.csv (or that of another split) and "
    "oidv7-class-descriptions.csv"
)
_COLUMNS = ("ImageId", "X", "Y", "Label", "EstimatedYesNo")
_HEAD = ["LabelName", "DisplayName"]
_UNSURE = "unsure"
_YES_NO = {"yes": 1, "no": 0}


class _Point(NamedTuple):
    image: str
    mid: str
    x: float
    y: float
    label: int


class OpenImagesPoints(Dataset[Sample]):
    """Images with points that are said to lie on a class or beside it.

    An image has one region per class that is depicted in it, that is, one with at least one yes; points of other
    classes and unsure points are dropped, and an image without a depicted class is no sample. A region's ``label`` is
    the class's index among the sorted MIDs of the description file, which is the same for every split, and its
    ``prompt`` the display name. Samples come in the order in which the file names their images.

    The point file is read twice, row by row, and never held as a whole.

    Args:
        images: the folder of the split's images, ``<ImageId>.jpg``.
        annotations: the split's point labels, such as ``oidv7-val-annotations-point-labels.csv``.
        class_descriptions: ``oidv7-class-descriptions.csv``: MID, display name.
        max_images: only so many images, the first in the file; None for all.

    Attributes:
        mids: the classes' machine identifiers, in the order of ``label``.
        classes: their display names.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: a malformed row, with file and line; max_images below 1.

    Source: arXiv 2210.14142 (Benenson and Ferrari).
    """

    def __init__(
        self,
        images: str | Path,
        annotations: str | Path,
        class_descriptions: str | Path,
        *,
        max_images: int | None = None,
    ) -> None:
        if max_images is not None and max_images < 1:
            raise ValueError(f"max_images must be at least 1, or None for all, got {max_images}.")
        self._images = require(Path(images), _LAYOUT, _PAGE, folder=True)
        path = require(Path(annotations), _LAYOUT, _PAGE)
        names = _descriptions(require(Path(class_descriptions), _LAYOUT, _PAGE))
        self.mids = tuple(sorted(names))
        self.classes = tuple(names[mid] for mid in self.mids)
        self._labels = {mid: label for label, mid in enumerate(self.mids)}
        self._points = _points_of_depicted(path, self._labels, max_images)
        self._ids = tuple(self._points)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Sample:
        name = self._ids[index]
        regions = (self._region(mid, values) for mid, values in sorted(self._points[name].items()))
        return Sample(name, read_rgb(self._images / f"{name}.jpg", name), None, tuple(regions))

    def _region(self, mid: str, values: array[float]) -> Region:
        table = torch.tensor(values, dtype=torch.float64).view(-1, 3)
        label = self._labels[mid]
        return Region(label, self.classes[label], points=Points(table[:, :2].contiguous(), table[:, 2].long()))


def _descriptions(path: Path) -> dict[str, str]:
    """Display names by MID."""
    names = {}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        for row in reader:
            if reader.line_num == 1 and row == _HEAD:
                continue
            if len(row) != len(_HEAD):
                raise ValueError(f"{path}, line {reader.line_num}: must hold a MID and a display name, got {row}.")
            names[row[0]] = row[1]
    return names


def _points_of_depicted(
    path: Path, known: dict[str, int], max_images: int | None
) -> dict[str, dict[str, array[float]]]:
    """By image and MID, for classes with a yes: x, y and label of one point after the other."""
    depicted: dict[str, dict[str, array[float]]] = {}
    for point in _rows(path, known):
        if point.label and (point.image in depicted or max_images is None or len(depicted) < max_images):
            depicted.setdefault(point.image, {}).setdefault(point.mid, array("d"))
    for point in _rows(path, known):
        values = depicted.get(point.image, {}).get(point.mid)
        if values is not None:
            values.extend((point.x, point.y, point.label))
    return depicted


def _rows(path: Path, known: dict[str, int]) -> Iterator[_Point]:
    """The points that are a yes or a no."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        head = next(reader, [])
        missing = [column for column in _COLUMNS if column not in head]
        if missing:
            raise ValueError(f"{path}, line 1: must name the columns {', '.join(_COLUMNS)}, got no {missing[0]}.")
        columns = [head.index(column) for column in _COLUMNS]
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if len(row) != len(head):
                raise ValueError(f"{where}: must hold {len(head)} values, got {len(row)}.")
            image, x, y, mid, answer = (row[column] for column in columns)
            if answer == _UNSURE:
                continue
            if answer not in _YES_NO:
                raise ValueError(f"{where}: EstimatedYesNo must be yes, no or {_UNSURE}, got {answer!r}.")
            if mid not in known:
                raise ValueError(f"{where}: Label must be a MID of the class descriptions, got {mid!r}.")
            yield _Point(image, mid, _share(x, "X", where), _share(y, "Y", where), _YES_NO[answer])


def _share(text: str, column: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ValueError(f"{where}: {column} must be a number in [0, 1], got {text!r}.")
    return value
