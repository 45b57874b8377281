"""Test-time registers: outlying activations moved to a token that nobody trained (Jiang et al. 2025)."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import get_args

import torch
from torch import Tensor, nn

from captum_vit.adapters.registers import LeftBehind, RegisterAdapter, neuron_pass
from captum_vit.adapters.registry import adapt, check_state
from captum_vit.attr.base import ViTAttribution
from captum_vit.attr.masked_sinks import find_sinks
from captum_vit.attr.options import OptionTypeError, checked_choice, checked_integer, is_integer
from captum_vit.attr.wrapper import MethodWrapper

__all__ = ["TestTimeRegisters", "find_register_neurons"]


def find_register_neurons(
    model: nn.Module,
    images: Tensor,
    *,
    top: int = 10,
    last_block: int = -1,
    block: int = -1,
    factor: float = 3.0,
    threshold: float | None = None,
    internal_batch_size: int | None = None,
) -> list[tuple[int, int]]:
    """The neurons with the highest activations on tokens with outlying norms, averaged over images.

    Args:
        model: see `ViTAttribution`.
        images: preprocessed images (B, C, H, W); the paper takes 500. Those without an outlier do not count.
        top: how many neurons.
        last_block: last block whose neurons are candidates, negative from the last. The authors take the first half or
            so, before the outliers appear: 5 of 0 … 11, 17 of 0 … 23.
        block: index of the block at whose output norms are read, negative from the last.
        factor: see `find_sinks`.
        threshold: see `find_sinks`.
        internal_batch_size: images in one forward pass; all by default.

    Returns:
        (block, neuron) from the highest mean absolute activation on, for `TestTimeRegisters`.

    Raises:
        TypeError: no adapter knows the model.
        ValueError: no such block, a wrong number, images that the model can't take, or no outlier in any of them.

    References:
        arXiv:2506.08010, in the form of its authors' code.
    """
    adapter = adapt(model)
    depth = len(adapter.blocks)
    for label, index in (("last_block", last_block), ("block", block)):
        if not -depth <= operator.index(index) < depth:
            raise ValueError(f"{label} must be in [{-depth}, {depth - 1}], got {index}.")
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}.")
    adapter.check_images(images)
    check_state(adapter)
    totals: list[Tensor] = []
    concerned = 0
    with torch.inference_mode(False), torch.no_grad():
        for some in images.detach().split(internal_batch_size or len(images)):
            tokens, activations = neuron_pass(adapter, some, block % depth, range(last_block % depth + 1))
            sinks = find_sinks(tokens, factor=factor, threshold=threshold)  # (B, n)
            means = [_means_at(each, sinks) for each in activations]
            totals = [total + mean for total, mean in zip(totals, means, strict=True)] if totals else means
            concerned += int(sinks.any(1).sum())
    if not concerned:
        limit = f"{factor:g} times the median" if threshold is None else f"{threshold:g}"
        raise ValueError(f"images must hold a token longer than {limit} at block {block}, got none. Lower the limit.")
    scored = [(-float(score), index, neuron) for index, each in enumerate(totals) for neuron, score in enumerate(each)]
    return [(index, neuron) for _, index, neuron in sorted(scored)[:top]]


def _means_at(activations: Tensor, sinks: Tensor) -> Tensor:
    """Mean magnitude of each neuron (B, n, H) at an image's sinks (B, n), added over images, (H,)."""
    shares = sinks / sinks.sum(1, keepdim=True).clamp(min=1)  # (B, n)
    return torch.einsum("bn,bnh->h", shares.to(activations.dtype), activations.abs())


class TestTimeRegisters(MethodWrapper):
    """A wrapper around any method: the model is explained with registers that take its outlying activations.

    During a call the blocks see extra tokens, zero at the first block, before all others. In the MLPs the activations
    of the chosen neurons are moved from the patch tokens to them, so that no patch serves the model as a register.
    Maps, gradients, other calls of the method and ``forward_func`` are those of the model with registers, which count
    as prefix tokens; the model itself is not changed.

    Args:
        method: a method of this package.
        neurons: (block, neuron) of each register neuron, as `find_register_neurons` gives them.
        registers: number of extra tokens.
        patches: what the patch tokens keep of a moved activation: "zero", or the "mean" over them.

    Raises:
        TypeError: no method of this package, or a model that takes no extra tokens: rotary embeddings, position biases,
            an attention pooler that reads prefix tokens; a method with registers inside.
        ValueError: no neuron, one that does not exist, fewer than one register, another choice.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> from captum_vit import RawAttention
        >>> model = VisionTransformer(img_size=32, patch_size=8, embed_dim=12, depth=2, num_heads=2).eval()
        >>> images = torch.rand(1, 3, 32, 32)
        >>> neurons = find_register_neurons(model, images, top=2, factor=1.1)
        >>> TestTimeRegisters(RawAttention(model), neurons).attribute(images, resolution="patch").shape
        torch.Size([1, 1, 4, 4])
    """

    __test__ = False  # no test class, for pytest

    name = "Test-time Registers"
    passes = "those of the method"
    reference = "arXiv:2506.08010"

    def __init__(
        self,
        method: ViTAttribution,
        neurons: Iterable[tuple[int, int]],
        *,
        registers: int = 1,
        patches: LeftBehind = "zero",
    ) -> None:
        super().__init__(method)
        inside: ViTAttribution = method
        while isinstance(inside, MethodWrapper):
            if isinstance(inside, TestTimeRegisters):
                raise TypeError(f"method must bring no registers of its own, got {inside.name}.")
            inside = inside.method
        self.patches: LeftBehind = checked_choice("patches", patches, get_args(LeftBehind))
        self.registers = checked_integer("registers", registers, 1)
        self.neurons = _checked_neurons(neurons)
        depth = len(self.forward_func.blocks)
        chosen: dict[int, list[int]] = {}
        for block, neuron in self.neurons:
            if not 0 <= block < depth:
                raise ValueError(f"neurons must be of blocks in [0, {depth - 1}], got {(block, neuron)}.")
            chosen.setdefault(block, []).append(neuron)
        self.pixel_level = method.pixel_level
        self.forward_func = RegisterAdapter(method.forward_func, chosen, self.registers, self.patches)

    def _maps(
        self,
        images: Tensor,
        resolve: Callable[[], Tensor],
        internal_batch_size: int | None,
        relevance_of: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        folded: bool = True,
    ) -> Tensor:
        """The method's maps of the model with registers."""
        return self._inside()._maps(images, resolve, internal_batch_size, relevance_of, folded=folded)


def _checked_neurons(neurons: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The pairs of a block and a neuron, sorted, each once."""
    if isinstance(neurons, str) or not isinstance(neurons, Iterable):
        raise OptionTypeError(f"neurons must be pairs (block, neuron), got {neurons!r}.")
    pairs = list(neurons)
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(map(is_integer, pair)):
            raise OptionTypeError(f"neurons must be pairs (block, neuron), got {pair!r} among them.")
    if not pairs:
        raise ValueError("neurons must hold at least one (block, neuron), got none.")
    return sorted({(operator.index(block), operator.index(neuron)) for block, neuron in pairs})
