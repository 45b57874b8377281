"""How loaders read files: what is missing says where it can be had, what is damaged says which sample it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from captum_vit.data.sample import DamagedSampleError

__all__ = ["read_pixels", "read_rgb", "require"]


def require(path: Path, layout: str, page: str, *, folder: bool = False) -> Path:
    """The path, if it is there.

    Args:
        path: of a file or a folder.
        layout: the files that the dataset consists of.
        page: where the data can be had.
        folder: whether the path must be a folder.

    Raises:
        FileNotFoundError: nothing of that kind is there.
    """
    if not (path.is_dir() if folder else path.is_file()):
        kind = "folder" if folder else "file"
        raise FileNotFoundError(f"there is no {kind} {path}. Expected: {layout}. The data can be had at {page}.")
    return path


def read_rgb(path: Path, id: str) -> Image.Image:  # noqa: A002
    """The image, decoded, without alpha.

    Args:
        path: of an image file.
        id: of the sample that it belongs to.

    Raises:
        DamagedSampleError: there is no such file, or it is no whole image.
    """
    try:
        with Image.open(path) as image:
            rgb: Image.Image = image.convert("RGB")
    except FileNotFoundError as error:
        raise DamagedSampleError(id, f"there is no file {path}") from error
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DamagedSampleError(id, f"{path} is no whole image: {error}") from error
    return rgb


def read_pixels(path: Path, image: Image.Image, id: str) -> Tensor:  # noqa: A002
    """(H, W, 3) uint8: the colours of an annotation of the image.

    Args:
        path: of an image file whose colours stand for things.
        image: what is annotated.
        id: of the sample that both belong to.

    Raises:
        DamagedSampleError: see `read_rgb`; another size than the image's.
    """
    annotation = read_rgb(path, id)
    if annotation.size != image.size:
        raise DamagedSampleError(id, f"{path} must be of the image's size {image.size}, got {annotation.size}")
    return torch.from_numpy(np.array(annotation))
