"""Whether a map listens to its prompt: absent prompts, and scenes with two prompts.

Both tests compare maps of different prompts on the same image, so the maps must come raw: brought to [0, 1] one by one,
the faintest map looks as strong as the strongest.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from captum_vit.metrics.functional.maps import IGNORE, check_maps, check_masks, is_undefined
from captum_vit.metrics.functional.thresholds import check_cut

__all__ = [
    "Scale",
    "check_painted",
    "check_scale",
    "prompt_pair_localisation",
    "wrong_prompt_area",
    "wrong_prompt_energy",
]

Scale: TypeAlias = Literal["shared", "own", "none"]
"""What the maps of an image's prompts are divided by: the largest value of them all, each by its own, or nothing."""


def wrong_prompt_energy(present: Tensor, absent: Tensor, masks: Tensor, *, scale: Scale = "shared") -> Tensor:
    """The absent prompt's share of the relevance that two prompts put on an object: E⁻ / (E⁺ + E⁻).

    E⁺ is the sum of the positive relevance inside the object in the map of the prompt that names it, E⁻ the same in
    the map of a prompt for something that is not in the image. 0 if the absent prompt leaves the object alone, 0.5 if
    both maps paint it alike, as every method does that does not look at the prompt.

    Args:
        present: (B, H, W) maps of the prompt that names the object.
        absent: (B, H, W) maps of the absent prompt, in the same units.
        masks: (B, H, W) the object; void pixels do not count.
        scale: "shared" and "none" give the same share, for a common factor cancels; "own" divides each map by its
            largest value first, as figures do, and so hides how strong a map is.

    Returns:
        (B,) in [0, 1]; NaN where the present map is constant, where a map holds NaN, where neither map has positive
        relevance on the object, where a map that sets the scale has nothing positive, and for an empty mask. An absent
        map that is constant counts as what it paints: zero everywhere is the right answer.

    Raises:
        ValueError: a shape or a value that does not fit.

    Example:
        >>> masks = torch.tensor([[[0, 0], [1, 1]]])
        >>> cat, dog = torch.tensor([[[0.0, 1.0], [4.0, 8.0]]]), torch.tensor([[[0.0, 3.0], [3.0, 1.0]]])
        >>> wrong_prompt_energy(cat, dog, masks), wrong_prompt_energy(cat, cat, masks)
        (tensor([0.2500]), tensor([0.5000]))
    """
    present, absent, inside, undefined = _checked(present, absent, masks)
    present, absent = _scaled(present, absent, scale)
    right, wrong = (_mass(maps, inside) for maps in (present, absent))
    return (wrong / (right + wrong)).masked_fill(undefined, torch.nan)  # 0/0 is NaN


def wrong_prompt_area(
    present: Tensor, absent: Tensor, masks: Tensor, *, threshold: float = 0.5, scale: Scale = "shared"
) -> Tensor:
    """Share of an object's pixels that the map of an absent prompt paints above a threshold.

    Args:
        present: (B, H, W) maps of the prompt that names the object; it sets the scale.
        absent: (B, H, W) maps of the absent prompt, in the same units.
        masks: (B, H, W) the object; void pixels do not count.
        threshold: pixels strictly above it are painted; in [0, 1] but for the scale "none".
        scale: "shared" divides both maps by the larger of their largest values, "own" each by its own, "none" leaves
            them. Zero stays zero.

    Returns:
        (B,) in [0, 1]; NaN where the present map is constant, where a map holds NaN, where a map that sets the scale
        has nothing positive, and for an empty mask. An absent map that is constant counts as what it paints.

    Raises:
        ValueError: a shape or a value that does not fit, or a threshold outside the scale.

    Example:
        >>> masks = torch.tensor([[[0, 0], [1, 1]]])
        >>> cat, dog = torch.tensor([[[0.0, 1.0], [4.0, 8.0]]]), torch.tensor([[[0.0, 3.0], [3.0, 1.0]]])
        >>> wrong_prompt_area(cat, dog, masks), wrong_prompt_area(cat, dog, masks, scale="own")
        (tensor([0.]), tensor([0.5000]))
    """
    check_painted(threshold, scale)
    present, absent, inside, undefined = _checked(present, absent, masks)
    _, absent = _scaled(present, absent, scale)
    painted = ((absent > threshold) & inside).sum((1, 2)).to(absent.dtype)
    undefined = undefined | absent.isnan().flatten(1).any(1)
    return (painted / inside.sum((1, 2))).masked_fill(undefined, torch.nan)


