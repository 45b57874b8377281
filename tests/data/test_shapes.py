"""Shapes against polygons and discs that are written down with angles, which the package never uses."""

import math

import numpy as np
import pytest
from matplotlib.path import Path

from captum_vit.data.shapes import PARTS, SHAPES


def turned(radius: float, degrees: float) -> tuple[float, float]:
    """A point at an angle from the v axis."""
    angle = math.radians(degrees)
    return radius * math.sin(angle), radius * math.cos(angle)


POLYGONS = {
    "square": [(-0.7, -0.7), (0.7, -0.7), (0.7, 0.7), (-0.7, 0.7)],
    "triangle": [turned(1, each) for each in (0, 120, 240)],
    "star": [turned(0.5 if k % 2 else 1, 36 * k) for k in range(10)],
    "diamond": [(0.55, 0), (0, 1), (-0.55, 0), (0, -1)],
    "cross": [
        *((0.3, 0.95), (0.3, 0.3), (0.95, 0.3), (0.95, -0.3), (0.3, -0.3), (0.3, -0.95)),
        *((-0.3, -0.95), (-0.3, -0.3), (-0.95, -0.3), (-0.95, 0.3), (-0.3, 0.3), (-0.3, 0.95)),
    ],
}

DISCS = {
    "circle": lambda u, v: math.hypot(u, v) < 0.85,
    "ring": lambda u, v: 0.52 < math.hypot(u, v) < 0.92,
    "crescent": lambda u, v: math.hypot(u, v) < 0.95 and math.hypot(u - 0.5, v) > 0.75,
}


def points(count: int = 4000) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1.1, 1.1, (count, 2))


def test_every_shape_has_an_oracle():
    assert set(SHAPES) == {*POLYGONS, *DISCS}


@pytest.mark.parametrize("shape", POLYGONS)
def test_polygon(shape):
    inside = Path(POLYGONS[shape]).contains_points(points())
    distance = SHAPES[shape](*points().T)
    assert np.array_equal(distance < 0, inside)
    assert 0.1 < inside.mean() < 0.6


@pytest.mark.parametrize("shape", DISCS)
def test_round_shape(shape):
    inside = [DISCS[shape](u, v) for u, v in points()]
    assert np.array_equal(SHAPES[shape](*points().T) < 0, inside)


@pytest.mark.parametrize("shape", SHAPES)
def test_distance_grows_by_one_per_unit_across_the_outline(shape):
    """Antialiasing reads the distance within half a pixel of the outline, so its slope there must be one."""
    step = 1e-5
    u, v = points(20_000).T
    distance = SHAPES[shape](u, v)
    slope = np.hypot(
        (SHAPES[shape](u + step, v) - SHAPES[shape](u - step, v)) / (2 * step),
        (SHAPES[shape](u, v + step) - SHAPES[shape](u, v - step)) / (2 * step),
    )
    near = np.abs(distance) < 0.02
    assert np.mean(np.abs(slope[near] - 1) < 1e-3) > 0.97  # a crease at a corner has no slope


@pytest.mark.parametrize("shape", SHAPES)
def test_shape_lies_in_the_unit_disc(shape):
    u, v = points(20_000).T
    assert (np.hypot(u, v)[SHAPES[shape](u, v) < 0] <= 1.0).all()


@pytest.mark.parametrize("shape", PARTS)
def test_parts_cover_the_plane_inside_the_shape_once(shape):
    u, v = points().T
    inside = SHAPES[shape](u, v) < 0
    counts = sum(part[inside].astype(int) for part in PARTS[shape](u, v).values())
    assert (counts == 1).all()


def test_points_of_the_star_and_arms_of_the_cross_are_alike():
    u, v = points(100_000).T
    for shape, middle in (("star", "core"), ("cross", "centre")):
        inside = SHAPES[shape](u, v) < 0
        sizes = {name: (part & inside).sum() for name, part in PARTS[shape](u, v).items()}
        assert sizes.pop(middle) > 0.1 * inside.sum()
        assert max(sizes.values()) < 1.1 * min(sizes.values())
