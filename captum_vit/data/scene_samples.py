"""Synthetic scenes as samples."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

from captum_vit.data.sample import Region, Sample
from captum_vit.data.scenes import CLASSES, SceneObject, Scenes

__all__ = ["SceneSamples"]


class SceneSamples(Dataset[Sample]):
    """Scenes with one region for each object: its class, its phrase as prompt, mask, parts and box.

    Args:
        scenes: what is drawn.

    Attributes:
        classes: `captum_vit.data.CLASSES`.

    Example:
        >>> sample = SceneSamples(Scenes(100, seed=0))[0]
        >>> sample.id, [region.prompt for region in sample.regions]
        ('scene-0-0', ['a red star', 'a cyan star'])
    """

    classes = CLASSES

    def __init__(self, scenes: Scenes) -> None:
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Sample:
        scene = self.scenes[index]
        regions = tuple(_region(each) for each in scene.objects)
        label = regions[0].label if len(regions) == 1 else None
        return Sample(f"scene-{self.scenes.seed}-{scene.index}", scene.picture, label, regions)


def _region(thing: SceneObject) -> Region:
    parts = {name: part.long() for name, part in thing.parts.items()}
    return Region(thing.label, thing.phrase, thing.mask.long(), boxes=_box(thing.mask), parts=parts)


def _box(mask: Tensor) -> Tensor:
    """(1, 4): from the first pixel's left and upper border to the last one's right and lower border."""
    rows, columns = (mask.any(axis).nonzero() for axis in (1, 0))
    sides = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return sides.float()[None]
