"""Synthetic scenes of coloured shapes with exact masks: ground truth for attribution, without a download."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from operator import index as as_integer
from typing import SupportsIndex

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from captum_vit.data.drawing import Canvas, Draw, background, coverage_of, paint, window
from captum_vit.data.shapes import PARTS, SHAPES

__all__ = ["CLASSES", "COLOURS", "Scene", "SceneObject", "Scenes", "with_article"]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 35, 40),
    "orange": (245, 135, 20),
    "yellow": (240, 220, 45),
    "green": (40, 155, 55),
    "cyan": (60, 205, 220),
    "blue": (35, 75, 215),
    "purple": (135, 45, 175),
    "white": (240, 240, 240),
}
"""RGB by name; every object departs from it a little."""

CLASSES: tuple[str, ...] = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
"""The 64 classes in the order of the shipped classifier's outputs: "red circle", "red square", …, "white crescent"."""

_SMALLEST = 32
_LENGTHS = 2**63
"""Python's ``len`` can't say more."""

_RADIUS = (0.13, 0.23)
"""Smallest and largest radius of an object's disc, in units of the image's shorter side, where there is room.

Where there is none the radius shrinks until the disc fits: in a scene of four objects down to about 0.05.
"""


@dataclass(frozen=True, eq=False)
class SceneObject:
    """One object of a scene.

    Attributes:
        shape: one of `captum_vit.data.shapes.SHAPES`.
        colour: one of `COLOURS`.
        centre: (x, y) in pixels; the corner of the image is (0, 0), the centre of the first pixel (0.5, 0.5).
        radius: of the disc around the object, in pixels.
        mask: (H, W) boolean: the pixels whose centre it covers, and no object in front of it.
        parts: masks by name that divide the object's mask; empty for a shape without parts.
        visible: how much of the object nothing hides, in [0, 1].
    """

    shape: str
    colour: str
    centre: tuple[float, float]
    radius: float
    mask: Tensor
    parts: dict[str, Tensor]
    visible: float

    @property
    def name(self) -> str:
        """Such as "red star"; one of `CLASSES`."""
        return f"{self.colour} {self.shape}"

    @property
    def label(self) -> int:
        """Index into `CLASSES`."""
        return list(COLOURS).index(self.colour) * len(SHAPES) + list(SHAPES).index(self.shape)

    @property
    def phrase(self) -> str:
        """Such as "an orange star"."""
        return with_article(self.name)


@dataclass(frozen=True, eq=False)
class Scene:
    """An image whose objects are known to the pixel.

    Attributes:
        index: of the sample in its dataset.
        image: (3, H, W), uint8.
        objects: one to four, from back to front, all of different classes.
    """

    index: int
    image: Tensor
    objects: tuple[SceneObject, ...]

    @property
    def captions(self) -> tuple[str, ...]:
        """One per object, such as "a photo of a red star", and, when there are several, one that names all."""
        phrases = [each.phrase for each in self.objects]
        if len(phrases) > 1:
            phrases.append(f"{', '.join(phrases[:-1])} and {phrases[-1]}")
        return tuple(f"a photo of {each}" for each in phrases)

    @property
    def labels(self) -> Tensor:
        """(64,) float32: 1 for every class of `CLASSES` that is present."""
        present = torch.zeros(len(CLASSES))
        present[[each.label for each in self.objects]] = 1
        return present

    @cached_property
    def picture(self) -> Image.Image:
        """The image as Pillow's, for a model's own preprocessing."""
        return Image.fromarray(self.image.permute(1, 2, 0).numpy())


