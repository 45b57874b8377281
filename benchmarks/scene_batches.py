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
    """Scenes of which some patches are seen.

    Attributes:
        images: (B, 3, 96, 96) float32 in [-1, 1].
        positions: (B, K) the patches that are seen, by their number in the grid.
        labels: (B, 64) 1 for a class that is there, 0 for one that is not, NaN for one that is seen in part.
        patches: (B, K) the class that covers most of a patch; 64 for background, -100 where that is unclear.
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

    def batch(self, size: int, seen: int, generator: torch.Generator) -> Batch:
        """Random scenes, all turned and mirrored in one random way.

        Args:
            size: number of scenes.
            seen: number of patches per scene: those that hold a part of an object first, then random ones.
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
        shares = shares.flatten(2)
        order = torch.rand(size, GRID * GRID, generator=generator) + (shares.amax(1) > 0.02).float()
        positions = order.topk(seen).indices
        return Batch(images.contiguous(), positions, *_targets(classes, shares, positions))


def _draw(scenes: Scenes, images: np.ndarray, classes: np.ndarray, shares: np.ndarray) -> None:
    classes[:] = 255
    for number in tqdm(range(len(scenes)), desc="drawing scenes", unit="scene"):
        scene = scenes[number]
        images[number] = scene.image.permute(1, 2, 0).numpy()
        for place, each in enumerate(scene.objects):
            classes[number, place] = each.label
            cells = each.mask.view(GRID, PATCH_SIZE, GRID, PATCH_SIZE).float().mean((1, 3))
            shares[number, place] = (255 * cells).round().byte().numpy()


def _targets(classes: Tensor, shares: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """What is seen of every class, and on every patch, from the shares (B, 4, GRID²)."""
    inside = shares.gather(2, positions[:, None, :].expand(-1, MOST_OBJECTS, -1))  # (B, 4, K)
    seen = inside.sum(2) / shares.sum(2).clamp(min=1e-6)
    labels = torch.zeros(len(classes), len(CLASSES) + 1)
    value = torch.where(seen > 0.7, 1.0, torch.where(seen < 0.1, 0.0, torch.nan))
    labels.scatter_(1, classes.clamp(max=len(CLASSES)), value)
    share, place = inside.max(1)  # (B, K)
    patches = classes.gather(1, place)
    patches = torch.where(share > 0.35, patches, torch.where(share < 0.05, len(CLASSES), -100))
    return labels[:, : len(CLASSES)], patches
