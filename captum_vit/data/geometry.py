"""One geometry for an image and for everything that is known about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from captum_vit.data.sample import Points, Region, Sample

__all__ = ["Geometry"]


@dataclass(frozen=True)
class Geometry:
    """How an image and its annotations come to the size that a model takes.

    Images are resized as ``interpolation`` says. A pixel of a resized mask takes the value of the pixel that its centre
    lies in.

    Attributes:
        size: (H, W) of the result.
        mode: "squash" resizes both sides, whatever the proportions, so that all of the image is seen; "crop" scales the
            image until it covers the size divided by ``crop`` and cuts out the middle.
        crop: share of the shorter side that is kept; 0.875 is 224 of 256.
        interpolation: of the image.

    Raises:
        ValueError: a value out of its range.
    """

    size: tuple[int, int]
    mode: Literal["squash", "crop"] = "squash"
    crop: float = 1.0
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size must be positive (height, width), got {self.size}.")
        if self.mode not in ("squash", "crop"):
            raise ValueError(f"mode must be 'squash' or 'crop', got {self.mode!r}.")
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop must be in (0, 1], got {self.crop}.")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"interpolation must be 'bilinear' or 'bicubic', got {self.interpolation!r}.")

    def __call__(self, sample: Sample) -> Sample:
        """The sample in this geometry: image, masks, parts, boxes and points."""
        height, width = sample.image.height, sample.image.width
        return Sample(
            sample.id,
            self.image(sample.image),
            sample.label,
            tuple(self._region(each, height, width) for each in sample.regions),
        )

    def image(self, image: Image.Image) -> Image.Image:
        """The image in the new size."""
        height, width, top, left = self._fitted(image.height, image.width)
        resample = Image.Resampling.BICUBIC if self.interpolation == "bicubic" else Image.Resampling.BILINEAR
        image = image.resize((width, height), resample)
        return image.crop((left, top, left + self.size[1], top + self.size[0]))

    def mask(self, mask: Tensor) -> Tensor:
        """A mask (H, W) in the new size, (h, w); its values stay as they are."""
        height, width, top, left = self._fitted(*mask.shape)
        rows = _nearest(mask.shape[0], height)[top : top + self.size[0]]
        columns = _nearest(mask.shape[1], width)[left : left + self.size[1]]
        return mask[rows.to(mask.device)][:, columns.to(mask.device)]

    def points(self, points: Points, height: int, width: int) -> Points:
        """Points of an image of this size; those that were cut off no longer count (label -1)."""
        fitted_height, fitted_width, top, left = self._fitted(height, width)
        scale = points.positions.new_tensor([fitted_width, fitted_height])
        inside = points.positions.new_tensor([self.size[1], self.size[0]])
        moved = (points.positions * scale - points.positions.new_tensor([left, top])) / inside
        kept = ((moved >= 0) & (moved <= 1)).all(1)
        return Points(moved.clamp(0, 1), points.labels.masked_fill(~kept, -1))

    def boxes(self, boxes: Tensor, height: int, width: int) -> Tensor:
        """Boxes (N, 4) of an image of this size, cut at the border; one that was cut off wholly has no area."""
        fitted_height, fitted_width, top, left = self._fitted(height, width)
        boxes = boxes if boxes.is_floating_point() else boxes.float()
        scale = boxes.new_tensor([fitted_width / width, fitted_height / height] * 2)
        moved = boxes * scale - boxes.new_tensor([left, top] * 2)
        border = boxes.new_tensor([self.size[1], self.size[0]] * 2)
        return torch.minimum(moved.clamp(min=0), border)

    def _region(self, region: Region, height: int, width: int) -> Region:
        return Region(
            region.label,
            region.prompt,
            None if region.mask is None else self.mask(region.mask),
            None if region.points is None else self.points(region.points, height, width),
            None if region.boxes is None else self.boxes(region.boxes, height, width),
            {name: self.mask(part) for name, part in region.parts.items()},
            region.embedding,
        )

    def _fitted(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Height and width to resize to, then the top and the left of what is cut out."""
        if self.mode == "squash":
            return (*self.size, 0, 0)
        scale = max(self.size[0] / height, self.size[1] / width) / self.crop
        fitted = (max(self.size[0], round(height * scale)), max(self.size[1], round(width * scale)))
        return (*fitted, (fitted[0] - self.size[0]) // 2, (fitted[1] - self.size[1]) // 2)


def _nearest(length: int, resized: int) -> Tensor:
    """Which of ``length`` pixels the centre of each of ``resized`` pixels lies in, in whole numbers, hence exact."""
    return (2 * torch.arange(resized) + 1) * length // (2 * resized)
