"""Scenes whose one object can lose its parts."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from captum_vit.data.scenes import CLASSES, COLOURS, Scene, Scenes
from captum_vit.data.shapes import PARTS

__all__ = ["SceneParts"]

_RIM = 3
"""Pixels around a part that may hold some of its colour."""


class SceneParts:
    """Scenes of one star, cross or crescent, and the same scenes without some of its parts.

    For `captum_vit.metrics.part_protocol.PartScores`. A part is taken away by showing the scene's own background in its
    place, with the faint rim that a part's smooth edge leaves around it. No object stands in the background.

    The parts of two classes are never the same, since they differ in shape or in colour: any single part gives the
    class away, and target sensitivity, which needs classes that share parts, has no value.

    Args:
        length: number of scenes.
        size: side of the image in pixels, or (height, width).
        seed: see `Scenes`.

    Attributes:
        classes: `CLASSES`.
        class_parts: for each class the parts of its shape, with the colour's number as their variant; none for a shape
            without parts.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> scenes = SceneParts(10)
        >>> scenes.classes[scenes.label(0)], list(scenes.part_masks(0))
        ('red cross', ['centre', 'arm 1', 'arm 2', 'arm 3', 'arm 4'])
    """

    def __init__(self, length: int, *, size: int | tuple[int, int] = 96, seed: int = 0) -> None:
        self._scenes = Scenes(length, size=size, seed=seed, objects=(1, 1), shapes=tuple(PARTS))
        self.classes = CLASSES
        self.class_parts = tuple(map(_parts_of, CLASSES))
        self._last: tuple[int, Scene, Tensor] | None = None

    def __len__(self) -> int:
        return len(self._scenes)

    def image(self, index: int) -> Image.Image:
        """The whole scene."""
        return self._scene(index)[0].picture

    def label(self, index: int) -> int:
        """The object's class."""
        return self._scene(index)[0].objects[0].label

    def part_masks(self, index: int) -> dict[str, Tensor]:
        """(1, H, W) by part."""
        return {name: mask[None].long() for name, mask in self._scene(index)[0].objects[0].parts.items()}

    def keeping(self, index: int, parts: Collection[str]) -> Image.Image:
        """The scene with no other parts than these.

        Raises:
            ValueError: a part that the object doesn't have.
        """
        scene, background = self._scene(index)
        masks = scene.objects[0].parts
        unknown = sorted(set(parts) - set(masks))
        if unknown:
            raise ValueError(f"parts must be among {', '.join(masks)}, got {unknown[0]!r}.")
        kept, removed = torch.zeros_like(scene.objects[0].mask), torch.zeros_like(scene.objects[0].mask)
        for name, mask in masks.items():
            (kept if name in parts else removed).logical_or_(mask)
        around = F.max_pool2d(removed[None].float(), 2 * _RIM + 1, stride=1, padding=_RIM)[0] > 0
        image = torch.where(around & ~kept, background, scene.image)
        return Image.fromarray(image.permute(1, 2, 0).numpy())

    def without_background(self, index: int, name: str) -> Image.Image:
        """There is no object to take away.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"scene {index} has no object in the background, got {name!r}.")

    def _scene(self, index: int) -> tuple[Scene, Tensor]:
        """The scene and its background; the last one is kept, since it is asked for once per change."""
        if self._last is None or self._last[0] != index:
            self._last = (index, self._scenes[index], self._scenes.background(index))
        return self._last[1:]


def _parts_of(name: str) -> Mapping[str, int]:
    colour, shape = name.split()
    if shape not in PARTS:
        return {}
    nowhere = torch.zeros(0, 0).numpy()
    return dict.fromkeys(PARTS[shape](nowhere, nowhere), list(COLOURS).index(colour))
