"""Forward passes that begin at a block: the tokens that enter it are changed, and the blocks before it do not run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from captum_vit.adapters.base import Adapter
from captum_vit.adapters.capture import checked_logits

__all__ = ["BlockEntries", "replaced_output", "watch_entries"]


class BlockEntries:
    """What entered the blocks of one forward pass, and passes that go on from there.

    Args:
        adapter: the model.

    Attributes:
        tokens: for each watched block the tokens that entered it, (B, N, D), without a graph.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.tokens: dict[int, Tensor] = {}
        self._arguments: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def resume(self, tokens: Tensor, start: int, change: Callable[[int, Tensor], Tensor] | None = None) -> Tensor:
        """Runs block ``start``, those after it and the model's tail; returns the logits (R, K).

        Args:
            tokens: what enters block ``start``, (R, N, D), for any number R of rows.
            start: index from 0 of a watched block.
            change: called before each block with its index and the tokens that are about to enter it; returns those
                that do.
        """
        with self.adapter.partial_pass():
            for index in range(start, len(self.adapter.blocks)):
                if change is not None:
                    tokens = change(index, tokens)
                args, kwargs = self._arguments[index]
                # `block_tokens` exchanges two dimensions or none: applied once more, it restores the block's own order.
                output = self.adapter.blocks[index](self.adapter.block_tokens(tokens), *args, **kwargs)
                tokens = self.adapter.block_tokens(output)
        return checked_logits(self.adapter, self.adapter.readout(tokens))

    def check(self, start: int, logits: Tensor) -> None:
        """Refuses a model whose blocks, run one after another, do not give its own logits.

        The images go in shifted by one place, so that what a block was told of each image does not fit either.

        Args:
            start: index from 0 of the first block of later passes.
            logits: what the watched pass returned, (B, K).

        Raises:
            RuntimeError: other logits.
        """
        resumed = self.resume(self.tokens[start].roll(1, 0), start).roll(-1, 0)
        kind = logits.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else logits.dtype
        tolerance = torch.finfo(dtype).eps ** 0.5 * max(1.0, float(logits.detach().abs().max()))
        difference = float((resumed - logits).detach().abs().max())
        if not difference <= tolerance:
            raise RuntimeError(
                f"blocks {start} and following of {self.adapter.family}, run one after another, give other logits than "
                f"the model (by {difference:.2g}): something happens between them, or a block is told something of "
                "each image. Methods that start a forward pass at a block can't explain this model."
            )

    def _keep(self, index: int, thread: int, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() != thread:
            return
        if not args or not isinstance(args[0], Tensor):
            raise RuntimeError(
                f"block {index} ({self.adapter.block_name(index)}) of {self.adapter.family} must take its tokens as "
                "first argument, or no forward pass can start there."
            )
        self.tokens[index] = self.adapter.block_tokens(args[0].detach())
        self._arguments[index] = args[1:], kwargs


@contextmanager
def watch_entries(adapter: Adapter, start: int) -> Iterator[BlockEntries]:
    """Inside, forward passes of this thread leave behind what entered block ``start`` and those after it.

    Args:
        adapter: the model.
        start: index from 0 of the first block to watch.
    """
    entries = BlockEntries(adapter)
    handles = []
    try:
        for index in range(start, len(adapter.blocks)):
            keep = partial(entries._keep, index, threading.get_ident())
            handles.append(adapter.blocks[index].register_forward_pre_hook(keep, with_kwargs=True))
        yield entries
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replaced_output(module: nn.Module, output: Tensor) -> Iterator[None]:
    """Inside, whatever this thread calls ``module`` with, it returns ``output``."""
    thread = threading.get_ident()
    handle = module.register_forward_hook(lambda *_: output if threading.get_ident() == thread else None)
    try:
        yield
    finally:
        handle.remove()
