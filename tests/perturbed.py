"""Classifiers whose score is arithmetic, and the procedures of the perturbation metrics as plain loops."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

SIZE, CHANNELS, OUTPUTS = (8, 12), 3, 4


@dataclass
class Linear:
    """Outputs (B, 4): weighted sums of all values of an image; notes how many images each call brought."""

    seen: list[int] = field(default_factory=list)
    probabilities: bool = False

    def __post_init__(self):
        self.weights = torch.randn(OUTPUTS, CHANNELS, *SIZE, generator=torch.Generator().manual_seed(7)).double() / 5

    def __call__(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        outputs = torch.einsum("bchw,kchw->bk", images, self.weights)
        return outputs.softmax(1) if self.probabilities else outputs


def case(batch: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Images, maps and targets in float64; the maps have both signs."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(batch, CHANNELS, *SIZE, generator=generator, dtype=torch.float64)
    maps = torch.randn(batch, *SIZE, generator=generator, dtype=torch.float64)
    return images, maps, torch.tensor([1, 3, 0, 2, 1])[:batch]


def total(images: Tensor) -> Tensor:
    """One output: the sum of an image."""
    return images.sum((1, 2, 3))[:, None]


def ordered_pixels(
    relevance: Tensor, patch: tuple[int, int] = (1, 1), *, descending: bool = True
) -> list[list[tuple[int, int]]]:
    """The pixels of each patch, patch after patch by mean relevance; equal ones in reading order."""
    height, width = relevance.shape
    patches = []
    for top in range(0, height, patch[0]):
        for left in range(0, width, patch[1]):
            pixels = [(top + row, left + column) for row in range(patch[0]) for column in range(patch[1])]
            mean = sum(relevance[place].item() for place in pixels) / len(pixels)
            patches.append((-mean if descending else mean, len(patches), pixels))
    return [pixels for _, _, pixels in sorted(patches)]


def swapped(image: Tensor, other: Tensor, patches: list[list[tuple[int, int]]]) -> Tensor:
    """The image (C, H, W) with the pixels of some patches taken from another one."""
    result = image.clone()
    for pixels in patches:
        for row, column in pixels:
            for channel in range(len(image)):
                result[channel, row, column] = other[channel, row, column]
    return result


def close(actual: Tensor, expected: object, atol: float = 1e-10) -> None:
    """Equal numbers, whatever the expected ones come in."""
    if not isinstance(expected, Tensor):
        expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual, expected.to(actual.dtype), atol=atol, rtol=0, equal_nan=True)
