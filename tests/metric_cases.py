"""Maps and masks that metrics are tested on: the protocols' worked cases and random ones."""

import torch

B = torch.tensor([[[0.0, 1], [4, 8]]])
T = torch.tensor([[[0.0, 2], [2, 4]]])
L = torch.tensor([[[0, 0], [1, 1]]])
VOID = torch.tensor([[[0, -1], [1, 1]]])
M4 = torch.tensor([[[0.0, 1, 2, 3], [0, 4, 8, 2], [0, 5, 6, 1], [0, 0, 1, 1]]])
L4 = torch.tensor([[[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1], [0, 0, 0, 0]]])

CHEAP = {
    "abpc": "steps=3, patch='grid'",
    "aopc": "steps=3, patch='grid'",
    "deletion": "steps=3, patch='grid'",
    "faithfulness-correlation": "runs=4, subset=20, patch='grid'",
    "infidelity": "samples=4, patch='grid'",
    "insertion": "steps=3, patch='grid'",
    "negative-perturbation": "fractions=(0, 0.5), patch='grid'",
    "positive-perturbation": "fractions=(0, 0.5), patch='grid'",
    "road-combined": "fractions=(0.5,), patch='grid'",
    "road-lerf": "fractions=(0.5,), patch='grid'",
    "road-morf": "fractions=(0.5,), patch='grid'",
    "saco": "groups=3, patch='grid'",
    "segmentation": "preset='chefer'",
    "sensitivity-max": "samples=2",
    "top-k-inside": "k=40",
}
"""Options with which metrics of an evaluation are quick, by name."""


def random_case(seed, batch=6, size=(9, 11), *, void=False, ties=True):
    """Maps (float64, with ties) and masks that hold both classes, and void pixels where asked for."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(batch, *size, generator=generator, dtype=torch.float64)
    if ties:
        maps = torch.randint(0, 12, (batch, *size), generator=generator).double()
    masks = (torch.rand(batch, *size, generator=generator) < 0.3).long()
    if void:
        masks[torch.rand(batch, *size, generator=generator) < 0.1] = -1
    masks[:, 4, 4], masks[:, 0, 0] = 1, 0
    return maps, masks


def undefined_case():
    """Five images: a constant map, NaN, infinity, an empty mask, and one that has a score."""
    maps, masks = random_case(4, batch=5)
    maps[0] = 3
    maps[1, 2, 2] = torch.nan
    maps[2, 2, 2] = torch.inf
    masks[3] = 0
    return maps, masks


def random_points(seed, batch=6, count=9):
    """Points (X, Y), labels with some to ignore and at least one on the object, and classes of 4."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(batch, count, 2, generator=generator, dtype=torch.float64)
    labels = torch.randint(-1, 2, (batch, count), generator=generator)
    labels[:, 3] = 1
    return points, labels, torch.randint(0, 4, (batch,), generator=generator)
