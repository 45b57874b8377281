"""Where an object ends, drawn over a picture."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

__all__ = ["outline"]


def outline(axes: Axes, mask: NDArray[np.bool_]) -> None:
    """Draws a thin white line on black around a mask, so that it shows on any colour.

    Args:
        axes: of a picture of the mask's size, as ``imshow`` makes them.
        mask: (H, W) boolean; an empty one draws nothing.
    """
    if not mask.any():
        return
    framed = np.pad(mask.astype(float), 1)  # an object at the border is closed along it
    rows, columns = (np.arange(-1, length + 1) for length in mask.shape)
    axes.autoscale(False)  # the frame lies outside the picture, whose size must stay
    for colour, width in (("black", 2.0), ("white", 1.0)):
        axes.contour(columns, rows, framed, levels=[0.5], colors=colour, linewidths=width)
