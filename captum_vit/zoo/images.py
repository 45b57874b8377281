"""Images from files, synthetic scenes, and the photographs that come with scikit-image."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from captum_vit.data import Scene, Scenes

__all__ = ["SAMPLES", "load_image", "load_scene", "scene_number"]

SAMPLES = ("astronaut", "chelsea", "coffee")
"""Photographs in scikit-image's package: a person with a rocket, a cat's face, a cup on a table."""

_EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB")


def load_image(
    spec: str | Path, *, max_pixels: int | None = None, formats: tuple[str, ...] | None = None
) -> Image.Image:
    """Reads an image as RGB, turned upright as its EXIF tag says.

    Args:
        spec: a file that Pillow reads; or, without a file, ``scene:7`` for a synthetic scene or ``skimage:chelsea``
            (``astronaut``, ``coffee``).
        max_pixels: most pixels that a file may have; it is refused by its header, before it is unpacked. Pillow itself
            refuses about 179 million.
        formats: Pillow's names of the formats that a file may have; all that it reads by default.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is no image, is too large, is cut short or has more than 8 bits per channel; an unknown
            photograph or scene.
        ImportError: scikit-image is not installed.
    """
    if isinstance(spec, str) and spec.startswith("scene:"):
        return load_scene(spec).picture
    if isinstance(spec, str) and spec.startswith("skimage:"):
        return _sample(spec.removeprefix("skimage:"))
    path = Path(spec)
    if not path.is_file():
        raise FileNotFoundError(
            f"image must be a file, scene:NUMBER or skimage:NAME, got {str(spec)!r}, which is no file."
        )
    try:
        with Image.open(path, formats=formats) as image:
            if max_pixels is not None and image.width * image.height > max_pixels:
                raise ValueError(
                    f"image must have at most {max_pixels / 1e6:g} megapixels, got {image.width}×{image.height} = "
                    f"{image.width * image.height / 1e6:.3g}."
                )
            if image.mode not in _EIGHT_BITS:
                raise ValueError(
                    f"image must have 8 bits per channel, got mode {image.mode} in {path}. Scale it to 0-255 first."
                )
            return ImageOps.exif_transpose(image).convert("RGB")
    except UnidentifiedImageError as error:
        known = "a format that Pillow reads" if formats is None else f"one of the formats {', '.join(formats)}"
        raise ValueError(f"image must be in {known}, got {path}.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # the warning where it is an error
        raise ValueError(f"image {path} has too many pixels: {error}") from error
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for a broken PNG
        raise ValueError(f"image {path} can't be read: {error}.") from error


def load_scene(spec: str) -> Scene:
    """The scene that ``scene:7`` names: number 7 of `captum_vit.data.Scenes` with its default size and seed.

    Raises:
        ValueError: no such scene.
    """
    number = scene_number(spec)
    return Scenes(number + 1)[number]


def scene_number(spec: str) -> int:
    """7 for ``scene:7``.

    Raises:
        ValueError: no such scene.
    """
    digits = spec.removeprefix("scene:")
    if not re.fullmatch(r"\d{1,18}", digits):
        raise ValueError(f"scene must be scene:NUMBER with a whole number in [0, 10^18), got {spec!r}.")
    return int(digits)


def _sample(name: str) -> Image.Image:
    if name not in SAMPLES:
        raise ValueError(f"image must be one of skimage:{', skimage:'.join(SAMPLES)}, got 'skimage:{name}'.")
    try:
        data = import_module("skimage.data")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"skimage:{name} needs scikit-image. Install it: pip install 'captum-vit[samples]'."
        ) from error
    return Image.fromarray(getattr(data, name)()).convert("RGB")
