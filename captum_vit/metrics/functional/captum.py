"""Captum's infidelity and maximal sensitivity, asked so that maps of patches are treated fairly.

The formulas are Captum's, and sensitivity runs through its code; that of infidelity would ask about the unchanged image
again and again. What is added is what Captum leaves to its caller: changes that follow the patches, keep the dtype and
the device of the images, come from a seed, and are the same for every image, every method and every split into batches.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from captum import metrics
from torch import Tensor
from torch.nn.functional import avg_pool2d

from captum_vit.metrics.functional.explain import Explain, check_images, check_patch, explained
from captum_vit.metrics.functional.fills import Change, Fill, filled
from captum_vit.metrics.functional.maps import is_undefined
from captum_vit.metrics.functional.probe import Probe, Score

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
        share: how many of the patches a sample replaces, in (0, 1]; at least one is, and where ``normalise`` is true at
            least one stays.
        fill: what replaces them.
        samples: random sets of patches, the same for every image; each costs a forward pass.
        multiply_by_inputs: what I is. False: x − x′, for maps in units of output per unit of input, such as
            gradients. True: 1 on the replaced pixels, for maps that say how much of the output a pixel makes.
        normalise: the map is first given the scale β that fits best, image by image, for relevance seldom comes in
            units of the output.
        seed: of the sets of patches.
        batch_size: images that the model sees at once.

    Returns:
        (B,) at least 0, in squared units of the output. NaN for a map that is the same in every patch or holds NaN, and
        where no sample changes the output. Where ``normalise`` is true, NaN also where all samples change the output by
        as much, or have the same Σ I·A: β would fit what says nothing.

    Raises:
        ValueError: a share outside (0, 1], samples below 1, or what `Probe` refuses; where ``normalise`` is true, a
            share that leaves no patch, or fewer than two samples.

    Source: arXiv 1901.09392, definition 2.1; β as in Captum.

    Example:
        >>> linear = lambda images: (images * torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum((1, 2, 3))[:, None]
        >>> image, target = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([0])
        >>> weights, wrong = image[:, 0], image[:, 0].flip(1)
        >>> whole = {"patch": (1, 1), "share": 1.0, "normalise": False}  # every sample replaces the whole image
        >>> [infidelity(linear, image, maps, target, **whole) for maps in (weights, wrong)]
        [tensor([0.]), tensor([64.])]
    """
    probe = Probe(score, images, maps, targets, patch=patch, batch_size=batch_size)
    size = _replaced(share, probe.patches, normalise=normalise)
    order = torch.rand(
        _checked_samples(samples, 2 if normalise else 1), probe.patches, generator=torch.Generator().manual_seed(seed)
    )
    ranks = order.argsort(1).argsort(1).to(images.device)
    background = filled(images, fill)
    values = probe.trace(
        Change(images, background),
        ranks.expand(len(images), -1, -1).unflatten(2, probe.relevance.shape[1:]),
        torch.tensor([[0, 0], [0, size]]),
    ).double()
    drops = values[..., 0] - values[..., 1]  # (B, samples)
    weights = torch.ones_like(maps) if multiply_by_inputs else (images - background).double().mean(1)
    worth = avg_pool2d((weights * maps.double())[:, None], patch, divisor_override=1).flatten(1)  # (B, gh·gw)
    sums = worth @ (ranks < size).double().T
    if normalise:
        undefined = _is_still(drops) | _is_still(sums)
        sums = sums * ((sums * drops).mean(1) / sums.square().mean(1))[:, None]
    else:
        undefined = (drops == 0).all(1)
    found = (sums - drops).square().mean(1).masked_fill(undefined, torch.nan)
    return found.to(torch.promote_types(maps.dtype, torch.float32))


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


def _replaced(share: float, patches: int, *, normalise: bool) -> int:
    """How many patches a sample replaces."""
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share}.")
    size = max(1, round(share * patches))
    if normalise and size == patches:
        raise ValueError(f"share must leave at least one of {patches} patches, or β fits anything, got {share}.")
    return size


def _is_still(values: Tensor) -> Tensor:
    """(B,): where samples (B, S) differ by no more than rounding."""
    spread = values.amax(1) - values.amin(1)
    return spread <= 1e-12 * values.abs().amax(1)


def _noise(images: Tensor, patch: tuple[int, int], radius: float, samples: int, seed: int) -> Tensor:
    """(samples, C, H, W) in [−radius, radius], in the images' dtype."""
    check_patch(patch, images)
    shape = (samples, images.shape[1], images.shape[2] // patch[0], images.shape[3] // patch[1])
    uniform = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return _over_patches(uniform * radius, patch).to(images)


def _over_patches(values: Tensor, patch: tuple[int, int]) -> Tensor:
    return values.repeat_interleave(patch[0], -2).repeat_interleave(patch[1], -1)


def _checked_samples(samples: int, fewest: int = 1) -> int:
    if samples < fewest:
        raise ValueError(f"samples must be at least {fewest}, got {samples}.")
    return samples


def _examples(batch_size: int, images: int, samples: int) -> int:
    """Captum's limit on a batch; outside these bounds it warns."""
    return min(max(batch_size, images), images * samples)
