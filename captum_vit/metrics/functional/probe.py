"""A model asked about changed images: which pixels change follows from a map, what they become from a metric."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from captum_vit.metrics.functional.explain import check_images, check_patch
from captum_vit.metrics.functional.fills import Change, is_repeated
from captum_vit.metrics.functional.maps import check_maps, is_undefined

__all__ = ["Measure", "Probe", "Score", "check_inputs", "probabilities"]

Score: TypeAlias = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) → (B, K): probabilities or logits, as the caller wants them measured."""

Measure: TypeAlias = Literal["value", "probability", "accuracy"]
"""The target's output; the same, refused outside [0, 1]; or 1 where the target is the largest output, 0 elsewhere."""


def probabilities(forward_func: Score, kind: Literal["softmax", "sigmoid"] = "softmax") -> Score:
    """A model's logits as probabilities, for the metrics to call.

    Args:
        forward_func: images → logits (B, K).
        kind: "softmax" where exactly one output is true, "sigmoid" where each is true or not by itself.

    Raises:
        ValueError: another kind.

    Example:
        >>> probabilities(lambda images: images.log(), kind="sigmoid")(torch.tensor([[1.0, 3.0]]))
        tensor([[0.5000, 0.7500]])
    """
    if kind not in ("softmax", "sigmoid"):
        raise ValueError(f"kind must be 'softmax' or 'sigmoid', got {kind!r}.")
    return partial(_probabilities, forward_func, kind)


def _probabilities(forward_func: Score, kind: Literal["softmax", "sigmoid"], images: Tensor) -> Tensor:
    logits = _precise(forward_func(images))
    return logits.softmax(1) if kind == "softmax" else logits.sigmoid()


def check_inputs(images: Tensor, maps: Tensor, targets: Tensor, patch: tuple[int, int], batch_size: int) -> Tensor:
    """The maps as `check_maps` returns them, if images, maps, targets and patch fit each other.

    Raises:
        TypeError: what is not of the right kind.
        ValueError: no image, or what does not fit, with its value.
    """
    check_images(images, targets, batch_size)
    check_patch(patch, images)
    return check_maps(maps, (len(images), *images.shape[2:]))


