"""What is kept of an evaluation to be looked at: small images, masks, and maps on the patch grid, as JSON says them."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from io import BytesIO

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from captum_vit.adapters import Adapter
from captum_vit.attr import upsample
from captum_vit.evaluation.explainers import Explainer
from captum_vit.evaluation.store import Record
from captum_vit.evaluation.subject import Subject
from captum_vit.evaluation.units import Asked, Batcher, Made

__all__ = ["GRID", "KeepingBatcher", "kept_records"]

GRID = (14, 14)
"""Patches of a model that has none."""

_SIDE, _QUALITY = 160, 85
"""Longest side of an image that is kept, in pixels; quality of its JPEG."""


class KeepingBatcher(Batcher):
    """Maps in batches that are remembered until they are taken.

    Args:
        batch_size: maps at a time, to begin with.
    """

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size)
        self._made: list[Made] = []

    def maps(self, explainers: Mapping[str, Explainer], asked: Sequence[Asked]) -> Iterator[Made]:
        for made in super().maps(explainers, asked):
            self._made.append(made)
            yield made

    def taken(self) -> list[Made]:
        """All maps since this was last asked for."""
        made, self._made = self._made, []
        return made


def kept_records(asked: Sequence[Asked], made: Sequence[Made], subject: Subject) -> list[Record]:
    """One record per sample with its image, one per region with its mask, one per map.

    Images and masks have at most 160 pixels on their longer side and end where the patches end. A map is the one on the
    patch grid whose upsampling is nearest to it (least squares): for a method for transformers, its own. One without
    negative values gets none. Values are numbers u of 8 bits that stand for ``low + (high − low) · u / 255``.

    Args:
        asked: the regions of some samples.
        made: their maps.
        subject: the model.
    """
    height, width = subject.geometry.size
    grid, covered = GRID, (height, width)
    if isinstance(subject.model, Adapter):
        grid, covered = subject.model.grid(height, width), subject.model.covered(height, width)
    maps = {(id(each.asked), each.method): each.map for each in made if isinstance(each.map, Tensor)}
    records: list[Record] = []
    for each in asked:
        name: Record = {"sample": each.sample}
        if each.number == 0:
            records.append(name | _picture(each.image, subject, covered))
        name |= {"region": each.number}
        if each.region.mask is not None:
            records.append(name | _mask(each.region.mask, covered))
        for (region, method), values in maps.items():
            if region == id(each):
                records.append(name | {"method": method} | _map(values, grid, covered))
    return records


def _small(covered: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, _SIDE / max(covered))
    return max(1, round(covered[0] * scale)), max(1, round(covered[1] * scale))


def _picture(image: Tensor, subject: Subject, covered: tuple[int, int]) -> Record:
    """The image as the model sees it, a JPEG."""
    mean, std = (torch.tensor(each)[:, None, None] for each in (subject.mean, subject.std))
    colours = (image.cpu().float() * std + mean)[:, : covered[0], : covered[1]].clamp(0, 1)
    rows, columns = _small(covered)
    buffer = BytesIO()
    to_pil_image(colours).convert("RGB").resize((columns, rows)).save(buffer, "JPEG", quality=_QUALITY)
    return {"size": [rows, columns], "image": base64.b64encode(buffer.getvalue()).decode()}


def _mask(mask: Tensor, covered: tuple[int, int]) -> Record:
    """The lengths of the runs of a mask, row by row, in turn outside and on the object; the first may be 0."""
    inside = mask[: covered[0], : covered[1]].eq(1).cpu()
    size = _small(covered)
    flat = F.interpolate(inside[None, None].byte(), size=size, mode="nearest-exact").flatten()
    starts = (flat[1:] != flat[:-1]).nonzero()[:, 0] + 1
    edges = torch.cat([torch.tensor([0]), starts, torch.tensor([len(flat)])])
    return {"size": list(size), "mask": [0] * int(flat[0]) + edges.diff().tolist()}


def _map(values: Tensor, grid: tuple[int, int], covered: tuple[int, int]) -> Record:
    inside = values[: covered[0], : covered[1]].cpu().double()
    down, across = (_fold(parts, pixels) for parts, pixels in zip(grid, covered, strict=True))
    small = down @ inside @ across.T
    small = small.clamp(min=0) if inside.min() >= 0 else small  # pixels that no grid makes may have no such patches
    low, high = float(small.min()), float(small.max())
    levels = (small - low) / (high - low) * 255 if high > low else torch.zeros_like(small)
    packed = base64.b64encode(levels.round().byte().numpy().tobytes()).decode()
    return {"grid": list(grid), "low": low, "high": high, "values": packed}


@lru_cache
def _fold(parts: int, pixels: int) -> Tensor:
    """(parts, pixels): takes the upsampling of a line of patches back, float64."""
    lines = upsample(torch.eye(parts).double()[:, None, :, None], (pixels, 1))[:, 0, :, 0]  # (parts, pixels)
    back: Tensor = torch.linalg.pinv(lines.T)
    return back
