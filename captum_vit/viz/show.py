"""Images × maps in one line, from tensors as they come; and the difference of two maps."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from captum_vit.viz.figures import figure, overlaid
from captum_vit.viz.grid import Column, grid
from captum_vit.viz.overlays import Array, is_constant, normalise, overlay

__all__ = ["show", "show_difference"]


def show(
    images: ArrayLike,
    maps: ArrayLike | Mapping[str, ArrayLike],
    *,
    rows: Sequence[str] | None = None,
    masks: ArrayLike | None = None,
    signed: bool | Collection[str] | None = None,
    title: str | None = None,
    opacity: float = 0.7,
    cell: float = 2.4,
) -> Figure:
    """A grid of overlays: one row per image, the image first, then one column per name.

    Every map is scaled by itself (`captum_vit.viz.normalise`), so colours can't be compared between pictures. Constant
    maps, in which no place stands out, are named above the grid.

    Args:
        images: what the model was shown, not preprocessed: (B, 3, H, W), (3, H, W), (B, H, W, 3) or (H, W, 3) in
            [0, 1] or as 8-bit integers, or a PIL image. One image may have several maps, one per row.
        maps: by name, or one alone, any of: attributions (B, C, H, W) of this package, of Captum or of another library,
            whose channels are summed; raw maps of the patch grid, (B, 1, gh, gw), which are taken to cover the whole
            image and are upsampled bilinearly; the same without channels, (B, H, W) and (B, gh, gw), or as one map.
            For one image (3, H, W) could be three maps or the channels of one: give (3, 1, H, W) or (1, 3, H, W).
            Where patches leave a border (`Adapter.covered`), take attributions at the input's resolution.
        rows: what is written beside each row; nothing by default.
        masks: what is outlined in each row, (B, H, W), (B, 1, H, W) or (H, W); all but 0 is inside.
        signed: whether zero is the middle of the colours (True, False, or the names of which it holds). By default it
            is where a column has values below zero.
        title: a line above the grid.
        opacity: share of the maps in the overlays, in [0, 1].
        cell: longer side of a picture, in inches.

    Returns:
        A matplotlib figure with a canvas of its own, which a notebook shows: ``show(...).savefig("maps.png")``.

    Raises:
        ValueError: images, maps, masks or rows whose shapes or numbers do not fit each other, images that are not in
            [0, 1], maps that are not finite, an opacity out of range.
    """
    pictures = _pictures(images)
    named = {str(name): each for name, each in maps.items()} if isinstance(maps, Mapping) else {"attribution": maps}
    if not named:
        raise ValueError("maps must hold at least one, got none.")
    full = {name: _full(each, name, pictures) for name, each in named.items()}
    count = _count(pictures, full)
    return figure(
        pictures if len(pictures) == count else pictures[0],
        full,
        rows=_rows(rows, count),
        masks=_masks(masks, (count, *pictures.shape[1:3])),
        signed=_signed(signed, full),
        title=title,
        notice=_notice(full),
        opacity=opacity,
        cell=cell,
    )


def show_difference(
    images: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    *,
    names: tuple[str, str] = ("first", "second"),
    scale: Literal["own", "none"] = "own",
    rows: Sequence[str] | None = None,
    masks: ArrayLike | None = None,
    title: str | None = None,
    opacity: float = 0.7,
    cell: float = 2.4,
) -> Figure:
    """The image, two maps, and where the second is higher (orange) or lower (purple) than the first.

    The colours of all differences have one scale, symmetric about zero, whose end is written below them; those of the
    two maps are scaled by themselves, as in `show`.

    Args:
        images: see `show`.
        first: maps, see `show`.
        second: maps, of as many rows.
        names: their headings.
        scale: "own" brings each map to [0, 1] before the subtraction, or, where it has values below zero, divides it by
            its largest magnitude: for two methods, whose units differ. "none" subtracts raw values: for one method
            under two conditions.
        rows: see `show`.
        masks: see `show`.
        title: see `show`.
        opacity: see `show`.
        cell: see `show`.

    Returns:
        As `show`.

    Raises:
        ValueError: as `show`; names that are equal; another scale.

    Source: arXiv:2504.19414, figure 4, which does not say how its maps were scaled.
    """
    if scale not in ("own", "none"):
        raise ValueError(f"scale must be 'own' or 'none', got {scale!r}.")
    if len(names) != 2 or names[0] == names[1]:
        raise ValueError(f"names must be two that differ, got {names}.")
    pictures = _pictures(images)
    full = {name: _full(each, name, pictures) for name, each in zip(names, (first, second), strict=True)}
    count = _count(pictures, full)
    pictures = np.broadcast_to(pictures, (count, *pictures.shape[1:]))
    signed = _signed(None, full)
    low, high = (_scaled(full[name], signed=name in signed) if scale == "own" else full[name] for name in names)
    difference = high - low
    limit, pairs = float(np.abs(difference).max()), zip(pictures, difference, strict=True)
    drawn = [overlay(*each, signed=True, opacity=opacity, limit=limit) for each in pairs]
    columns = [
        Column("image", pictures),
        *(overlaid(name, pictures, full[name], signed=name in signed, opacity=opacity) for name in names),
        Column(f"{names[1]} − {names[0]}", np.stack(drawn), (f"−{limit:.2g}", f"+{limit:.2g}"), signed=True),
    ]
    outlined = _masks(masks, difference.shape)
    return grid(columns, rows=_rows(rows, count), masks=outlined, title=title, notice=_notice(full), cell=cell)


def _array(values: Any) -> NDArray[Any]:
    """A tensor of any device and dtype, an array or a PIL image as an array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (
            values.float() if values.is_floating_point() and values.itemsize < 4 else values
        )  # NumPy lacks bfloat16
    return np.asarray(values)


