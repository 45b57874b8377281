"""Random numbers and textures that are the same on every machine and under every version of NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import prod, sqrt
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Canvas", "Draw", "Window", "background", "coverage_of", "paint", "window"]

Canvas: TypeAlias = NDArray[np.floating[Any]]
"""(H, W, 3): an image on a scale of 0 to 255."""

_NOISE = np.arange(256, dtype=np.float32) / np.float32(127.5) - 1

Window: TypeAlias = tuple[slice, slice]


class Draw:
    """Random numbers of one sample.

    They are made from the generator's raw bits (Philox, counter based: one key per sample, no order among samples),
    since NumPy keeps those bits for ever and the streams of its distributions not.
    """

    def __init__(self, seed: int, index: int) -> None:
        self._bits = np.random.Philox(key=np.array([seed, index], dtype=np.uint64))
        self._single = self._singles()

    def uniform(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * ((next(self._single) >> 11) * 2.0**-53)

    def below(self, bound: int) -> int:
        """An integer in [0, bound)."""
        return int(self.uniform(0, bound))

    def distinct(self, count: int, bound: int) -> list[int]:
        """Different integers in [0, bound)."""
        pool = list(range(bound))
        return [pool.pop(self.below(bound - k)) for k in range(count)]

    def direction(self) -> tuple[float, float]:
        """A point of the unit circle, every angle alike."""
        while True:
            x, y = self.uniform(-1, 1), self.uniform(-1, 1)
            length = sqrt(x * x + y * y)
            if 0.1 < length <= 1:
                return x / length, y / length

    def _singles(self) -> Iterator[int]:
        while True:
            yield from self._bits.random_raw(64).tolist()

    def noise(self, *shape: int) -> Canvas:
        """Numbers in [-1, 1] in 256 steps."""
        count = prod(shape)
        raw: NDArray[np.uint64] = self._bits.random_raw(-(-count // 8))
        levels: Canvas = _NOISE.take(raw.astype("<u8", copy=False).view(np.uint8)[:count])
        return levels.reshape(shape)


def background(draw: Draw, height: int, width: int) -> Canvas:
    """Soft colours, two scales of texture, striped patches, and many thin strokes and dots in any colour."""
    side = min(height, width)
    canvas = 128 + 34 * draw.noise(3) + 46 * _smooth(draw, height, width, cells=4, channels=3)
    canvas += 30 * _smooth(draw, height, width, cells=14, channels=3)
    canvas += 22 * _smooth(draw, height, width, cells=36, channels=1)
    for _ in range(2 + draw.below(3)):
        _stripes(draw, canvas, reach=side * draw.uniform(0.1, 0.22))
    for _ in range(7 + draw.below(7)):
        _stroke(draw, canvas, length=side * max(0.0, draw.uniform(-0.12, 0.3)), radius=side * draw.uniform(0.006, 0.02))
    return canvas


def window(x: float, y: float, reach: float, height: int, width: int) -> tuple[Window, Canvas, Canvas]:
    """The part of an image within ``reach`` pixels of a point, and its pixels' offsets (x, y) from the point."""
    top, bottom = max(0, int(y - reach)), min(height, int(y + reach) + 2)
    left, right = max(0, int(x - reach)), min(width, int(x + reach) + 2)
    across = np.arange(left, right, dtype=np.float32) + np.float32(0.5 - x)
    down = np.arange(top, bottom, dtype=np.float32) + np.float32(0.5 - y)
    return (slice(top, bottom), slice(left, right)), across[None, :], down[:, None]


def coverage_of(distance: Canvas) -> Canvas:
    """How much of a pixel lies inside, in [0, 1], by its centre's signed distance from the outline in pixels."""
    covered: Canvas = np.minimum(np.maximum(0.5 - distance, 0), 1)
    return covered


def paint(canvas: Canvas, where: Window, coverage: Canvas, colour: Canvas) -> None:
    """Lays a colour over the window, as far as each pixel is covered: (h, w) in [0, 1]."""
    below = canvas[where]
    below += coverage[..., None] * (colour - below)


def _smooth(draw: Draw, height: int, width: int, cells: int, channels: int) -> Canvas:
    """(H, W, channels) noise in [-1, 1], linear between the corners of ``cells`` cells along the shorter side."""
    cell = min(height, width) / cells
    rows, down = _between(height, cell)
    columns, across = _between(width, cell)
    corners = draw.noise(rows[-1] + 2, columns[-1] + 2, channels)
    lines = corners.take(columns, axis=1)
    lines += across[:, None] * (corners.take(columns + 1, axis=1) - lines)
    field: Canvas = lines.take(rows, axis=0)
    field += down[:, None, None] * (lines.take(rows + 1, axis=0) - field)
    return field


@lru_cache(maxsize=64)
def _between(pixels: int, cell: float) -> tuple[NDArray[np.int64], Canvas]:
    """The cell of every pixel, and how far along the cell it lies."""
    position = (np.arange(pixels) + 0.5) / cell
    before = position.astype(np.int64)
    return before, (position - before).astype(np.float32)


def _stripes(draw: Draw, canvas: Canvas, reach: float) -> None:
    height, width, _ = canvas.shape
    where, across, down = window(draw.uniform(0, width), draw.uniform(0, height), reach, height, width)
    cosine, sine = draw.direction()
    phase = (across * cosine + down * sine) / np.float32(draw.uniform(4, 9))
    wave = np.abs(phase - np.floor(phase) - 0.5) * 4 - 1
    canvas[where] += wave[..., None] * (24 * draw.noise(3))


def _stroke(draw: Draw, canvas: Canvas, length: float, radius: float) -> None:
    """A line with round ends, or a dot where it has no length."""
    height, width, _ = canvas.shape
    radius = max(radius, 0.7)
    reach = length / 2 + radius + 1
    where, across, down = window(draw.uniform(0, width), draw.uniform(0, height), reach, height, width)
    cosine, sine = draw.direction()
    along = np.maximum(np.abs(across * cosine + down * sine) - length / 2, 0)
    aside = down * cosine - across * sine
    distance = np.sqrt(along * along + aside * aside) - np.float32(radius)
    paint(canvas, where, coverage_of(distance), 128 + 127 * draw.noise(3))
