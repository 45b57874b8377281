"""Tiny ImageNet: 200 classes at 64×64 pixels, with boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch.utils.data import Dataset

from captum_vit.data.reading import read_rgb, require
from captum_vit.data.sample import Region, Sample

__all__ = ["TinyImageNet"]

_PAGE = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
_LAYOUT = (
    "<root>/ with wnids.txt, words.txt, val/val_annotations.txt, val/images/*.JPEG, train/<wnid>/<wnid>_boxes.txt "
    "and train/<wnid>/images/*.JPEG"
)


class _Row(NamedTuple):
    image: Path
    wnid: str
    box: tuple[float, ...]


class TinyImageNet(Dataset[Sample]):
    """Images of Tiny ImageNet with their class and a box around the object.

    A model's outputs have the order that its training gave to the classes. That of ``wnids.txt`` is not sorted, and
    torchvision's ``ImageFolder``, with which many models were trained, sorts: pass ``wnids=sorted(dataset.wnids)`` for
    those.

    Boxes hold the numbers of the file, (left, top, right, bottom). Whether the right column and the lower row still
    belong to the object is not documented.

    Args:
        root: the folder ``tiny-imagenet-200``.
        split: "val" (50 images per class) or "train" (500). The test images have no labels.
        wnids: order of the labels; that of ``wnids.txt`` unless given.

    Attributes:
        wnids: WordNet ids in the order of ``label``.
        classes: first name of each class in the same order.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: an unknown split; a malformed line or an unknown class, with file and line; ``wnids`` that are not
            those of the dataset.

    Source: the course CS231n of Stanford University, from images of ImageNet (arXiv 1409.0575).
    """

    def __init__(
        self, root: str | Path, split: Literal["val", "train"] = "val", *, wnids: Sequence[str] | None = None
    ) -> None:
        if split not in ("val", "train"):
            raise ValueError(f"split must be 'val' or 'train', got {split!r}.")
        root = Path(root)
        listed = require(root / "wnids.txt", _LAYOUT, _PAGE).read_text(encoding="utf-8").split()
        self.wnids = tuple(listed if wnids is None else wnids)
        if sorted(self.wnids) != sorted(listed):
            raise ValueError(f"wnids must hold the {len(listed)} of {root / 'wnids.txt'} once each, got {self.wnids}.")
        self.classes = _names(require(root / "words.txt", _LAYOUT, _PAGE), self.wnids)
        self._label = {wnid: label for label, wnid in enumerate(self.wnids)}
        if split == "val":
            rows = _rows(root / "val" / "val_annotations.txt", root / "val" / "images", wnid=None)
        else:
            folders = [(each, root / "train" / each) for each in listed]
            rows = (
                row
                for wnid, folder in folders
                for row in _rows(folder / f"{wnid}_boxes.txt", folder / "images", wnid=wnid)
            )
        self._rows = tuple(rows)
        unknown = sorted({row.wnid for row in self._rows} - set(listed))
        if unknown:
            raise ValueError(f"classes of the images must be in {root / 'wnids.txt'}, got {unknown[0]!r}.")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        row = self._rows[index]
        label = self._label[row.wnid]
        region = Region(label, self.classes[label], boxes=torch.tensor([row.box]))
        return Sample(row.image.stem, read_rgb(row.image, row.image.stem), label, (region,))


def _rows(table: Path, images: Path, wnid: str | None) -> Iterator[_Row]:
    """What a table says about each image of a folder; it names the classes unless all images are of one."""
    require(images, _LAYOUT, _PAGE, folder=True)
    lines = require(table, _LAYOUT, _PAGE).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        name, *fields = line.split("\t")
        try:
            box = tuple(float(each) for each in fields[-4:])
        except ValueError as error:
            raise ValueError(f"{table}, line {number}: {error}.") from error
        if len(fields) != (5 if wnid is None else 4):
            columns = "file, class and four numbers" if wnid is None else "file and four numbers"
            raise ValueError(f"{table}, line {number} must be {columns}, separated by tabs, got {line!r}.")
        yield _Row(images / name, fields[0] if wnid is None else wnid, box)


def _names(words: Path, wnids: Sequence[str]) -> tuple[str, ...]:
    lines = words.read_text(encoding="utf-8").splitlines()
    names = {wnid: name.split(",")[0] for wnid, _, name in (each.partition("\t") for each in lines)}
    missing = [each for each in wnids if each not in names]
    if missing:
        raise ValueError(f"{words} must name every class of wnids.txt, got none for {missing[0]!r}.")
    return tuple(names[each] for each in wnids)
