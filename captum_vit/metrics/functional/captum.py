"""Captum's infidelity and maximal sensitivity, asked so that maps of patches are treated fairly.

The formulas are Captum's. What is added is what Captum leaves to its caller: changes that follow the patches, keep the
dtype and the device of the images, come from a seed, and are the same for every image, every method and every split
into batches.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from captum import metrics
from torch import Tensor

from captum_vit.metrics.functional.explain import Explain, check_images, explained
from captum_vit.metrics.functional.fills import Fill, filled
from captum_vit.metrics.functional.maps import is_undefined
from captum_vit.metrics.functional.probe import Score, check_inputs

__all__ = ["infidelity", "sensitivity_max"]


def infidelity(
    score: Score,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    *,
    patch: tuple[int, int],
    share: float = 0.1,
    fill: Fill = 0.0,
    samples: int = 64,
    multiply_by_inputs: bool = False,
    normalise: bool = True,
    seed: int = 0,
    batch_size: int = 64,
) -> Tensor:
    """How badly a map predicts what the output loses when some patches are replaced: lower is better.

    The mean over random sets of patches of (Σ I·A − (f(x) − f(x′)))², where x′ is the image x with these patches
    replaced, f the output for the target, and A the attribution that gives each of the C channels 1/C of the map.

    Args:
        score: images → (B, K), logits or probabilities.
        images: (B, C, H, W).
        maps: (B, H, W).
        targets: (B,) the outputs to watch.
        patch: pixels (h, w) that are replaced together: the model's patches.
        share: how many of the patches a sample replaces, in (0, 1]; at least one is.
        fill: what replaces them.
        samples: random sets of patches, the same for every image.
        multiply_by_inputs: what I is. False: x − x′, for maps in units of output per unit of input, such as
            gradients. True: 1 on the replaced pixels, for maps that say how much of the output a pixel makes.
        normalise: the map is first given the scale β that fits best, image by image, for relevance seldom comes in
            units of the output.
        seed: of the sets of patches.
        batch_size: images that the model sees at once.

    Returns:
        (B,) at least 0, in squared units of the output; NaN for a map that is constant or holds NaN.

    Raises:
        ValueError: a share outside (0, 1], samples below 1, or shapes that do not fit.

    Source: arXiv 1901.09392, definition 2.1; β as in Captum.

    Example:
        >>> linear = lambda images: (images * torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum((1, 2, 3))[:, None]
        >>> image, target = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([0])
        >>> weights, wrong = image[:, 0], image[:, 0].flip(1)
        >>> whole = {"patch": (1, 1), "share": 1.0, "normalise": False}  # every sample replaces the whole image
        >>> [infidelity(linear, image, maps, target, **whole) for maps in (weights, wrong)]
        [tensor([0.]), tensor([64.])]
    """
    maps = check_inputs(images, maps, targets, patch, batch_size)
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share}.")
    sets = _patch_sets(images, patch, share, _checked_samples(samples), seed)

    def replacing(drawn: _InTurn) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        def perturb(repeated: Tensor) -> tuple[Tensor, Tensor]:
            replaced = drawn.for_rows(len(repeated))[:, None]
            perturbed = torch.where(replaced, filled(repeated, fill), repeated)
            return replaced.expand_as(repeated) if multiply_by_inputs else repeated - perturbed, perturbed

        return perturb

    undefined = is_undefined(maps)
    shared = (maps / images.shape[1])[:, None].expand_as(images).masked_fill(undefined.view(-1, 1, 1, 1), 0)
    values = [
        metrics.infidelity(
            lambda perturbed: score(perturbed).double(),  # β is a quotient of sums; in float32 what is left may be < 0
            replacing(_InTurn(sets, len(some))),
            some,
            attributions.double(),
            target=their,
            n_perturb_samples=samples,
            max_examples_per_batch=_examples(batch_size, len(some), samples),
            normalize=normalise,
        )
        for some, attributions, their in zip(
            *(each.split(batch_size) for each in (images, shared, targets)), strict=True
        )
    ]
    return torch.cat(values).to(maps.dtype).masked_fill(undefined, torch.nan)


def sensitivity_max(
    explain: Explain,
    images: Tensor,
    targets: Tensor,
    *,
    radius: float = 0.02,
    patch: tuple[int, int] = (1, 1),
    samples: int = 10,
    seed: int = 0,
    batch_size: int = 64,
) -> Tensor:
    """The largest relative change of a map under noise too faint to matter: lower is better.

    The maximum over draws of ‖A(x + ε) − A(x)‖ / ‖A(x)‖, with ε uniform in [−radius, radius] and Euclidean norms.

    Args:
        explain: images and targets → maps of any grid.
        images: (B, C, H, W).
        targets: (B,).
        radius: in units of the model's input, which is usually normalised: 0.02 is about one grey level in 256.
        patch: pixels (h, w) that share their noise, per channel; (1, 1) is Captum's noise.
        samples: draws, the same for every image.
        seed: of the noise.
        batch_size: images that are explained at once.

    Returns:
        (B,) at least 0; NaN where the map of the unchanged image is constant or holds NaN, and where a
        changed one holds NaN or infinity.

    Raises:
        ValueError: a radius that is not positive, samples below 1, a patch that does not divide the image, or shapes
            that do not fit.

    Source: arXiv 1901.09392, definition 3.1.

    Example:
        >>> image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> explain = lambda images, targets: images.sum(1)
        >>> bool(sensitivity_max(explain, image, torch.tensor([0])) <= 0.02 * 2 / 30**0.5)
        True
    """
    check_images(images, targets, batch_size)
    if radius <= 0:
        raise ValueError(f"radius must be positive, got {radius}.")
    noise = _noise(images, patch, radius, _checked_samples(samples), seed)
    clean = explained(explain, images, targets, batch_size)
    gradients = torch.is_grad_enabled()  # Captum turns them off around the explanation

    def answering(known: Tensor) -> Callable[..., Tensor | tuple[Tensor]]:
        def answer(inputs: Tensor | tuple[Tensor], target: Tensor) -> Tensor | tuple[Tensor]:
            if isinstance(inputs, tuple):  # Captum's first question, about the unchanged images
                return (known,)
            with torch.set_grad_enabled(gradients):
                # Captum repeats the targets of several images, and not that of one
                return explained(explain, inputs, target.expand(len(inputs)), batch_size)

        return answer

    def adding(drawn: _InTurn) -> Callable[[Tensor], Tensor]:
        return lambda repeated: repeated + drawn.for_rows(len(repeated))

    values = [
        metrics.sensitivity_max(
            answering(known),
            some,
            adding(_InTurn(noise, len(some))),
            n_perturb_samples=samples,
            max_examples_per_batch=_examples(batch_size, len(some), samples),
            target=their,
        )
        for some, known, their in zip(*(each.split(batch_size) for each in (images, clean, targets)), strict=True)
    ]
    changes = torch.cat(values)
    return changes.masked_fill(is_undefined(clean) | ~changes.isfinite(), torch.nan)


class _InTurn:
    """Hands out samples in the order in which Captum asks for them: a few more of every image at each call."""

    def __init__(self, samples: Tensor, images: int) -> None:
        self._samples = samples
        self._images = images
        self._given = 0

    def for_rows(self, rows: int) -> Tensor:
        """(rows, …): the next samples for a batch in which every image stands ``rows / images`` times in a row."""
        each = rows // self._images
        drawn = self._samples[self._given : self._given + each]
        self._given += each
        return drawn.repeat(self._images, *[1] * (drawn.ndim - 1))


def _patch_sets(images: Tensor, patch: tuple[int, int], share: float, samples: int, seed: int) -> Tensor:
    """(samples, H, W) boolean: random sets of whole patches, all of one size."""
    rows, columns = images.shape[2] // patch[0], images.shape[3] // patch[1]
    size = max(1, round(share * rows * columns))
    order = torch.rand(samples, rows * columns, generator=torch.Generator().manual_seed(seed)).argsort(1)
    sets = torch.zeros(samples, rows * columns, dtype=torch.bool).scatter_(1, order[:, :size], True)
    return _over_patches(sets.view(samples, rows, columns), patch).to(images.device)


def _noise(images: Tensor, patch: tuple[int, int], radius: float, samples: int, seed: int) -> Tensor:
    """(samples, C, H, W) in [−radius, radius], in the images' dtype."""
    if min(patch) < 1 or images.shape[2] % patch[0] or images.shape[3] % patch[1]:
        raise ValueError(
            f"patch must divide the image's {images.shape[2]}×{images.shape[3]} pixels, got {patch[0]}×{patch[1]}."
        )
    shape = (samples, images.shape[1], images.shape[2] // patch[0], images.shape[3] // patch[1])
    uniform = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return _over_patches(uniform * radius, patch).to(images)


def _over_patches(values: Tensor, patch: tuple[int, int]) -> Tensor:
    return values.repeat_interleave(patch[0], -2).repeat_interleave(patch[1], -1)


def _checked_samples(samples: int) -> int:
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}.")
    return samples


def _examples(batch_size: int, images: int, samples: int) -> int:
    """Captum's limit on a batch; outside these bounds it warns."""
    return min(max(batch_size, images), images * samples)
