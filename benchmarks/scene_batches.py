"""Batches of scenes for training: drawn once into a file, then read in any order, mirrored and turned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from captum_vit.data import CLASSES, Scenes
from captum_vit.zoo.scene_models import IMAGE_SIZE, PATCH_SIZE

GRID = IMAGE_SIZE // PATCH_SIZE
MOST_OBJECTS = 4


@dataclass
class Batch:
    """Scenes, or windows of them.

    Attributes:
        images: (B, 3, H, W) float32 in [-1, 1].
        positions: (B, gh·gw) the windows' patches by their number in the whole grid.
        labels: (B, 64) 1 for a class that is there, 0 for one that is not, NaN for one that the window cuts.
        patches: (B, gh·gw) the class that covers most of a patch; 64 for background, -100 where that is unclear.
    """

    images: Tensor
    positions: Tensor
    labels: Tensor
    patches: Tensor

    def to(self, device: str) -> Batch:
        """The batch on a device."""
        return Batch(*(each.to(device) for each in (self.images, self.positions, self.labels, self.patches)))


class SceneFile:
    """Scenes drawn into three arrays on disk: pixels, classes, and the share of every patch that an object covers.

    Args:
        folder: where the arrays are, or will be.
        count: number of scenes.
        seed: of the scenes.
    """

    def __init__(self, folder: Path, count: int, seed: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        stem = folder / f"scenes-{seed}-{count}"
        shapes = {
            "images": (count, IMAGE_SIZE, IMAGE_SIZE, 3),
            "classes": (count, MOST_OBJECTS),
            "shares": (count, MOST_OBJECTS, GRID, GRID),
        }
        paths = {name: Path(f"{stem}-{name}.npy") for name in shapes}
        done = Path(f"{stem}.done")
        if not done.exists():
            arrays = {
                name: np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shapes[name])
                for name, path in paths.items()
            }
            _draw(Scenes(count, size=IMAGE_SIZE, seed=seed), **arrays)
            for array in arrays.values():
                array.flush()
            done.touch()
        self.images, self.classes, self.shares = (np.load(path, mmap_mode="r") for path in paths.values())

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, size: int, window: int, generator: torch.Generator) -> Batch:
        """Random scenes, all turned and mirrored in one random way.

        Args:
            size: number of scenes.
            window: side in patches of the part that is cut around a random object; `GRID` for whole scenes.
            generator: decides everything.
        """
        chosen = torch.randint(len(self), (size,), generator=generator).sort().values.numpy()
        images = torch.from_numpy(self.images[chosen]).permute(0, 3, 1, 2).float() / 127.5 - 1
        classes = torch.from_numpy(self.classes[chosen].astype(np.int64))  # (B, 4), 255 for none
        shares = torch.from_numpy(self.shares[chosen]).float() / 255  # (B, 4, GRID, GRID)
        turns, mirrored = (int(torch.randint(n, (), generator=generator)) for n in (4, 2))
        images, shares = (
            torch.rot90(each.flip(-1) if mirrored else each, turns, (-2, -1)) for each in (images, shares)
        )
        top, left = self._corners(shares, classes, window, generator)
        rows, columns = top[:, None] + torch.arange(window), left[:, None] + torch.arange(window)  # (B, window)
        positions = (rows[:, :, None] * GRID + columns[:, None, :]).flatten(1)
        return Batch(_cut(images, positions, window), positions, *_targets(classes, shares.flatten(2), positions))

    @staticmethod
    def _corners(shares: Tensor, classes: Tensor, window: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Upper left patch of a window that holds the middle of a random object."""
        size = len(classes)
        counts = (classes < len(CLASSES)).sum(1)
        object_ = (torch.rand(size, generator=generator) * counts).long()
        weight = shares[torch.arange(size), object_]  # (B, GRID, GRID)
        weight = weight / weight.sum((1, 2), keepdim=True)
        places = torch.arange(GRID, dtype=torch.float32) + 0.5
        corners = []
        for middle in ((weight.sum(2) * places).sum(1), (weight.sum(1) * places).sum(1)):
            offset = window * (0.3 + 0.4 * torch.rand(size, generator=generator))
            corners.append((middle - offset).round().long().clamp(0, GRID - window))
        return corners[0], corners[1]


def _draw(scenes: Scenes, images: np.ndarray, classes: np.ndarray, shares: np.ndarray) -> None:
    classes[:] = 255
    for number in tqdm(range(len(scenes)), desc="drawing scenes", unit="scene"):
        scene = scenes[number]
        images[number] = scene.image.permute(1, 2, 0).numpy()
        for place, each in enumerate(scene.objects):
            classes[number, place] = each.label
            cells = each.mask.view(GRID, PATCH_SIZE, GRID, PATCH_SIZE).float().mean((1, 3))
            shares[number, place] = (255 * cells).round().byte().numpy()


def _cut(images: Tensor, positions: Tensor, window: int) -> Tensor:
    """(B, 3, H, W) → the windows' pixels (B, 3, 8·window, 8·window)."""
    if window == GRID:
        return images
    patches = images.unfold(2, PATCH_SIZE, PATCH_SIZE).unfold(3, PATCH_SIZE, PATCH_SIZE)  # (B, 3, GRID, GRID, 8, 8)
    patches = patches.flatten(2, 3)
    index = positions[:, None, :, None, None].expand(-1, 3, -1, PATCH_SIZE, PATCH_SIZE)
    cut = patches.gather(2, index).unflatten(2, (window, window))
    return cut.permute(0, 1, 2, 4, 3, 5).flatten(4, 5).flatten(2, 3)


def _targets(classes: Tensor, shares: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """What is in every window, and in every patch of it, from the shares (B, 4, GRID²)."""
    inside = shares.gather(2, positions[:, None, :].expand(-1, MOST_OBJECTS, -1))  # (B, 4, gh·gw)
    seen = inside.sum(2) / shares.sum(2).clamp(min=1e-6)
    labels = torch.zeros(len(classes), len(CLASSES) + 1)
    value = torch.where(seen > 0.7, 1.0, torch.where(seen < 0.1, 0.0, torch.nan))
    labels.scatter_(1, classes.clamp(max=len(CLASSES)), value)
    share, place = inside.max(1)  # (B, gh·gw)
    patches = classes.gather(1, place)
    patches = torch.where(share > 0.35, patches, torch.where(share < 0.05, len(CLASSES), -100))
    return labels[:, : len(CLASSES)], patches
