"""A model asked about an image without some of its parts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol, TypeAlias

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from captum_vit.metrics.functional.probe import Score

__all__ = ["Change", "PartInterventions", "PartProbe"]

Change: TypeAlias = frozenset[str] | str
"""The parts that are kept, or the one background object that goes."""


class PartInterventions(Protocol):
    """Images of objects with known parts, and the same images without some of them."""

    @property
    def class_parts(self) -> Sequence[Mapping[str, int]]:
        """For each class the variant of each of its parts."""

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image.Image:
        """The whole image."""

    def label(self, index: int) -> int:
        """Its class."""

    def part_masks(self, index: int) -> Mapping[str, Tensor]:
        """(K, H, W) by name, in K pieces: the parts of its class, and what else are objects in the background."""

    def keeping(self, index: int, parts: Collection[str]) -> Image.Image:
        """The image with no other parts than these."""

    def without_background(self, index: int, name: str) -> Image.Image:
        """The whole image without one of the objects in the background."""


class PartProbe:
    """One image, whole and changed; nothing is asked twice.

    Args:
        dataset: has the image and its changes.
        index: of the image.
        score: images (B, C, H, W) → logits (B, K).
        transform: an image → (C, H, W).
        batch_size: most images that ``score`` gets at once.

    Attributes:
        class_parts: of the dataset.
        label: the image's class.
        parts: the names of its parts.
        background: the names of the objects around it.
        masks: (P, K, H, W) of the parts, then of the objects, with empty pieces where some have fewer.
        whole: all parts.
        pixels: (C, H, W).
        outputs: (1, K) of the whole image.
        predicted: the class with the highest logit.

    Raises:
        ValueError: no mask for a part; no part; ``score`` doesn't return a logit for each class.
    """

    def __init__(
        self,
        dataset: PartInterventions,
        index: int,
        score: Score,
        transform: Callable[[Image.Image], Tensor],
        batch_size: int,
    ) -> None:
        self._dataset, self._index, self._score = dataset, index, score
        self._transform, self._batch_size = transform, batch_size
        self._known: dict[Change, Tensor] = {}
        self.class_parts = dataset.class_parts
        self.label, masks = dataset.label(index), dataset.part_masks(index)
        self.parts = tuple(dataset.class_parts[self.label])
        if not self.parts or not set(self.parts) <= set(masks):
            raise ValueError(
                f"image {index} must have a mask for each part of its class {self.label}: "
                f"{', '.join(self.parts) or 'none'}, got {', '.join(masks) or 'none'}."
            )
        self.background = tuple(name for name in masks if name not in self.parts)
        self.masks = pad_sequence([masks[name] for name in (*self.parts, *self.background)], batch_first=True)
        self.whole = frozenset(self.parts)
        self.pixels = transform(dataset.image(index))
        self.outputs = self._ask(self.pixels[None])
        self.predicted = int(self.outputs.argmax())

    def __call__(self, changes: Sequence[Change]) -> Tensor:
        """(N, K): the logits of the image after each change alone."""
        new = [each for each in dict.fromkeys(changes) if each not in self._known]
        for start in range(0, len(new), self._batch_size):
            some = new[start : start + self._batch_size]
            outputs = self._ask(torch.stack([self._transform(self._changed(each)) for each in some]))
            self._known.update(zip(some, outputs, strict=True))
        return torch.stack([self.outputs[0], *(self._known[each] for each in changes)])[1:]

    def _changed(self, change: Change) -> Image.Image:
        if isinstance(change, str):
            return self._dataset.without_background(self._index, change)
        return self._dataset.keeping(self._index, change)

    @torch.no_grad()
    def _ask(self, images: Tensor) -> Tensor:
        outputs = self._score(images)
        classes = len(self._dataset.class_parts)
        if outputs.ndim != 2 or len(outputs) != len(images) or outputs.shape[1] < classes:
            raise ValueError(
                f"score must return ({len(images)}, {classes}), a logit for each class, got {tuple(outputs.shape)}."
            )
        return outputs.cpu()
