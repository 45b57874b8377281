"""What every adapter must satisfy, checked against the model's own library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from captum_vit.adapters import Adapter, AttentionRecord, Trace, stream_blocks, trace, trace_readout


@dataclass(frozen=True)
class Facts:
    """What a person reads off the model's source.

    Attributes:
        prefix: tokens before the patch tokens.
        pooling: as `Adapter.pooling`.
        outputs: K.
        queries: of the attention pooler; 0 where there is none.
        pooled_prefix: whether the attention pooler reads the prefix tokens too.
        depth: L.
    """

    prefix: int
    pooling: str
    outputs: int
    queries: int = 0
    pooled_prefix: bool = True
    depth: int = 3


def check_model(
    adapter: Adapter,
    images: Tensor,
    expected: Tensor,
    facts: Facts,
    grid: tuple[int, int],
    *,
    tolerance: float = 1e-10,
) -> Trace:
    """Facts, outputs and attention records of one watched pass.

    Args:
        adapter: the adapter.
        images: (B, C, H, W).
        expected: what the model itself gives for them, (B, K).
        facts: what the adapter must find.
        grid: (gh, gw).
        tolerance: relative to the largest number compared.

    Returns:
        The pass.
    """
    traced = trace(adapter, images)
    _check_facts(adapter, images, traced, facts, grid)
    _check_outputs(adapter, traced, expected, tolerance * float(expected.abs().max()))
    for record in _all_records(traced):
        atol = tolerance * float(record.output.abs().max())
        torch.testing.assert_close(record.attention.full() @ record.value, record.output, atol=atol, rtol=0)
    return traced


def _check_facts(adapter: Adapter, images: Tensor, traced: Trace, facts: Facts, grid: tuple[int, int]) -> None:
    """Grid, counts, names and the shape of every record."""
    assert adapter.grid(*images.shape[-2:]) == grid
    found = (adapter.num_prefix_tokens, adapter.pooling, adapter.num_outputs, len(adapter.blocks))
    assert found == (facts.prefix, facts.pooling, facts.outputs, facts.depth)
    assert adapter.in_channels == images.shape[1]
    for index, block in enumerate(adapter.blocks):
        assert adapter.model.get_submodule(adapter.block_name(index)) is block
    tokens = facts.prefix + grid[0] * grid[1]
    assert traced.logits.shape == (len(images), facts.outputs)
    assert traced.tokens.shape[:2] == (len(images), tokens)
    assert [_batch_and_tokens(record) for record in traced.blocks] == [(len(images), tokens, tokens)] * facts.depth
    keys = tokens if facts.pooled_prefix else grid[0] * grid[1]
    pooler = traced.pooler and _batch_and_tokens(traced.pooler)
    assert pooler == ((len(images), facts.queries, keys) if facts.queries else None)


def _check_outputs(adapter: Adapter, traced: Trace, expected: Tensor, atol: float) -> None:
    """The watched pass's logits and the readout of the last block's tokens are the model's own."""
    assert expected.std() > 1e-3  # or the comparison would say nothing
    with torch.no_grad():
        readout = adapter.readout(traced.tokens)
    for logits in (traced.logits, readout):
        torch.testing.assert_close(logits, expected, atol=atol, rtol=0)


def check_attention_maps(traced: Trace, eager: Sequence[Tensor], atol: float = 1e-10) -> None:
    """Captured probabilities are the library's own eager maps (B, h, Q, N): each block's, then the pooler's."""
    records = _all_records(traced)
    assert len(records) == len(eager)
    for record, expected in zip(records, eager, strict=True):
        assert expected.std(-1).max() > 1e-2  # uniform maps would agree by chance
        torch.testing.assert_close(record.attention.full(), expected, atol=atol, rtol=0)


def check_streaming(adapter: Adapter, images: Tensor) -> None:
    """`stream_blocks` shows the records and tokens of `trace`; `trace_readout` its pooler."""
    traced = trace(adapter, images)
    for chosen in (range(len(adapter.blocks)), [1]):
        seen: list[int] = []

        def visit(index: int, record: AttentionRecord, tokens: Tensor, seen: list[int] = seen) -> None:
            seen.append(index)
            for name in ("query", "key", "value", "output"):
                assert_same(getattr(record, name).detach(), getattr(traced.blocks[index], name))
            assert_same(record.attention.full(), traced.blocks[index].attention.full())
            if index == len(adapter.blocks) - 1:
                assert_same(tokens.detach(), traced.tokens)

        assert_same(stream_blocks(adapter, images, visit, chosen), traced.logits)
        assert seen == list(chosen)
    if traced.pooler is not None:
        logits, pooler = trace_readout(adapter, traced.tokens)
        assert_same(logits.detach(), traced.logits)
        assert_same(pooler.attention.full(), traced.pooler.attention.full())


