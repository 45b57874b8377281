"""ImageNet-S: images of ImageNet with a mask of their class."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from captum_vit.data.imagenet_names import imagenet_names
from captum_vit.data.reading import list_images, not_found, read_pixels, read_rgb, require
from captum_vit.data.sample import DamagedSampleError, Region, Sample

__all__ = ["ImageNetS"]

_PAGE = "https://github.com/LUSSeg/ImageNet-S"
_LAYOUT = "<root>/ImageNetS<classes>/ with <split>/<wnid>/*.JPEG and <split>-segmentation/<wnid>/*.png for every class"
_VOID = 1000
_MERGED = {
    "n03642806": "n03832673",
    "n03887697": "n15075141",
    "n04008634": "n03773504",
    "n04356056": "n04355933",
    "n04493381": "n02808440",
}
"""Classes of ImageNet-1k that ImageNet-S-919 has no number for, and those that they were merged into."""


class ImageNetS(Dataset[Sample]):
    """Images of ImageNet with the mask of the class that they are an image of.

    One region per image: its class is the object, pixels of other classes and of none are background, and those that
    the annotators left open don't count. The number of a class in the masks is one more than its label.

    Args:
        root: the folder that holds ``ImageNetS50``, ``ImageNetS300`` or ``ImageNetS919``.
        classes: 50, 300 or 919.
        split: "validation", or "train-semi", ten images per class. The masks of the test images are not public.

    Attributes:
        wnids: WordNet ids of the classes, sorted, in the order of ``label``. This is not the order of a model for
            ImageNet-1k; go through `captum_vit.data.ImageNet.wnids` for that.
        classes: first name of each class in the same order; "crane" and "maillot" may occur twice.

    Raises:
        FileNotFoundError: no such folder, or not one folder of images for each class.
        ValueError: an unknown number of classes or split; a folder that is named like no class of ImageNet.

    Source: arXiv 2106.03149. The colour of a pixel in a mask is its class's number: R + 256 · G.
    """

    def __init__(
        self,
        root: str | Path,
        classes: Literal[50, 300, 919] = 50,
        split: Literal["validation", "train-semi"] = "validation",
    ) -> None:
        if classes not in (50, 300, 919):
            raise ValueError(f"classes must be 50, 300 or 919, got {classes}.")
        if split not in ("validation", "train-semi"):
            raise ValueError(f"split must be 'validation' or 'train-semi', got {split!r}.")
        folder = Path(root) / f"ImageNetS{classes}"
        self._files = list_images(folder / split, "*/*", _LAYOUT, _PAGE)
        self._masks = require(folder / f"{split}-segmentation", _LAYOUT, _PAGE, folder=True)
        merged = _MERGED if classes == 919 else {}
        self._classes_of_files = [merged.get(each.parent.name, each.parent.name) for each in self._files]
        self.wnids = tuple(sorted(set(self._classes_of_files)))
        if len(self.wnids) != classes:
            problem = f"{folder / split} must hold images of {classes} classes, got {len(self.wnids)}"
            raise not_found(problem, _LAYOUT, _PAGE)
        unknown = sorted(set(self.wnids) - set(imagenet_names()))
        if unknown:
            raise ValueError(f"folders in {folder / split} must be WordNet ids of ImageNet-1k, got {unknown[0]!r}.")
        self.classes = tuple(imagenet_names()[each] for each in self.wnids)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        path = self._files[index]
        name = f"{path.parent.name}/{path.stem}"
        image = read_rgb(path, name)
        label = self.wnids.index(self._classes_of_files[index])
        mask = self._mask(self._masks / f"{name}.png", image, label, name)
        return Sample(name, image, label, (Region(label, self.classes[label], mask),))

    def _mask(self, path: Path, image: Image.Image, label: int, name: str) -> Tensor:
        red, green, _ = read_pixels(path, image, name).long().unbind(-1)  # 256 · G is more than a uint8 holds
        number = red + 256 * green
        void = number == _VOID
        wrong = number[(number > len(self.wnids)) & ~void]
        if len(wrong):
            raise DamagedSampleError(name, f"{path} must hold 0 to {len(self.wnids)} and {_VOID}, got {int(wrong[0])}")
        return torch.where(void, -1, (number == label + 1).long())