class Probe:
    """What a metric knows about a batch, checked once.

    Args:
        score: the model.
        images: (B, C, H, W).
        maps: (B, H, W).
        targets: (B,) numbers of outputs.
        patch: pixels (h, w) that change together.
        measure: what is read from the model's outputs.
        batch_size: images that the model sees at once.

    Attributes:
        relevance: (B, gh, gw) mean of the map over each patch.
        undefined: (B,) where that ranks nothing; the model is not asked about these images.
        patches: gh·gw.

    Raises:
        TypeError: what is not of the right kind.
        ValueError: no image, or what does not fit, with its value.
    """

    def __init__(
        self,
        score: Score,
        images: Tensor,
        maps: Tensor,
        targets: Tensor,
        *,
        patch: tuple[int, int] = (1, 1),
        measure: Measure = "value",
        batch_size: int = 64,
    ) -> None:
        maps = check_inputs(images, maps, targets, patch, batch_size)
        if measure not in get_args(Measure):
            raise ValueError(f"measure must be one of {', '.join(get_args(Measure))}, got {measure!r}.")
        self._score, self._measure, self._patch, self._batch_size = score, measure, patch, batch_size
        self._targets, self._target_range = targets.long(), (int(targets.min()), int(targets.max()))
        self.images = images
        self.relevance = avg_pool2d(maps[:, None], patch)[:, 0] if patch != (1, 1) else maps
        self.undefined = is_undefined(self.relevance)
        self.patches = self.relevance[0].numel()

    def ranks(self, *, descending: bool = True) -> Tensor:
        """(B, gh, gw): the place of every patch by its relevance, 0 for the first; equal ones in reading order."""
        order = self.relevance.flatten(1).argsort(dim=1, descending=descending, stable=True)
        return order.argsort(dim=1).view_as(self.relevance)

    def trace(self, change: Change, ranks: Tensor, windows: Tensor) -> Tensor:
        """What the model says when the patches of some ranks change.

        A changed image that is needed twice is made and run once: the whole image in two orders, and, where one image
        is repeated for several maps (`torch.Tensor.expand`), the whole one, the one of which nothing is left, and every
        one of maps that rank all patches alike, whatever their targets.

        Args:
            change: makes the changed images.
            ranks: (B, R, gh, gw) R orders of the patches of each image.
            windows: (S, 2) the first rank that changes, and the first after it that doesn't.

        Returns:
            (B, R, S); NaN where the map is undefined.

        Raises:
            TypeError: the model returns no tensor.
            ValueError: the model returns something else than (B, K), no output for a target, or, where probabilities
                are measured, values outside [0, 1].
        """
        asked = (~self.undefined).nonzero()[:, 0]
        shape = (len(self.images), ranks.shape[1], len(windows))
        if len(asked) == 0:
            return torch.full(shape, torch.nan, device=ranks.device, dtype=_precise(self.images[:0]).dtype)
        states, places = self._states(asked, ranks, windows.to(ranks.device), change).unique(dim=0, return_inverse=True)
        targets = self._targets[asked].repeat_interleave(shape[1] * shape[2])
        questions, answers = torch.stack([places, targets], dim=1).unique(dim=0, return_inverse=True)
        chunks = states.split(self._batch_size)
        counts = [int(each.sum()) for each in questions[:, 0].bincount().split(self._batch_size)]
        values = [self._ask(change, ranks, *each) for each in zip(chunks, questions.split(counts), strict=True)]
        traced = values[0].new_full(shape, torch.nan)
        traced[asked] = torch.cat(values)[answers].view(-1, *shape[1:])
        return traced

    def _states(self, asked: Tensor, ranks: Tensor, windows: Tensor, change: Change) -> Tensor:
        """(b·R·S, 4): image, order, first rank that changes, first after it that doesn't."""
        image = asked[:, None, None]
        order = torch.arange(ranks.shape[1], device=asked.device)[:, None]
        start, stop = windows.unbind(1)
        none, all_ = stop == start, stop - start == self.patches
        start_is_shared, finish_is_shared = is_repeated(change.start), is_repeated(change.finish)
        if start_is_shared and finish_is_shared:
            image = asked[_first_alike(ranks, asked)][:, None, None]
        image = torch.where(none & start_is_shared | all_ & finish_is_shared, asked[0], image)
        columns = (image, torch.where(none | all_, 0, order), start, stop)
        return torch.stack(torch.broadcast_tensors(*columns), dim=-1).flatten(0, 2)

    @torch.no_grad()
    def _ask(self, change: Change, ranks: Tensor, states: Tensor, questions: Tensor) -> Tensor:
        """(Q,) what the model says to questions (Q, 2): the number of a state, counted on, and a target."""
        image, order, start, stop = states.unbind(1)
        rank = ranks[image, order]  # (n, gh, gw)
        changed = (rank >= start[:, None, None]) & (rank < stop[:, None, None])
        tiles = changed[:, :, None, :, None].expand(-1, -1, self._patch[0], -1, self._patch[1])
        outputs = self._score(change(image, tiles.reshape(len(image), *self.images.shape[2:])))
        self._check_outputs(outputs, len(image))
        number, targets = questions.unbind(1)
        return self._read(_precise(outputs)[number - number[0]], targets)

    def _check_outputs(self, outputs: Tensor, count: int) -> None:
        if not isinstance(outputs, Tensor):
            raise TypeError(
                f"score must return a tensor (B, K), got {type(outputs).__name__}. "
                "Wrap the model: lambda images: model(images).logits, say."
            )
        if outputs.ndim != 2 or len(outputs) != count:
            raise ValueError(f"score must return (B, K) for B images, got shape {tuple(outputs.shape)} for {count}.")
        low, high = self._target_range
        if low < 0 or high >= outputs.shape[1]:
            raise ValueError(
                f"targets must be in [0, {outputs.shape[1]}), the outputs of score, got {low if low < 0 else high}."
            )

    def _read(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self._measure == "accuracy":
            hits = (outputs.argmax(1) == targets).to(outputs)
            return hits.masked_fill(outputs.isnan().any(1), torch.nan)
        wrong = outputs[(outputs < 0) | (outputs > 1)] if self._measure == "probability" else outputs[:0]
        if wrong.numel():
            raise ValueError(
                f"score must return probabilities in [0, 1], got {float(wrong[0]):.6g}. "
                "For logits wrap the model: probabilities(model)."
            )
        return outputs.gather(1, targets[:, None])[:, 0]


def _precise(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _first_alike(ranks: Tensor, asked: Tensor) -> Tensor:
    """(b,) for each of the images that are asked about, the place of the first one with the same ranks."""
    if is_repeated(ranks):
        return torch.zeros_like(asked)
    _, kind = ranks[asked].flatten(1).unique(dim=0, return_inverse=True)
    first: Tensor = (kind[:, None] == kind).int().argmax(1)
    return first