class Scenes(Dataset[Scene]):
    """Coloured shapes of any size and rotation on cluttered backgrounds, drawn when asked for.

    Sample i of a seed is the same on every machine and does not depend on the dataset's length: random bits come from
    a counter-based generator with the key (seed, i), and only operations that IEEE 754 rounds alike everywhere are
    used.

    The disc around an object has a radius of 13 to 23 % of the image's shorter side. It is smaller where the others
    leave no room: down to about 5 % in a scene of four objects.

    A ``DataLoader`` needs ``collate_fn=list``, since scenes differ in their number of objects.

    Args:
        length: number of scenes.
        size: side of the image in pixels, or (height, width); at least 32.
        seed: non-negative.
        objects: smallest and largest number of objects, within 1 to 4.
        occlusion: whether objects may hide a part of others. Otherwise the discs around them do not meet.
        shapes: only objects of these, such as those with parts; None for all.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> scene = Scenes(100, size=96, seed=0)[0]
        >>> scene.image.shape, scene.objects[0].mask.shape
        (torch.Size([3, 96, 96]), torch.Size([96, 96]))
        >>> scene.captions[0]
        'a photo of a red star'
    """

    def __init__(
        self,
        length: SupportsIndex,
        *,
        size: SupportsIndex | Sequence[SupportsIndex] = 96,
        seed: SupportsIndex = 0,
        objects: Sequence[SupportsIndex] = (1, 4),
        occlusion: bool = False,
        shapes: Collection[str] | None = None,
    ) -> None:
        sides = _integers(size if isinstance(size, Sequence) else (size, size))
        if sides is None or len(sides) != 2 or min(sides) < _SMALLEST:
            raise ValueError(
                f"size must be a side or (height, width) of at least {_SMALLEST} pixels, whole numbers, got {size}."
            )
        lengths, seeds = _integers((length,)), _integers((seed,))
        if lengths is None or not 1 <= lengths[0] < _LENGTHS:
            raise ValueError(f"length must be a whole number in [1, 2^63), got {length}.")
        if seeds is None or not 0 <= seeds[0] < 2**64:
            raise ValueError(f"seed must be a whole number in [0, 2^64), got {seed}.")
        counts = _integers(objects) if isinstance(objects, Sequence) else None
        if counts is None or len(counts) != 2 or not 1 <= counts[0] <= counts[1] <= 4:
            raise ValueError(f"objects must be (smallest, largest) number within 1 to 4, got {objects}.")
        unknown = sorted(set(shapes or SHAPES) - set(SHAPES))
        if unknown or (shapes is not None and not shapes):
            raise ValueError(f"shapes must be among {', '.join(SHAPES)}, at least one, got {unknown or shapes}.")
        self.size, self.objects = (sides[0], sides[1]), (counts[0], counts[1])
        self.length, self.seed, self.occlusion = lengths[0], seeds[0], occlusion
        self._labels = [label for label, name in enumerate(CLASSES) if name.split()[1] in (shapes or SHAPES)]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: SupportsIndex) -> Scene:
        number = self._number(index)
        canvas, drawn = self._draw(number, objects=True)
        return Scene(number, _to_image(canvas), _visible_objects(drawn))

    def background(self, index: SupportsIndex) -> Tensor:
        """(3, H, W) uint8: scene ``index`` without its objects; elsewhere it is the same to the bit."""
        return _to_image(self._draw(self._number(index), objects=False)[0])

    def _number(self, index: SupportsIndex) -> int:
        """The scene's number, counted from the start."""
        found = _integers((index,))
        if found is None:
            raise TypeError(f"scene must be a whole number in [0, {self.length}), got {index}.")
        if not -self.length <= found[0] < self.length:
            raise IndexError(f"scene must be in [0, {self.length}), got {index}.")
        return found[0] % self.length

    def _draw(self, number: int, *, objects: bool) -> tuple[Canvas, list[SceneObject]]:
        """The canvas, with or without the objects, and the objects as if nothing came in front of them."""
        height, width = self.size
        draw = Draw(self.seed, number)
        canvas = background(draw, height, width)
        count = self.objects[0] + draw.below(self.objects[1] - self.objects[0] + 1)
        labels = [self._labels[each] for each in draw.distinct(count, len(self._labels))]
        discs = self._discs(draw, count)
        painted = canvas if objects else canvas.copy()  # what follows must draw the same random numbers
        drawn = [_draw_object(draw, painted, label, *disc) for label, disc in zip(labels, discs, strict=True)]
        canvas += 7 * draw.noise(height, width, 1)
        return canvas, drawn

    def _discs(self, draw: Draw, count: int) -> list[tuple[float, float, float]]:
        """(x, y, radius) of every object, wholly inside the image; smaller where there is no room."""
        height, width = self.size
        side = min(height, width)
        meet = 0.7 if self.occlusion else 1.05
        discs: list[tuple[float, float, float]] = []
        while len(discs) < count:
            radius = side * draw.uniform(*_RADIUS)
            while True:
                x, y = (draw.uniform(radius + 1, length - radius - 1) for length in (width, height))
                if all(_distance(x - a, y - b) >= meet * (radius + c) for a, b, c in discs):
                    break
                radius *= 0.97
            discs.append((x, y, radius))
        return discs