def _pictures(images: Any) -> Array:
    """(B, H, W, 3) in [0, 1]."""
    array = _array(images)
    if array.ndim not in (3, 4) or 3 not in (array.shape[-1], array.shape[-3]):
        raise ValueError(
            f"images must be (B, 3, H, W), (3, H, W), (B, H, W, 3) or (H, W, 3), got shape {tuple(array.shape)}."
        )
    if array.shape[-1] != 3:
        array = np.moveaxis(array, -3, -1)
    array = array / 255 if array.dtype == np.uint8 else array.astype(np.promote_types(array.dtype, np.float32))
    if not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(
            f"images must be in [0, 1], got values from {array.min():g} to {array.max():g}. Undo the preprocessing "
            "first: LoadedModel.denormalise(images), or images * std + mean."
        )
    return array if array.ndim == 4 else array[None]


def _full(values: Any, name: str, pictures: Array) -> Array:
    """Maps at the size of the images, (T, H, W)."""
    array, size = _array(values), pictures.shape[1:3]
    if array.ndim not in (2, 3, 4) or not array.size:
        raise ValueError(
            f"maps of {name!r} must be attributions (B, C, H, W) or maps (B, 1, gh, gw), (B, gh, gw) or (gh, gw), got "
            f"shape {tuple(array.shape)}."
        )
    array = array.astype(np.promote_types(array.dtype, np.float32))
    if not np.isfinite(array).all():
        raise ValueError(f"maps of {name!r} must be finite, got {int((~np.isfinite(array)).sum())} NaN or infinity.")
    if len(pictures) == 1 and array.shape == (3, *size):
        raise ValueError(
            f"maps of {name!r} may be three maps of one image or one map with three channels, got shape {array.shape}. "
            f"Give {(3, 1, *size)} for three, {(1, 3, *size)} for one."
        )
    channels = array.shape[1] if array.ndim == 4 else 1
    maps = array.sum(1) if array.ndim == 4 else array.reshape(-1, *array.shape[-2:])
    if maps.shape[1:] == size:
        return maps
    if channels > 1 or maps.shape[1] > size[0] or maps.shape[2] > size[1]:
        raise ValueError(
            f"maps of {name!r} must have the size {size[0]}×{size[1]} of the images, or be patch maps (B, 1, gh, gw), "
            f"got shape {tuple(array.shape)}."
        )
    return _upsampled(maps, size)


def _upsampled(maps: Array, size: tuple[int, ...]) -> Array:
    """Patch maps (T, gh, gw) as `captum_vit.attr.upsample` brings them to image size, (T, H, W)."""
    import torch.nn.functional as F
    from torch import from_numpy

    full: Array = F.interpolate(from_numpy(maps)[:, None], size=size, mode="bilinear", align_corners=False)[
        :, 0
    ].numpy()
    return full


def _notice(full: Mapping[str, Array]) -> str | None:
    """Which maps are constant, or None."""
    blank = [
        name if len(maps) == 1 else f"{name}, row {row}"
        for name, maps in full.items()
        for row, each in enumerate(maps, start=1)
        if is_constant(each)
    ]
    return f"Constant, no place stands out: {'; '.join(blank)}" if blank else None


def _count(pictures: Array, full: Mapping[str, Array]) -> int:
    """The number of rows."""
    counts = {name: len(each) for name, each in full.items()}
    if len({*counts.values()}) > 1 or len(pictures) not in (1, *counts.values()):
        listed = ", ".join(f"{count} of {name!r}" for name, count in counts.items())
        raise ValueError(f"maps must be one for each of {len(pictures)} images, or several of one, got {listed}.")
    return next(iter(counts.values()))


def _rows(rows: Sequence[str] | None, count: int) -> Sequence[str]:
    if rows is None:
        return [""] * count
    if isinstance(rows, str) or len(rows) != count:
        raise ValueError(f"rows must be {count} texts, got {rows!r}.")
    return rows


def _masks(masks: Any, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """(T, H, W) boolean."""
    if masks is None:
        return None
    array = _array(masks)
    flat = array[:, 0] if array.ndim == 4 and array.shape[1] == 1 else array
    flat = flat[None] if flat.ndim == 2 else flat
    if flat.shape != shape:
        raise ValueError(f"masks must be (rows, H, W) = {shape}, got shape {tuple(array.shape)}.")
    return flat.astype(bool)


def _signed(signed: bool | Collection[str] | None, full: Mapping[str, Array]) -> list[str]:
    """The names of the columns whose colours diverge about zero."""
    if signed is None:
        return [name for name, each in full.items() if each.min() < 0]
    if isinstance(signed, bool):
        return list(full) if signed else []
    unknown = [name for name in signed if name not in full]
    if isinstance(signed, str) or unknown:
        raise ValueError(f"signed must be names among {list(full)}, got {signed!r}.")
    return list(signed)


def _scaled(maps: Array, *, signed: bool) -> Array:
    return np.stack([normalise(each, signed=signed) for each in maps])
