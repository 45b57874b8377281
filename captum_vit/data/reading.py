"""How loaders read files: what is missing says where it can be had, what is damaged says which sample it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from captum_vit.data.sample import DamagedSampleError

__all__ = ["list_images", "not_found", "read_indices", "read_pixels", "read_rgb", "require"]

_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
_ONE_CHANNEL = ("1", "L", "P", "I", "I;16")


def not_found(problem: str, layout: str, page: str | None = None) -> FileNotFoundError:
    """The error that says what is not there, what was expected, and where the data can be had."""
    source = "" if page is None else f" The data can be had at {page}."
    return FileNotFoundError(f"{problem}. Expected: {layout}.{source}")


def require(path: Path, layout: str, page: str | None = None, *, folder: bool = False) -> Path:
    """The path, if it is there.

    Args:
        path: of a file or a folder.
        layout: the files that the dataset consists of.
        page: where the data can be had; None for data of the caller's own.
        folder: whether the path must be a folder.

    Raises:
        FileNotFoundError: nothing of that kind is there.
    """
    if not (path.is_dir() if folder else path.is_file()):
        kind = "folder" if folder else "file"
        raise not_found(f"there is no {kind} {path}", layout, page)
    return path


def list_images(folder: Path, pattern: str, layout: str, page: str | None = None) -> tuple[Path, ...]:
    """The image files of a folder, sorted; hidden files don't count.

    Args:
        folder: where to look.
        pattern: which files, as in `pathlib.Path.glob`.
        layout: the files that the dataset consists of.
        page: where the data can be had; None for data of the caller's own.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
    """
    files = require(folder, layout, page, folder=True).glob(pattern)
    images = sorted(each for each in files if each.suffix.lower() in _SUFFIXES and not each.name.startswith("."))
    if not images:
        raise not_found(f"there is no image {pattern} in {folder}", layout, page)
    return tuple(images)


def read_rgb(path: Path, id: str) -> Image.Image:  # noqa: A002
    """The image, decoded, without alpha.

    Args:
        path: of an image file.
        id: of the sample that it belongs to.

    Raises:
        DamagedSampleError: there is no such file, or it is no whole image.
    """
    return _decoded(path, id).convert("RGB")


def read_pixels(path: Path, image: Image.Image, id: str) -> Tensor:  # noqa: A002
    """(H, W, 3) uint8: the colours of an annotation of the image.

    Args:
        path: of an image file whose colours stand for things.
        image: what is annotated.
        id: of the sample that both belong to.

    Raises:
        DamagedSampleError: see `read_rgb`; another size than the image's.
    """
    return torch.from_numpy(np.array(_annotation(path, image, id).convert("RGB")))


def read_indices(path: Path, image: Image.Image, id: str) -> Tensor:  # noqa: A002
    """(H, W) int64: the numbers of an annotation of the image; where it has a palette, the places in the palette.

    Args:
        path: of an image file with one channel.
        image: what is annotated.
        id: of the sample that both belong to.

    Raises:
        DamagedSampleError: see `read_rgb`; another size than the image's; several channels.
    """
    annotation = _annotation(path, image, id)
    if annotation.mode not in _ONE_CHANNEL:
        raise DamagedSampleError(id, f"{path} must have one channel or a palette, got mode {annotation.mode}")
    return torch.from_numpy(np.array(annotation).astype(np.int64))


def _annotation(path: Path, image: Image.Image, id: str) -> Image.Image:  # noqa: A002
    annotation = _decoded(path, id)
    if annotation.size != image.size:
        raise DamagedSampleError(id, f"{path} must be of the image's size {image.size}, got {annotation.size}")
    return annotation


def _decoded(path: Path, id: str) -> Image.Image:  # noqa: A002
    try:
        image: Image.Image = Image.open(path)
        with image:
            image.load()
    except FileNotFoundError as error:
        raise DamagedSampleError(id, f"there is no file {path}") from error
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DamagedSampleError(id, f"{path} is no whole image: {error}") from error
    return image