def check_grid_order(adapter: Adapter, images: Tensor) -> None:
    """Patch (row, column) of the image is token prefix + row · gw + column: changing its pixels changes that one."""
    gh, gw = adapter.grid(*images.shape[-2:])
    height, width = images.shape[-2] // gh, images.shape[-1] // gw
    row, column = gh - 2, gw - 1
    changed = images.clone()
    changed[..., row * height : (row + 1) * height, column * width : (column + 1) * width] += 1.0
    difference = (_embedded(adapter, changed) - _embedded(adapter, images)).abs().amax((0, 2))  # (N,)
    assert difference.nonzero().squeeze(1).tolist() == [adapter.num_prefix_tokens + row * gw + column]


def check_pool_weights(adapter: Adapter, images: Tensor) -> None:
    """A token's share is its part of the gradient where all tokens are equal; a pooler's unread queries have none."""
    traced = trace(adapter, images, gradients=True)
    if traced.pooler is not None:
        (gradient,) = torch.autograd.grad(traced.logits.sum(), traced.pooler.output)
        weights = adapter.pool_weights(traced.pooler.shape[2])
        assert gradient.abs().amax((0, 1, 3)).gt(1e-6).tolist() == weights.gt(0).tolist()
    else:
        count, width = traced.tokens.shape[1:]
        token = torch.randn(width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        tokens = token.expand(1, count, -1).clone().requires_grad_()
        (gradient,) = torch.autograd.grad(adapter.readout(tokens)[0, 0], tokens)
        weights = adapter.pool_weights(count)
        expected = weights.double()[:, None] * gradient[0].sum(0)
        torch.testing.assert_close(gradient[0], expected, atol=1e-7, rtol=0)  # the weights are float32
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))


def check_wrong_size(adapter: Adapter, size: tuple[int, int], match: str) -> None:
    """A size that the model can't take is refused with its value and a remedy, before any module runs."""
    ran: list[nn.Module] = []
    handle = adapter.model.register_forward_pre_hook(lambda module, args: ran.append(module))
    try:
        with pytest.raises(ValueError, match=match):
            adapter.check_images(torch.zeros(1, adapter.in_channels, *size))
        with pytest.raises(ValueError, match=match):
            trace(adapter, torch.zeros(1, adapter.in_channels, *size))
    finally:
        handle.remove()
    assert ran == []


class SoftmaxWatch(TorchFunctionMode):
    """Keeps what every softmax of a forward pass gave: with eager attention, the maps."""

    def __init__(self) -> None:
        super().__init__()
        self.maps: list[Tensor] = []

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") == "softmax":
            self.maps.append(result)
        return result


def timm_eager_maps(model: nn.Module, run: Callable[[], Any]) -> list[Tensor]:
    """The maps of timm's own eager attention while ``run`` runs; ``model`` keeps that attention."""
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    with SoftmaxWatch() as watch:
        run()
    return watch.maps


def multihead_maps(model: nn.Module, run: Callable[[], Any]) -> list[Tensor]:
    """The weights that each nn.MultiheadAttention of ``model`` itself returns for the inputs that ``run`` gives it."""
    calls: list[tuple[nn.Module, tuple[Tensor, ...]]] = []

    def keep(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        given = [*args, *(kwargs[name] for name in ("query", "key", "value") if name in kwargs)]
        calls.append((module, tuple(given[:3])))

    attentions = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
    handles = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in attentions]
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return [module(*given, need_weights=True, average_attn_weights=False)[1].detach() for module, given in calls]


def leaves_of(tensor: Tensor) -> list[Tensor]:
    """The tensors at which a backward pass from ``tensor`` would leave a gradient."""
    found: list[Tensor] = []
    waiting, seen = [tensor.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [following for following, _ in node.next_functions]
    return found


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=0)


def _all_records(traced: Trace) -> list[AttentionRecord]:
    return traced.blocks if traced.pooler is None else [*traced.blocks, traced.pooler]


def _batch_and_tokens(record: AttentionRecord) -> tuple[int, int, int]:
    """(B, Q, N)"""
    batch, _, queries, keys = record.shape
    return batch, queries, keys


def _embedded(adapter: Adapter, images: Tensor) -> Tensor:
    """What the first block receives, (B, N, D)."""
    seen: list[Tensor] = []
    handle = adapter.blocks[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        adapter(images)
    handle.remove()
    return seen[0]
