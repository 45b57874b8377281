"""PASCAL VOC 2012, its images with segmentation."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from captum_vit.data.reading import read_indices, read_rgb, require
from captum_vit.data.sample import DamagedSampleError, Region, Sample

__all__ = ["PascalVOC"]

_PAGE = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"
_LAYOUT = (
    "<root>/VOCdevkit/VOC2012/ with JPEGImages/*.jpg, SegmentationClass/*.png and "
    "ImageSets/Segmentation/{train,val,trainval}.txt"
)
_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_PROMPTS = {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}
_VOID = 255


class PascalVOC(Dataset[Sample]):
    """Images of PASCAL VOC 2012 with a mask of what they show.

    Pixels at the border of an object and those that the annotators left open don't count.

    Args:
        root: the folder that holds ``VOCdevkit``.
        split: "train" (1464 images), "val" (1449) or "trainval".
        per_class: one region for each class that is present, with its label and its name as prompt; pixels of other
            classes are its background. Otherwise one region without a label, with the objects of all classes.

    Attributes:
        classes: the 20 names in the order of ``label``, as the dataset spells them; a prompt is spelt with spaces.

    Raises:
        FileNotFoundError: no such folder or list of images.
        ValueError: an unknown split.

    Source: Everingham et al., "The PASCAL visual object classes challenge: a retrospective", IJCV 2015.
    """

    classes = _CLASSES

    def __init__(
        self, root: str | Path, split: Literal["train", "val", "trainval"] = "val", per_class: bool = False
    ) -> None:
        if split not in ("train", "val", "trainval"):
            raise ValueError(f"split must be 'train', 'val' or 'trainval', got {split!r}.")
        folder = Path(root) / "VOCdevkit" / "VOC2012"
        for each in ("JPEGImages", "SegmentationClass"):
            require(folder / each, _LAYOUT, _PAGE, folder=True)
        require(folder / "ImageSets" / "Segmentation" / f"{split}.txt", _LAYOUT, _PAGE)
        files = import_module("torchvision.datasets").VOCSegmentation(root, "2012", split)
        self._files = [(Path(image), Path(mask)) for image, mask in zip(files.images, files.masks, strict=True)]
        self.per_class = per_class

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        path, mask_path = self._files[index]
        image = read_rgb(path, path.stem)
        numbers = read_indices(mask_path, image, path.stem)
        wrong = numbers[(numbers > len(_CLASSES)) & (numbers != _VOID)]
        if len(wrong):
            raise DamagedSampleError(
                path.stem, f"{mask_path} must hold 0 to {len(_CLASSES)} and {_VOID}, got {int(wrong[0])}"
            )
        if not self.per_class:
            return Sample(path.stem, image, None, (Region(mask=_mask(numbers, numbers > 0)),))
        present = [int(each) for each in numbers.unique() if 0 < each < _VOID]
        if not present:
            raise DamagedSampleError(path.stem, f"{mask_path} shows none of the classes")
        return Sample(path.stem, image, None, tuple(_region(numbers, each) for each in present))


def _region(numbers: Tensor, number: int) -> Region:
    name = _CLASSES[number - 1]
    return Region(number - 1, _PROMPTS.get(name, name), _mask(numbers, numbers == number))


def _mask(numbers: Tensor, inside: Tensor) -> Tensor:
    return torch.where(numbers == _VOID, -1, inside.long())
