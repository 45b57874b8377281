from __future__ import annotations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from captum_vit.viz import outline


def drawn(mask):
    """A black picture with the mask's outline, one pixel of the file to each pixel, (H, W, 3)."""
    made = Figure(figsize=(mask.shape[1] / 100, mask.shape[0] / 100), dpi=100)
    canvas = FigureCanvasAgg(made)
    axes = made.add_axes((0, 0, 1, 1))
    axes.imshow(np.full((*mask.shape, 3), 0.5))
    axes.set_axis_off()
    outline(axes, mask)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


def test_the_line_follows_the_edge_of_the_mask():
    mask = np.zeros((60, 90), dtype=bool)
    mask[20:40, 30:70] = True
    changed = (drawn(mask) != drawn(np.zeros_like(mask))).any(-1)
    rows, columns = changed.nonzero()
    edges = ((20, 40), (30, 70))
    for found, (first, end) in zip((rows, columns), edges, strict=True):
        assert found.min() == pytest.approx(first, abs=2)
        assert found.max() == pytest.approx(end - 1, abs=2)
    assert not changed[24:36, 34:66].any()


def test_an_object_at_the_border_is_closed_along_it():
    mask = np.zeros((40, 40), dtype=bool)
    mask[:, :20] = True
    picture = drawn(mask)
    assert (picture[5:35, 0] != picture[20, 30]).any(-1).all()


def test_the_picture_keeps_its_size():
    axes = Figure().add_axes((0, 0, 1, 1))
    axes.imshow(np.zeros((4, 6)))
    outline(axes, np.eye(4, 6) > 0)
    assert (axes.get_xlim(), axes.get_ylim()) == ((-0.5, 5.5), (3.5, -0.5))


def test_it_is_white_on_black():
    mask = np.zeros((60, 60), dtype=bool)
    mask[20:40, 20:40] = True
    line = drawn(mask)[30, 15:25].mean(-1)
    assert line.max() > 160  # of 255 on a grey of 127
    assert line.min() < 100


def test_an_empty_mask_draws_nothing():
    axes = Figure().add_axes((0, 0, 1, 1))
    outline(axes, np.zeros((4, 4), dtype=bool))
    assert not axes.collections
