"""ImageNet-1k in folders."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch.utils.data import Dataset

from captum_vit.data.imagenet_names import imagenet_names
from captum_vit.data.reading import list_images, read_rgb
from captum_vit.data.sample import Region, Sample

__all__ = ["ImageNet"]

_PAGE = "https://image-net.org/download.php"
_LAYOUT = "<root>/<split>/<wnid>/*.JPEG, one folder for each class, such as val/n01440764/ILSVRC2012_val_00000293.JPEG"


class ImageNet(Dataset[Sample]):
    """Images of ImageNet-1k with their class; nothing is known about where the object is.

    Folders of some of the 1000 classes are enough: a label is the class's place among all of them, so that it is the
    index of the output of a model for ImageNet. The images of ``val`` are distributed in one folder and have to be
    moved into one folder per class first.

    Args:
        root: the folder that holds the folder ``split``.
        split: "val" or "train".

    Attributes:
        classes: first name of each of the 1000 classes in the order of ``label``; "crane" and "maillot" occur twice.
        wnids: their WordNet ids, sorted.

    Raises:
        FileNotFoundError: no such folder, or no images in folders within it.
        ValueError: an unknown split; a folder that is named like none of the 1000 classes.

    Source: arXiv 1409.0575 (ILSVRC).
    """

    def __init__(self, root: str | Path, split: Literal["val", "train"] = "val") -> None:
        if split not in ("val", "train"):
            raise ValueError(f"split must be 'val' or 'train', got {split!r}.")
        folder = Path(root) / split
        self._files = list_images(folder, "*/*", _LAYOUT, _PAGE)
        self.wnids, self.classes = tuple(imagenet_names()), tuple(imagenet_names().values())
        self._label = {wnid: label for label, wnid in enumerate(self.wnids)}
        unknown = sorted({each.parent.name for each in self._files} - set(self.wnids))
        if unknown:
            raise ValueError(f"folders in {folder} must be WordNet ids of ImageNet-1k, got {unknown[0]!r}.")

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        path = self._files[index]
        wnid = path.parent.name
        name = f"{wnid}/{path.stem}"
        label = self._label[wnid]
        return Sample(name, read_rgb(path, name), label, (Region(label, self.classes[label]),))