def check_painted(threshold: float, scale: Scale) -> None:
    """Refuses settings of `wrong_prompt_area`.

    Raises:
        TypeError: a threshold that is no number.
        ValueError: an unknown scale, or a threshold that is not finite or outside the scale.
    """
    check_scale(scale)
    check_cut(threshold, None if scale == "none" else f"scale={scale!r}")


def check_scale(scale: Scale) -> None:
    """Refuses the name of an unknown scale with a ValueError."""
    if scale not in get_args(Scale):
        raise ValueError(f"scale must be 'shared', 'own' or 'none', got {scale!r}.")


def prompt_pair_localisation(first: Tensor, second: Tensor, first_masks: Tensor, second_masks: Tensor) -> Tensor:
    """How well the maps of two prompts tell their two objects apart.

    Of the positive relevance that a map puts on either object, the share on its own: with the objects F and S and the
    maps a and b of their prompts

        ½ · ( Σ_F a⁺ / Σ_{F∪S} a⁺  +  Σ_S b⁺ / Σ_{F∪S} b⁺ )

    Two equal maps score exactly 0.5 whatever they show and however large the objects are; so does every method that
    does not look at the prompt. Relevance elsewhere does not count. Neither do pixels that lie on both objects, nor
    those that are void in a mask.

    Args:
        first: (B, H, W) maps of the first prompt.
        second: (B, H, W) maps of the second prompt; each map may have units of its own.
        first_masks: (B, H, W) the object of the first prompt.
        second_masks: (B, H, W) the object of the second prompt.

    Returns:
        (B,) in [0, 1]; NaN where a map is constant, holds NaN or has nothing positive on either object, and where an
        object has no pixel of its own.

    Raises:
        ValueError: a shape or a value that does not fit.

    Example:
        >>> cats, dogs = torch.tensor([[[1, 1], [0, 0]]]), torch.tensor([[[0, 0], [0, 1]]])
        >>> cat, dog = torch.tensor([[[3.0, 0.0], [9.0, 1.0]]]), torch.tensor([[[1.0, 1.0], [0.0, 2.0]]])
        >>> prompt_pair_localisation(cat, dog, cats, dogs), prompt_pair_localisation(cat, cat, cats, dogs)
        (tensor([0.6250]), tensor([0.5000]))
    """
    first_masks, second_masks = check_masks(first_masks), check_masks(second_masks)
    if first_masks.shape != second_masks.shape:
        raise ValueError(
            f"second_masks must have the shape of first_masks, {tuple(first_masks.shape)}, "
            f"got {tuple(second_masks.shape)}."
        )
    first, second = (check_maps(maps, tuple(first_masks.shape)) for maps in (first, second))
    known = (first_masks != IGNORE) & (second_masks != IGNORE) & ~((first_masks == 1) & (second_masks == 1))
    one, other = (first_masks == 1) & known, (second_masks == 1) & known
    shares = [_mass(first, one) / _mass(first, one | other), _mass(second, other) / _mass(second, one | other)]
    undefined = is_undefined(first) | is_undefined(second) | _empty(one) | _empty(other)
    return torch.stack(shares).mean(0).masked_fill(undefined, torch.nan)


def _checked(present: Tensor, absent: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    masks = check_masks(masks)
    present, absent = (check_maps(maps, tuple(masks.shape)) for maps in (present, absent))
    inside = masks == 1
    undefined = is_undefined(present) | ~absent.flatten(1).isfinite().all(1) | _empty(inside)
    return present, absent, inside, undefined


def _scaled(present: Tensor, absent: Tensor, scale: Scale) -> tuple[Tensor, Tensor]:
    """Both maps on one scale; NaN where that has no positive length."""
    check_scale(scale)
    if scale == "none":
        return present, absent
    lengths = torch.stack([maps.amax((1, 2), keepdim=True) for maps in (present, absent)])
    if scale == "shared":
        lengths = lengths.amax(0, keepdim=True).expand_as(lengths)
    lengths = lengths.masked_fill(lengths <= 0, torch.nan)
    return present / lengths[0], absent / lengths[1]


def _mass(maps: Tensor, inside: Tensor) -> Tensor:
    return (maps.clamp(min=0) * inside).sum((1, 2))


def _empty(inside: Tensor) -> Tensor:
    return ~inside.flatten(1).any(1)
