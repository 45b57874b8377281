"""A model with registers that nobody trained: tokens to which the activations of chosen neurons are moved."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from captum_vit.adapters.attention import TokenRecord
from captum_vit.adapters.base import Adapter
from captum_vit.adapters.branch import AttentionBranch

__all__ = ["LeftBehind", "RegisterAdapter", "moved_activations", "neuron_pass"]

LeftBehind = Literal["zero", "mean"]
"""What becomes of the activations on patch tokens."""


def moved_activations(
    activations: Tensor, neurons: Tensor, registers: int, num_prefix_tokens: int, patches: LeftBehind = "zero"
) -> Tensor:
    """The activations of an MLP, with those of some neurons moved from the patch tokens to the registers.

    A register gets each neuron's activation of the largest magnitude on any patch token. Prefix tokens keep theirs. To
    a function mode of PyTorch that is one call, for which a set of backward rules has one rule.

    Args:
        activations: (B, N, H): registers, then prefix tokens, then patch tokens.
        neurons: True for the neurons that are moved, (H,).
        registers: number of registers.
        num_prefix_tokens: number of the model's own tokens before the patch tokens.
        patches: what the patch tokens keep: "zero", or the "mean" over them.

    Returns:
        (B, N, H).
    """
    if has_torch_function((activations,)):
        given = (activations, neurons, registers, num_prefix_tokens, patches)
        moved: Tensor = handle_torch_function(moved_activations, (activations,), *given)
        return moved
    own = activations[:, registers : registers + num_prefix_tokens]
    on_patches = activations[:, registers + num_prefix_tokens :]
    where = on_patches.detach().abs().argmax(1, keepdim=True)
    largest = on_patches.gather(1, where).expand(-1, registers, -1)
    left = torch.zeros_like(on_patches) if patches == "zero" else on_patches.mean(1, keepdim=True).expand_as(on_patches)
    return torch.where(neurons, torch.cat([largest, own, left], 1), activations)


def neuron_pass(adapter: Adapter, images: Tensor, block: int, neurons_of: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """Runs one forward pass and keeps, of the patch tokens, the output of one block and the activations in some MLPs.

    Args:
        adapter: the model.
        images: (B, C, H, W), checked by ``adapter.check_images``.
        block: index from 0 of the block whose output is kept.
        neurons_of: indices from 0 of the blocks whose activations are kept.

    Returns:
        The tokens (B, n, D), and the activations of each block, (B, n, H), at least in float32.
    """
    thread, kept = threading.get_ident(), {}

    def keep(place: int, module: nn.Module, args: Any, *output: Any) -> None:
        if threading.get_ident() == thread:
            record = TokenRecord(output[0] if output else args[0], adapter.block_tokens)
            kept[place] = record.tokens[:, adapter.num_prefix_tokens :]

    handles = []
    try:
        for index in neurons_of:
            handles.append(adapter.mlp_output(index).register_forward_pre_hook(partial(keep, index)))
        handles.append(adapter.blocks[block].register_forward_hook(partial(keep, -1)))
        adapter(images)
    finally:
        for handle in handles:
            handle.remove()
    return kept[-1], [kept[index] for index in neurons_of]


class RegisterAdapter(Adapter):
    """A view of a model whose blocks see registers before all other tokens; the model is not changed.

    The registers are zero at the first block and dropped behind the last one. They count as prefix tokens.

    Args:
        inner: the model's adapter.
        neurons: for each block concerned, the neurons whose activations are moved.
        registers: number of registers.
        patches: see `moved_activations`.

    Raises:
        TypeError: a model whose blocks know positions, or whose attention pooler reads prefix tokens.
        ValueError: a neuron that does not exist.
    """

    def __init__(
        self, inner: Adapter, neurons: Mapping[int, Sequence[int]], registers: int, patches: LeftBehind
    ) -> None:
        super().__init__(inner.model)
        if not inner.takes_extra_tokens:
            raise TypeError(
                f"{inner.family} is not known to take extra tokens: blocks with rotary embeddings or position biases "
                "have no place for them. For a model of your own set takes_extra_tokens = True in its adapter."
            )
        if inner.pooling == "attention" and inner.num_prefix_tokens:
            raise TypeError(f"the attention pooler of {inner.family} reads prefix tokens, where registers would stand.")
        self.inner = inner
        self.family = f"{inner.family} with {registers} test-time register{'s' if registers > 1 else ''}"
        self.registers, self.patches = registers, patches
        self.num_prefix_tokens = registers + inner.num_prefix_tokens
        self.in_channels, self.pooling = inner.in_channels, inner.pooling
        self.has_unread_pooler, self.casts_images = inner.has_unread_pooler, inner.casts_images
        self.fused_attention_switch = inner.fused_attention_switch
        self.first_norm, self.second_norm = inner.first_norm, inner.second_norm
        self.chosen = neurons
        self.neurons = {index: self._mask(index, chosen) for index, chosen in sorted(neurons.items())}

    def _mask(self, index: int, chosen: Sequence[int]) -> Tensor:
        """True for the chosen neurons of a block, (H,)."""
        hidden = self.inner.mlp_output(index).in_features
        for each in chosen:
            if not 0 <= each < hidden:
                raise ValueError(f"neurons of block {index} must be in [0, {hidden - 1}], got {each}.")
        mask = torch.zeros(hidden, dtype=torch.bool)
        mask[list(chosen)] = True
        return mask

    @property
    def num_outputs(self) -> int:  # type: ignore[override]  # of prompts that may change
        return self.inner.num_outputs

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return self.inner.blocks

    @property
    def native_size(self) -> tuple[int, int] | None:
        return self.inner.native_size

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return self.inner.grid(height, width)

    def covered(self, height: int, width: int) -> tuple[int, int]:
        return self.inner.covered(height, width)

    def target_index(self, name: str) -> int:
        return self.inner.target_index(name)

    @property
    def own(self) -> Adapter:
        return self.inner.own

    def view_of(self, adapter: Adapter) -> Adapter:
        return RegisterAdapter(self.inner.view_of(adapter), self.chosen, self.registers, self.patches)

    def attention_branch(self, index: int) -> AttentionBranch:
        return self.inner.attention_branch(index)

    @property
    def final_norm(self) -> nn.Module:
        return self.inner.final_norm

    def block_tokens(self, output: Any) -> Tensor:
        return self.inner.block_tokens(output)

    def mlp_output(self, index: int) -> nn.Linear:
        return self.inner.mlp_output(index)

    def pool_weights(self, num_tokens: int) -> Tensor:
        if self.pooling == "attention":
            return self.inner.pool_weights(num_tokens)
        return F.pad(self.inner.pool_weights(num_tokens - self.registers), (self.registers, 0))

    def readout(self, tokens: Tensor, *, final_norm: bool = True) -> Tensor:
        return self.inner.readout(tokens[:, self.registers :], final_norm=final_norm)

    def forward(self, images: Tensor) -> Tensor:
        with self._registers(whole=True):
            logits: Tensor = self.inner(images)
        return logits

    def partial_pass(self) -> AbstractContextManager[None]:
        return self._registers(whole=False)

    @contextmanager
    def _registers(self, *, whole: bool) -> Iterator[None]:
        """Activations are moved in the passes of this thread; in whole ones registers are added and dropped as well."""
        thread = threading.get_ident()
        handles = []
        try:
            if whole:  # before all hooks that look at what enters the block, and after those that look at what leaves
                handles.append(self.blocks[0].register_forward_pre_hook(partial(self._add, thread), prepend=True))
                handles.append(self.blocks[-1].register_forward_hook(partial(self._drop, thread)))
            for index, mask in self.neurons.items():
                move = partial(self._move, thread, mask)
                handles.append(self.mlp_output(index).register_forward_pre_hook(move))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _add(self, thread: int, block: nn.Module, args: Any) -> Any:
        if threading.get_ident() != thread:
            return None
        tokens = self.block_tokens(args[0])
        batch, _, width = tokens.shape
        # Not of `tokens.new_zeros`, which relevance would take for a second reader of the tokens.
        zeros = torch.zeros(batch, self.registers, width, dtype=tokens.dtype, device=tokens.device)
        return (self._as_in_block(torch.cat([zeros, tokens], 1)), *args[1:])

    def _move(self, thread: int, mask: Tensor, layer: nn.Module, args: Any) -> Any:
        if threading.get_ident() != thread:
            return None
        activations = self.block_tokens(args[0])
        moved = moved_activations(
            activations, mask.to(activations.device), self.registers, self.inner.num_prefix_tokens, self.patches
        )
        return (self._as_in_block(moved),)

    def _drop(self, thread: int, block: nn.Module, args: Any, output: Any) -> Any:
        if threading.get_ident() != thread:
            return None
        kept = self._as_in_block(self.block_tokens(output)[:, self.registers :])
        return (kept, *output[1:]) if isinstance(output, tuple) else kept

    def _as_in_block(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, D) in the order of axes that the blocks use: `block_tokens` is its own inverse."""
        return self.block_tokens(tokens)