def _integers(values: Sequence[SupportsIndex]) -> list[int] | None:
    """Python's and NumPy's integers as Python's; None if anything else is among them."""
    try:
        return [as_integer(each) for each in values]
    except TypeError:
        return None


def with_article(name: str) -> str:
    """A class with its article, as in captions: "a red star", "an orange star"."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _to_image(canvas: Canvas) -> Tensor:
    image = np.rint(np.minimum(np.maximum(canvas, 0), 255)).astype(np.uint8)
    return torch.from_numpy(image).permute(2, 0, 1).contiguous()


def _distance(x: float, y: float) -> float:
    return sqrt(x * x + y * y)


def _draw_object(draw: Draw, canvas: Canvas, label: int, x: float, y: float, radius: float) -> SceneObject:
    """Paints an object and returns it as if nothing came in front of it."""
    height, width, _ = canvas.shape
    colour, shape = CLASSES[label].split(" ")
    where, across, down = window(x, y, radius + 1, height, width)
    cosine, sine = draw.direction()
    u, v = ((across * cosine + down * sine) / np.float32(radius), (down * cosine - across * sine) / np.float32(radius))
    distance = SHAPES[shape](u, v)
    shade = 1 + np.float32(draw.uniform(-0.15, 0.15)) * u + np.float32(draw.uniform(-0.08, 0.08)) * draw.noise(*u.shape)
    paint(
        canvas,
        where,
        coverage_of(distance * np.float32(radius)),
        (np.array(COLOURS[colour], dtype=np.float32) + 14 * draw.noise(3)) * shade[..., None],
    )

    def whole(inside: np.ndarray) -> Tensor:
        mask = np.zeros((height, width), dtype=bool)
        mask[where] = inside
        return torch.from_numpy(mask)

    inside = distance <= 0
    parts = {name: whole(inside & part) for name, part in PARTS[shape](u, v).items()} if shape in PARTS else {}
    return SceneObject(shape, colour, (x, y), radius, whole(inside), parts, visible=1.0)


def _visible_objects(drawn: Sequence[SceneObject]) -> tuple[SceneObject, ...]:
    """The objects with what lies behind others taken from their masks."""
    visible: list[SceneObject] = []
    for each, hidden in zip(drawn, _hidden(drawn), strict=True):
        if not (each.mask & hidden).any():
            visible.append(each)
            continue
        mask = each.mask & ~hidden
        parts = {name: part & ~hidden for name, part in each.parts.items()}
        share = float(mask.sum() / each.mask.sum())
        visible.append(SceneObject(each.shape, each.colour, each.centre, each.radius, mask, parts, share))
    return tuple(visible)


def _hidden(drawn: Sequence[SceneObject]) -> list[Tensor]:
    """Per object, (H, W) boolean: what the objects in front of it cover."""
    in_front = torch.zeros_like(drawn[0].mask)
    hidden = []
    for each in reversed(drawn):
        hidden.append(in_front)
        in_front = in_front | each.mask
    return hidden[::-1]
