"""What takes the place of a pixel that is removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

__all__ = ["Change", "Fill", "blurred", "filled", "is_repeated"]

Fill: TypeAlias = float | Tensor | Literal["mean", "blur"] | Callable[[Tensor], Tensor]
"""A number or (C,) values in the units of the images that the model takes; "mean", the image's own in each channel;
"blur", `blurred`; or a function images → images (B, C, H, W)."""


def filled(images: Tensor, fill: Fill) -> Tensor:
    """The images (B, C, H, W) with every pixel replaced.

    Black is not 0 for images that were normalised: it is ``(0 - mean) / std``.

    Raises:
        TypeError: nothing that fills.
        ValueError: an unknown name or values of another shape.

    Example:
        >>> filled(torch.tensor([[[[0.0, 1.0], [4.0, 8.0]]]]), "mean")
        tensor([[[[3.2500, 3.2500],
                  [3.2500, 3.2500]]]])
    """
    if isinstance(fill, str):
        if fill not in ("mean", "blur"):
            raise ValueError(f"fill must be a number, values, 'mean', 'blur' or a function, got {fill!r}.")
        once = images[:1] if is_repeated(images) else images
        return (once.mean((2, 3), keepdim=True) if fill == "mean" else blurred(once)).expand_as(images)
    if callable(fill):
        other = fill(images)
        if other.shape != images.shape:
            raise ValueError(f"fill must return images of shape {tuple(images.shape)}, got {tuple(other.shape)}.")
        return other
    if not isinstance(fill, Real | Tensor | Sequence | np.ndarray):
        raise TypeError(f"fill must be a number, values, 'mean', 'blur' or a function, got {type(fill).__name__}.")
    values = torch.as_tensor(fill, dtype=images.dtype, device=images.device)
    if values.shape not in ((), (1,), (images.shape[1],)):
        raise ValueError(f"fill must be one number or {images.shape[1]}, one per channel, got {tuple(values.shape)}.")
    return values.view(-1, 1, 1).expand_as(images)


def blurred(images: Tensor) -> Tensor:
    """RISE's blur: an 11×11 kernel with zero padding, made by a Gaussian of σ = 5 that reflects at the kernel's edges.

    Its values, .00774 to .00883, are nearly flat.

    Args:
        images: (B, C, H, W).

    Source: arXiv 1806.07421, the authors' code.
    """
    size, sigma = 11, 5.0
    offsets = torch.arange(-4 * int(sigma), 4 * int(sigma) + 1, dtype=torch.float64)
    gaussian = torch.exp(-0.5 * (offsets / sigma) ** 2)
    places = (offsets.long() + size // 2) % (2 * size)
    reflected = torch.where(places < size, places, 2 * size - 1 - places)  # … 1 0 | 0 1 … 10 | 10 9 …
    line = torch.zeros(size, dtype=torch.float64).index_add_(0, reflected, gaussian / gaussian.sum())
    kernel = (line[:, None] * line).to(images).expand(images.shape[1], 1, size, size)
    return torch.nn.functional.conv2d(images, kernel, padding=size // 2, groups=images.shape[1])


class Change:
    """Images that change pixel by pixel: those of ``start`` become those of ``finish``.

    Args:
        start: (B, C, H, W) the images where nothing changes.
        finish: (B, C, H, W) the images where everything changes.
    """

    def __init__(self, start: Tensor, finish: Tensor) -> None:
        self.start, self.finish = start, finish

    def __call__(self, image: Tensor, changed: Tensor) -> Tensor:
        """Numbers of images (n,) and the pixels that change (n, H, W) → the changed images (n, C, H, W)."""
        return torch.where(changed[:, None], _of(self.finish, image), _of(self.start, image))


def is_repeated(images: Tensor) -> bool:
    """Whether a batch is one image that stands for many, without a copy: `torch.Tensor.expand`."""
    return images.stride(0) == 0


def _of(images: Tensor, numbers: Tensor) -> Tensor:
    return images[:1] if is_repeated(images) else images[numbers]
