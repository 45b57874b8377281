"""FunnyBirds: rendered birds whose parts and surroundings can be taken away."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from captum_vit.data.reading import read_pixels, read_rgb, require
from captum_vit.data.sample import Region, Sample

__all__ = ["FunnyBirds"]

_PAGE = "https://github.com/visinf/funnybirds-framework"
_LAYOUT = (
    "FunnyBirds/ with classes.json, parts.json, dataset_<split>.json, <split>/<class>/<index>.png, "
    "<split>_part_map/<class>/<index>.png and, for the split test, test_interventions/<class>/<index>/"
)
_COLOURS = {
    "beak": ((255, 255, 0),),
    "eye": ((255, 255, 253), (255, 255, 254)),
    "foot": ((255, 0, 1), (255, 0, 2)),
    "tail": ((0, 0, 255),),
    "wing": ((0, 255, 1), (0, 255, 2)),
}
"""Of each part in the part maps; of its two sides where it has two."""

_OBJECT_COLOUR = 204


class FunnyBirds(Dataset[Sample]):
    """Birds of 50 classes that differ in five parts, among coloured objects.

    A sample's region has a mask of each part ("beak", "eye", "foot", "tail", "wing") and of each object in the
    background ("bg_000", "bg_001", …); what is hidden has an empty mask. Its ``mask`` is None, for the part maps don't
    show the body.

    The methods beside samples serve `captum_vit.metrics.part_protocol.PartScores`; the images without some parts or
    without an object exist for the split "test".

    Args:
        root: the folder with ``classes.json``.
        split: "test", 10 birds of each class, or "train", 1000 of each, of which half lack some parts.

    Attributes:
        classes: the classes' numbers as text, for they have no names.
        class_parts: which variant of each part a class has.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: an unknown split; a json file with other content than expected.

    Source: arXiv 2308.06248 (Hesse, Schaub-Meyer and Roth).
    """

    def __init__(self, root: str | Path, split: Literal["train", "test"] = "test") -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split must be 'train' or 'test', got {split!r}.")
        self._root, self._split = Path(root), split
        folders = [split, f"{split}_part_map", *(["test_interventions"] if split == "test" else [])]
        for each in folders:
            require(self._root / each, _LAYOUT, _PAGE, folder=True)
        if set(self._json("parts.json")) != set(_COLOURS):
            raise ValueError(
                f"{self._root / 'parts.json'} must name the parts {', '.join(_COLOURS)}, "
                f"got {', '.join(self._json('parts.json'))}."
            )
        self.class_parts = self._class_parts()
        self.classes = tuple(str(label) for label in range(len(self.class_parts)))
        self._records = tuple(
            (self._label_of(record, index), _count_objects(record))
            for index, record in enumerate(self._json(f"dataset_{split}.json"))
        )

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Sample:
        label = self.label(index)
        parts = {name: pieces.amax(0) for name, pieces in self.part_masks(index).items()}
        return Sample(self._id(index), self.image(index), label, (Region(label, parts=parts),))

    def image(self, index: int) -> Image.Image:
        """The whole bird."""
        return read_rgb(self._path(self._split, index), self._id(index))

    def label(self, index: int) -> int:
        """The bird's class."""
        return self._records[index][0]

    def part_masks(self, index: int) -> dict[str, Tensor]:
        """By part and by background object, (1, H, W) or, where left and right are told apart, (2, H, W)."""
        colours = dict(_COLOURS)
        for number in range(self._records[index][1]):
            colours[f"bg_{number:03d}"] = ((_OBJECT_COLOUR, _OBJECT_COLOUR, _OBJECT_COLOUR + number),)
        pixels = read_pixels(self._path(f"{self._split}_part_map", index), self.image(index), self._id(index))
        return {
            name: (pixels == torch.tensor(sides, dtype=torch.uint8)[:, None, None]).all(-1).long()
            for name, sides in colours.items()
        }

    def keeping(self, index: int, parts: Collection[str]) -> Image.Image:
        """The bird with no other parts than these.

        Raises:
            DamagedSampleError: the image is missing or damaged.
            ValueError: an unknown part; the split has no such images.
        """
        unknown = sorted(set(parts) - set(_COLOURS))
        if unknown:
            raise ValueError(f"parts must be among {', '.join(_COLOURS)}, got {unknown[0]!r}.")
        return self._intervention(index, f"body_{'_'.join(sorted(parts))}.png")

    def without_background(self, index: int, name: str) -> Image.Image:
        """The whole bird without one of the objects around it, such as "bg_000".

        Raises:
            DamagedSampleError: the image is missing or damaged.
            ValueError: no such object; the split has no such images.
        """
        count = self._records[index][1]
        number = int(name.removeprefix("bg_")) if re.fullmatch(r"bg_\d{3}", name) else count
        if number >= count:
            raise ValueError(f"name must be that of one of {count} objects, bg_000 and so on, got {name!r}.")
        return self._intervention(index, f"background_interventions/{number}.png")

    def _intervention(self, index: int, file: str) -> Image.Image:
        if self._split != "test":
            raise ValueError(f"images without parts exist for the split 'test', got {self._split!r}.")
        return read_rgb(self._path("test_interventions", index).with_suffix("") / file, self._id(index))

    def _path(self, folder: str, index: int) -> Path:
        return self._root / folder / str(self.label(index)) / f"{range(len(self))[index]:06d}.png"

    def _id(self, index: int) -> str:
        return f"{self._split}-{range(len(self))[index]:06d}"

    def _json(self, name: str) -> Any:
        path = require(self._root / name, _LAYOUT, _PAGE)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} must be json, got {error}.") from error

    def _class_parts(self) -> tuple[Mapping[str, int], ...]:
        """Variants by part, in the order of the classes' numbers."""
        found = {
            each["class_idx"]: {part: each["parts"][part] for part in _COLOURS} for each in self._json("classes.json")
        }
        if sorted(found) != list(range(len(found))):
            raise ValueError(f"{self._root / 'classes.json'} must number its classes from 0 on, got {sorted(found)}.")
        return tuple(found[label] for label in range(len(found)))

    def _label_of(self, record: Mapping[str, Any], index: int) -> int:
        label: int = record.get("class_idx", -1)
        if not 0 <= label < len(self.classes):
            raise ValueError(f"class_idx of record {index} must be in [0, {len(self.classes)}), got {label}.")
        return label


def _count_objects(record: Mapping[str, Any]) -> int:
    """How many objects a bird is rendered with: the first list about them, "3,0,4,", has a number for each."""
    lists = [value for name, value in record.items() if name.startswith("bg_")]
    return len(re.findall(r"\b\d+\b", lists[0])) if lists else 0
