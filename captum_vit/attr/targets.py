"""Targets in all of Captum's forms, and prompts, as one tensor of output indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from captum_vit.adapters.base import Adapter

__all__ = ["Target", "Targets", "shared_targets", "single_targets"]

Target: TypeAlias = int | str | Sequence[int] | Sequence[str] | Tensor | None
"""One target for all images, or one for each."""

Targets: TypeAlias = Sequence[int] | Sequence[str] | Tensor
"""T targets for all images, or a tensor (B, T)."""


def single_targets(target: Target, adapter: Adapter, batch: int, *, optional: bool) -> Tensor:
    """One output index per image, (B, 1).

    Args:
        target: see `Target`.
        adapter: knows the number of outputs and the prompts.
        batch: B.
        optional: whether the method ignores the target, so that None is fine.
    """
    if target is None:
        if not optional and adapter.num_outputs > 1:
            raise ValueError(
                f"target must be given for a model with {adapter.num_outputs} outputs, got None. For the predicted "
                "class pass model(inputs).argmax(1)."
            )
        return torch.zeros(batch, 1, dtype=torch.long)
    indices = _indices(target, adapter)
    if indices.ndim == 0 or indices.shape == (1,):
        return indices.reshape(1, 1).expand(batch, 1)
    if indices.shape != (batch,):
        raise ValueError(f"target must be one index, or one for each of {batch} images, got {tuple(indices.shape)}.")
    return indices[:, None]


def shared_targets(targets: Targets, adapter: Adapter, batch: int) -> Tensor:
    """T output indices per image, (B, T)."""
    if isinstance(targets, (int, str)):
        raise TypeError(f"targets must be a list or a tensor, got {targets!r}; write [{targets!r}].")
    indices = _indices(targets, adapter)
    if indices.ndim == 1 and len(indices):
        return indices.expand(batch, -1)
    if indices.ndim == 2 and indices.shape[0] == batch and indices.shape[1]:
        return indices
    raise ValueError(f"targets must be T indices, or ({batch}, T) for {batch} images, got {tuple(indices.shape)}.")


def _indices(target: int | str | Sequence[int] | Sequence[str] | Tensor, adapter: Adapter) -> Tensor:
    if hasattr(target, "__array__") and not isinstance(target, Tensor):
        target = torch.as_tensor(target)  # of NumPy
    if isinstance(target, Tensor):
        if target.is_floating_point() or target.dtype == torch.bool:
            raise TypeError(f"target must hold integers, got {target.dtype}.")
        indices = target.detach().long()
    elif isinstance(target, (int, str)):
        indices = torch.tensor(_index(target, adapter))
    elif isinstance(target, Sequence):
        indices = torch.tensor([_index(each, adapter) for each in target], dtype=torch.long)
    else:
        raise TypeError(f"target must be an int, a list, a tensor or a prompt, got {type(target).__name__}.")
    outside = indices[(indices < 0) | (indices >= adapter.num_outputs)]
    if outside.numel():
        raise ValueError(f"target must be in [0, {adapter.num_outputs - 1}], got {int(outside.flatten()[0])}.")
    return indices


def _index(target: object, adapter: Adapter) -> int:
    if isinstance(target, str):
        return adapter.target_index(target)
    if isinstance(target, tuple) and len(target) == 1:  # Captum's form for outputs (B, K)
        return _index(target[0], adapter)
    if isinstance(target, Tensor) and target.numel() == 1 and not target.is_floating_point():
        return int(target)
    if isinstance(target, bool) or not hasattr(target, "__index__"):
        raise TypeError(f"target must be an int or a prompt, got {target!r}.")
    return int(target.__index__())
