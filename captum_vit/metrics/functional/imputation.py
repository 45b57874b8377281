"""Missing pixels filled from what surrounds them, so that a hole does not give its own shape away."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor

__all__ = ["impute"]

EDGE, CORNER = 1 / 6, 1 / 12
"""Weight of a neighbour that shares an edge with a pixel, and of one that shares a corner."""


def impute(images: Tensor, missing: Tensor, *, noise: float = 0.01, seed: int = 0) -> Tensor:
    """Images whose missing pixels are the weighted mean of their eight neighbours, missing or not, with a little noise.

    Each missing pixel i is an unknown of a linear system in every channel, Σ_j w_ij (x_i − x_j) = 0 over its neighbours
    j inside the image, with w = 1/6 across an edge and 1/12 across a corner. The system is solved exactly, on the
    processor, image by image. The field of noise comes from the seed and is the same for every image, so that a split
    into batches changes nothing.

    Args:
        images: (B, C, H, W).
        missing: (B, H, W) boolean; at least one pixel of each image must be known.
        noise: standard deviation of what is added to the missing pixels, in units of the images.
        seed: of the noise.

    Raises:
        ValueError: an image without a known pixel, a negative noise or a shape that does not fit.

    Source: noisy linear imputation of ROAD (arXiv 2202.00449), section 4.2.

    Example:
        >>> image = torch.tensor([[[[0.0, 6.0, 0.0], [6.0, 99.0, 6.0], [0.0, 6.0, 12.0]]]])
        >>> impute(image, image[:, 0] == 99, noise=0)[0, 0, 1]
        tensor([6., 5., 6.])
    """
    if images.ndim != 4 or missing.shape != (len(images), *images.shape[2:]):
        raise ValueError(
            f"missing must be (B, H, W) where images are (B, C, H, W), got {tuple(missing.shape)} "
            f"and {tuple(images.shape)}."
        )
    if noise < 0:
        raise ValueError(f"noise must be at least 0, got {noise}.")
    if missing.flatten(1).all(1).any():
        raise ValueError("missing must leave a pixel of each image, got an image without any.")
    channels, height, width = images.shape[1:]
    weights = _neighbours(height, width)
    pixels = images.flatten(2).transpose(1, 2).double().cpu().numpy()  # (B, HW, C)
    holes = missing.flatten(1).cpu().numpy()
    # one factorisation per image: all of a batch at once would take the memory of all
    solved = np.stack([_solved(weights, each, hole) for each, hole in zip(pixels, holes, strict=True)])
    smooth = torch.from_numpy(solved).transpose(1, 2).view_as(images).to(images)
    field = torch.randn(channels, height, width, generator=torch.Generator().manual_seed(seed)).to(images)
    return torch.where(missing[:, None], smooth + noise * field, images)


@lru_cache(maxsize=8)
def _neighbours(height: int, width: int) -> sparse.csr_array:
    """(HW, HW) the weight of every pixel for every other."""
    rows, columns = (sparse.eye_array(size, k=1) + sparse.eye_array(size, k=-1) for size in (height, width))
    edges = sparse.kron(rows, sparse.eye_array(width)) + sparse.kron(sparse.eye_array(height), columns)
    return sparse.csr_array(EDGE * edges + CORNER * sparse.kron(rows, columns))


def _solved(weights: sparse.csr_array, pixels: NDArray[np.float64], missing: NDArray[np.bool_]) -> NDArray[np.float64]:
    unknown, known = np.flatnonzero(missing), np.flatnonzero(~missing)
    if not len(unknown):
        return pixels
    rows = weights[unknown]
    system = sparse.diags_array(rows.sum(axis=1)) - rows[:, unknown]
    # symmetric and positive definite: pivots on the diagonal, ordered for the fewest new entries
    factors = splu(
        sparse.csc_array(system), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )
    result: NDArray[np.float64] = pixels.copy()
    result[unknown] = factors.solve(rows[:, known] @ pixels[known])
    return result
