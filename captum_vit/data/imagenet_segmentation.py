"""ImageNet-Segmentation: one file of images with the mask of their object."""

from __future__ import annotations

import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from captum_vit.data.imagenet_names import first_name
from captum_vit.data.reading import require
from captum_vit.data.sample import DamagedSampleError, Region, Sample

__all__ = ["ImageNetSegmentation"]

_PAGE = "http://calvin-vision.net/bigstuff/proj-imagenet/data/gtsegs_ijcv.mat"
_LAYOUT = "the file gtsegs_ijcv.mat, of MATLAB 7.3, with /value/img and /value/gt"
_WNID = re.compile(r"n\d{8}")


class ImageNetSegmentation(Dataset[Sample]):
    """The 4276 images of 445 classes of ImageNet on which LeGrad and CheferCAM report segmentation.

    One region per image, with a mask without void. Its class is the WordNet id in /value/target, as far as the file has
    that field; not all classes are among those of ImageNet-1k. Where an image has several masks, the first is taken, as
    in the code of Chefer et al. It is needed as one file, which each worker of a ``DataLoader`` opens for itself.

    Args:
        path: of gtsegs_ijcv.mat.

    Attributes:
        wnids: WordNet ids of the classes, sorted, in the order of ``label``; none in a file without /value/target.
        classes: first name of each class in the same order, by the tables that timm ships; the WordNet id where it has
            none. Two classes may share a name.

    Raises:
        FileNotFoundError: no such file.
        ImportError: h5py is not installed.
        ValueError: a file of another format, or without images and masks.

    Source: Guillaumin, Küttel and Ferrari, "ImageNet auto-annotation with segmentation propagation", IJCV 2014.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = require(Path(path), _LAYOUT, _PAGE)
        self._handle: tuple[int, Any] | None = None
        with self._open() as file:
            self._length = self._checked_length(file)
            self._classes_of_records = _texts(file, "target", self._length)
        self.wnids = tuple(sorted({each for each in self._classes_of_records if _WNID.fullmatch(each)}))
        self.classes = tuple(first_name(each) or each for each in self.wnids)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        if not -self._length <= index < self._length:
            raise IndexError(f"sample must be in [0, {self._length}), got {index}.")
        index %= self._length
        name = f"gtsegs-{index}"
        image, mask = self._record(index, name)
        if image.ndim != 3 or image.shape[0] != 3 or image.dtype != np.uint8:
            raise DamagedSampleError(name, f"image must be uint8 (3, W, H), got {image.dtype} {image.shape}")
        if mask.shape != image.shape[1:]:
            raise DamagedSampleError(name, f"mask must have the image's (W, H) {image.shape[1:]}, got {mask.shape}")
        wrong = mask[(mask != 0) & (mask != 1)]
        if len(wrong):
            raise DamagedSampleError(name, f"mask must hold 0 and 1, got {wrong[0]}")
        label = self._label(index, name)
        prompt = None if label is None else self.classes[label]
        picture = Image.fromarray(np.ascontiguousarray(image.transpose(2, 1, 0)))  # MATLAB stores columns first
        return Sample(name, picture, label, (Region(label, prompt, torch.from_numpy(mask.T.astype(np.int64))),))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handle": None}

    def _checked_length(self, file: Any) -> int:
        fields = sorted(file["value"]) if "value" in file else []
        if not {"img", "gt"} <= set(fields):
            raise ValueError(f"{self.path} must hold /value/img and /value/gt, got {fields or sorted(file)}.")
        images = file["value/img"].shape
        others = [file[f"value/{each}"].shape for each in ("gt", "target") if each in fields]
        if len(images) != 2 or images[1] != 1 or any(each != images for each in others):
            got = " and ".join(map(str, [images, *others]))
            raise ValueError(f"{self.path} must hold (N, 1) images and as many masks and classes, got {got}.")
        return int(images[0])

    def _label(self, index: int, name: str) -> int | None:
        if not self._classes_of_records:
            return None
        wnid = self._classes_of_records[index]
        if wnid not in self.wnids:
            raise DamagedSampleError(name, f"class must be a WordNet id such as n01440764, got {wnid!r}")
        return self.wnids.index(wnid)

    def _open(self) -> Any:
        try:
            h5py = import_module("h5py")
        except ModuleNotFoundError as error:
            raise ImportError("ImageNetSegmentation needs h5py. Install it: pip install 'captum-vit[data]'.") from error
        try:
            return h5py.File(self.path, "r")
        except OSError as error:
            raise ValueError(f"path must be a file of MATLAB 7.3 (HDF5), got {self.path}: {error}.") from error

    def _file(self) -> Any:
        """The file as this process opened it: a handle that was open before a fork may not be used after it."""
        if self._handle is None or self._handle[0] != os.getpid():
            self._handle = (os.getpid(), self._open())
        return self._handle[1]

    def _record(self, index: int, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """Image (3, W, H) and mask (W, H). A cell of images refers to an image, one of masks to a cell with a mask."""
        file = self._file()
        try:
            image = file[file["value/img"][index, 0]][()]
            mask = file[file[file["value/gt"][index, 0]][0, 0]][()]
        except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise DamagedSampleError(name, f"record {index} of {self.path}: {error}") from error
        return image, mask


def _texts(file: Any, field: str, length: int) -> tuple[str, ...]:
    """The texts that the cells of a field refer to, as numbers of their letters; empty where there is no such field."""
    if field not in file["value"]:
        return ()
    cells = file[f"value/{field}"][:, 0]
    return tuple(_text(file, cells[k]) for k in range(length))


def _text(file: Any, reference: Any) -> str:
    """An error where it can't be read, which is no WordNet id: the sample says so when it is asked for."""
    try:
        return "".join(map(chr, np.ravel(file[reference][()])))
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        return str(error)
