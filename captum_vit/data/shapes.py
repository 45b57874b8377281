"""The shapes of the synthetic scenes as signed distances, with the parts they fall into.

A shape lies in the unit disc around its centre. Its function takes coordinates ``u`` and ``v`` in units of the disc's
radius and returns a distance in the same units: negative inside, zero on the outline, positive outside. Only +, −, ×,
÷, √, minimum, maximum and comparisons are used: IEEE 754 rounds those alike everywhere, and sines and cosines it does
not.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["PARTS", "SHAPES", "Coordinates"]

Coordinates: TypeAlias = NDArray[np.floating[Any]]
"""(H, W): one coordinate of every pixel."""

Parts: TypeAlias = dict[str, NDArray[np.bool_]]

_COS_36, _SIN_36 = (1 + sqrt(5)) / 4, sqrt(10 - 2 * sqrt(5)) / 4
_COS_72, _SIN_72 = (sqrt(5) - 1) / 4, sqrt(10 + 2 * sqrt(5)) / 4

_STAR_INNER = 0.5
_CROSS_WIDTH = 0.3


def _circle(u: Coordinates, v: Coordinates) -> Coordinates:
    return np.sqrt(u * u + v * v) - 0.85


def _square(u: Coordinates, v: Coordinates) -> Coordinates:
    return np.maximum(np.abs(u), np.abs(v)) - 0.7


def _triangle(u: Coordinates, v: Coordinates) -> Coordinates:
    return np.maximum(-v, np.abs(u) * (sqrt(3) / 2) + v / 2) - 0.5


def _star(u: Coordinates, v: Coordinates) -> Coordinates:
    u = np.abs(u)  # folded into one half of the point that looks along v: angles 0° to 36° from v
    for cosine, sine in ((-_COS_72, _SIN_72), (_COS_36, _SIN_36)):  # mirrors at 108° and 36°
        beyond = 2 * np.maximum(u * cosine - v * sine, 0)
        u, v = u - beyond * cosine, v + beyond * sine
    u = np.abs(u)
    run, rise = _STAR_INNER * _SIN_36, 1 - _STAR_INNER * _COS_36  # from the point to the next inner corner
    return (u * rise + (v - 1) * run) / sqrt(run * run + rise * rise)


def _cross(u: Coordinates, v: Coordinates) -> Coordinates:
    u, v = np.abs(u), np.abs(v)
    return np.maximum(np.minimum(u, v) - _CROSS_WIDTH, np.maximum(u, v) - 0.95)


def _ring(u: Coordinates, v: Coordinates) -> Coordinates:
    return np.abs(np.sqrt(u * u + v * v) - 0.72) - 0.2


def _diamond(u: Coordinates, v: Coordinates) -> Coordinates:
    width = 0.55
    return (np.abs(u) + np.abs(v) * width - width) / sqrt(1 + width * width)


def _crescent(u: Coordinates, v: Coordinates) -> Coordinates:
    bite = u - 0.5
    distance: Coordinates = np.maximum(np.sqrt(u * u + v * v) - 0.95, 0.75 - np.sqrt(bite * bite + v * v))
    return distance


def _star_parts(u: Coordinates, v: Coordinates) -> Parts:
    directions = ((0.0, 1.0), (_SIN_72, _COS_72), (_SIN_36, -_COS_36), (-_SIN_36, -_COS_36), (-_SIN_72, _COS_72))
    points = [u * x + v * y > _STAR_INNER * _COS_36 for x, y in directions]
    return {"core": ~np.logical_or.reduce(points)} | {f"point {k}": each for k, each in enumerate(points, 1)}


def _cross_parts(u: Coordinates, v: Coordinates) -> Parts:
    arms = (u > _CROSS_WIDTH, v > _CROSS_WIDTH, u < -_CROSS_WIDTH, v < -_CROSS_WIDTH)
    return {"centre": ~np.logical_or.reduce(arms)} | {f"arm {k}": each for k, each in enumerate(arms, 1)}


def _crescent_parts(u: Coordinates, v: Coordinates) -> Parts:
    horns = (v > 0.45, v < -0.45)
    return {"belly": ~np.logical_or(*horns)} | {f"horn {k}": each for k, each in enumerate(horns, 1)}


SHAPES: dict[str, Callable[[Coordinates, Coordinates], Coordinates]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "diamond": _diamond,
    "crescent": _crescent,
}
"""Signed distance by shape."""

PARTS: dict[str, Callable[[Coordinates, Coordinates], Parts]] = {
    "star": _star_parts,
    "cross": _cross_parts,
    "crescent": _crescent_parts,
}
"""Which pixels of the plane belong to which part, by shape; together they cover it. The other shapes have no parts."""
