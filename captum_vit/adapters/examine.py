"""What a model is and whether its attention is captured right: the examination behind ``captum-vit doctor``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from captum_vit.adapters.attention import AttentionRecord, query_chunks
from captum_vit.adapters.base import Adapter, Pooling
from captum_vit.adapters.capture import trace
from captum_vit.adapters.registry import check_state, find_adapter

__all__ = ["AttentionCheck", "Examination", "examine"]

_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}
_HALF_TOLERANCE = 2e-2  # bfloat16 and float16


@dataclass(frozen=True)
class AttentionCheck:
    """One attention call, compared with the formula and with the pass that nobody watched.

    Attributes:
        name: the block's dotted name in the model, or "attention pooler".
        route: the function of PyTorch that the model called.
        heads: h.
        head_dimension: d.
        bias: whether a mask or a relative position bias enters the softmax.
        attention_error: largest difference between softmax(scale · Q Kᵀ + bias) V and the attention output, relative to
            that output's largest value.
        output_error: the same between the block's tokens (for a pooler, the logits) with and without capture.
    """

    name: str
    route: str
    heads: int
    head_dimension: int
    bias: bool
    attention_error: float
    output_error: float


@dataclass(frozen=True)
class Examination:
    """What was detected in a model, and how exactly its parts were recomputed.

    Attributes:
        family: the adapter's name of the model family.
        model_class: the class of the user's model.
        num_outputs: K; for a model with two towers, the dimensions of the image embedding.
        two_towers: whether the model compares images with texts and needs prompts to be explained.
        num_prefix_tokens: class, distillation and register tokens.
        pooling: how the tokens become one vector.
        image_size: (H, W) of the images of the examination.
        grid: (gh, gw) of their patches.
        blocks: a check of each block, first to last.
        pooler: a check of the attention pooler, or None.
        readout_error: largest difference between the adapter's readout of the last block's tokens and the model's own
            outputs, relative to the largest of those.
        tolerance: largest error that passes, by the model's dtype.
    """

    family: str
    model_class: str
    num_outputs: int
    two_towers: bool
    num_prefix_tokens: int
    pooling: Pooling
    image_size: tuple[int, int]
    grid: tuple[int, int]
    blocks: tuple[AttentionCheck, ...]
    pooler: AttentionCheck | None
    readout_error: float
    tolerance: float

    @property
    def checks(self) -> tuple[AttentionCheck, ...]:
        """The blocks, then the pooler."""
        return self.blocks if self.pooler is None else (*self.blocks, self.pooler)

    @property
    def problems(self) -> tuple[str, ...]:
        """A sentence for each check that failed; empty for a model that is explained right."""
        found = []
        for check in self.checks:
            if not check.attention_error <= self.tolerance:  # NaN fails too
                found.append(f"{check.name}: recomputed attention output differs by {check.attention_error:.1e}")
            if not check.output_error <= self.tolerance:
                found.append(f"{check.name}: output with capture differs by {check.output_error:.1e}")
        if not self.readout_error <= self.tolerance:
            found.append(f"readout of the last block's tokens differs from the outputs by {self.readout_error:.1e}")
        return tuple(found)


def examine(model: nn.Module, images: Tensor) -> Examination:
    """Runs a model twice, plainly and watched, and compares everything that the methods rely on.

    Args:
        model: a supported model or an adapter; two-tower models are taken without prompts.
        images: (B, C, H, W) of the size to examine; random numbers will do.

    Raises:
        TypeError: no adapter knows the model.
        ValueError: images that the model can't take.
        RuntimeError: training mode, or attention that can't be captured; the message names the block and the remedy.

    Example:
        >>> import timm
        >>> examination = examine(timm.create_model("test_vit", num_classes=5).eval(), torch.zeros(1, 3, 160, 160))
        >>> examination.family, examination.grid, examination.blocks[0].route, examination.problems
        ('timm VisionTransformer', (10, 10), 'scaled_dot_product_attention', ())
    """
    adapter = find_adapter(model)
    adapter.check_images(images)
    check_state(adapter)
    with torch.no_grad():
        with _block_tokens(adapter) as plain:
            outputs = adapter(images)
        with _block_tokens(adapter) as watched:
            traced = trace(adapter, images)
        readout_error = _relative_error(adapter.readout(traced.tokens), outputs)
        errors = [_relative_error(*pair) for pair in zip(watched, plain, strict=True)]
        blocks = tuple(
            _check(adapter.block_name(index), record, error)
            for index, (record, error) in enumerate(zip(traced.blocks, errors, strict=True))
        )
        pooler = None
        if traced.pooler is not None:
            pooler = _check("attention pooler", traced.pooler, _relative_error(traced.logits, outputs))
    return Examination(
        family=adapter.family,
        model_class=f"{type(adapter.model).__module__}.{type(adapter.model).__qualname__}",
        num_outputs=adapter.num_outputs,
        two_towers=hasattr(adapter, "encode_prompts"),
        num_prefix_tokens=adapter.num_prefix_tokens,
        pooling=adapter.pooling,
        image_size=(images.shape[-2], images.shape[-1]),
        grid=adapter.grid(images.shape[-2], images.shape[-1]),
        blocks=blocks,
        pooler=pooler,
        readout_error=readout_error,
        tolerance=_TOLERANCES.get(outputs.dtype, _HALF_TOLERANCE),
    )


@contextmanager
def _block_tokens(adapter: Adapter) -> Iterator[list[Tensor]]:
    """Collects the tokens (B, N, D) of each block of one forward pass."""
    tokens: list[Tensor] = []

    def keep(block: nn.Module, args: Any, output: Any) -> None:
        tokens.append(adapter.block_tokens(output))

    handles = [block.register_forward_hook(keep) for block in adapter.blocks]
    try:
        yield tokens
    finally:
        for handle in handles:
            handle.remove()


def _check(name: str, record: AttentionRecord, output_error: float) -> AttentionCheck:
    value = record.value.to(torch.promote_types(record.value.dtype, torch.float32))
    attention = record.attention
    recomputed = torch.cat([attention.rows(index) @ value for index in query_chunks(attention)], 2)  # (B, h, Q, d)
    return AttentionCheck(
        name=name,
        route=record.route,
        heads=record.query.shape[1],
        head_dimension=record.query.shape[3],
        bias=record.bias is not None,
        attention_error=_relative_error(recomputed, record.output),
        output_error=output_error,
    )


def _relative_error(value: Tensor, reference: Tensor) -> float:
    """Largest difference, relative to the reference's largest magnitude; 0 for two zeros."""
    value, reference = value.cpu().double(), reference.cpu().double()
    difference = (value - reference).abs().max()
    return float(difference / reference.abs().max()) if difference != 0 else 0.0
