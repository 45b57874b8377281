"""The one view of a vision transformer that the methods know: embed → blocks → pool → head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from captum_vit.adapters.branch import AttentionBranch

__all__ = ["Adapter", "Pooling"]

Pooling = Literal["class", "mean", "attention"]
"""How patch and prefix tokens become one vector: a readout token, an average, or an attention pooler."""


class Adapter(nn.Module, ABC):
    """A vision transformer seen as *embed → blocks → pool → head*; the wrapped model is never changed.

    A subclass names the facts below, as class attributes or in its constructor, and implements `blocks`, `grid`,
    `readout` and `pool_weights`. It is an `nn.Module` whose ``forward(images)`` returns plain logits, so that every
    tool of Captum can call it.

    Shape letters, here and everywhere: B batch, C channels, H W pixels, gh gw patch grid, N tokens (prefix + gh·gw),
    L blocks, h heads, d head dimension, D embedding dimension, K outputs (classes or prompts), T targets per image.

    Args:
        model: the user's model.

    Attributes:
        family: name of the model family, for messages.
        num_prefix_tokens: tokens before the patch tokens (class, distillation and register tokens).
        num_outputs: K.
        in_channels: C.
        pooling: how the tokens become one vector.
        has_unread_pooler: whether the model also runs an attention pooler whose result its outputs do not use.
        casts_images: whether the model itself brings images to its dtype.
        fused_attention_switch: what a user does to have the model call PyTorch's fused attention.
        first_norm: name inside a block of its first norm.
        second_norm: name inside a block of its second norm, before the MLP.
        takes_extra_tokens: whether tokens may be put before all others between the embedding and the blocks: the blocks
            know no positions (no rotary embedding, no position bias).
    """

    family: str = "custom"
    num_prefix_tokens: int
    num_outputs: int
    in_channels: int = 3
    pooling: Pooling
    has_unread_pooler: bool = False
    casts_images: bool = False
    fused_attention_switch: str = "compute attention with torch.nn.functional.scaled_dot_product_attention"
    first_norm: str = "norm1"
    second_norm: str = "norm2"
    takes_extra_tokens: bool = False

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model  # each family knows its own attributes
        self.training = model.training

    @property
    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks, first to last; each makes exactly one attention call over all tokens."""

    @abstractmethod
    def grid(self, height: int, width: int) -> tuple[int, int]:
        """The patch grid (gh, gw) of an image of ``height`` × ``width`` pixels.

        Raises:
            ValueError: the model can't take this size.
        """

    @abstractmethod
    def readout(self, tokens: Tensor, *, final_norm: bool = True) -> Tensor:
        """The model's own tail: from block output (B, N, D) through norm, pooling and head to logits (B, K).

        Args:
            tokens: output of any block; N may be any number above the number of prefix tokens.
            final_norm: whether the norm between the last block and the pooling (or the pooler and the head) is applied.
        """

    @abstractmethod
    def pool_weights(self, num_tokens: int) -> Tensor:
        """The share of each token in the pooled vector, (N,), summing to one: a class token's is 1, 0, 0, ….

        With an attention pooler the tokens meant are the pooler's queries.

        Raises:
            ValueError: the pooling has no fixed shares (a maximum over tokens).
        """

    @property
    def native_size(self) -> tuple[int, int] | None:
        """The image size (H, W) that the model was made for; None where it has none, or the adapter does not say it."""
        return None

    def covered(self, height: int, width: int) -> tuple[int, int]:
        """How many pixels from the top left the patches cover; the model never sees those beyond.

        All, unless the patch size does not divide the size that the model was made for (378 of 384 with patches of 14).
        """
        return height, width

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._facts())})"

    def _facts(self) -> list[str]:
        """What is worth knowing of the model at a glance."""
        facts = [self.family, _counted(len(self.blocks), "block")]
        if self.native_size is not None:
            try:
                gh, gw = self.grid(*self.native_size)
                facts.append(f"grid {gh}×{gw} at {self.native_size[0]}×{self.native_size[1]}")
            except ValueError:
                facts.append(f"no grid at {self.native_size[0]}×{self.native_size[1]}")
        facts += [_counted(self.num_prefix_tokens, "prefix token"), f"{self.pooling} pooling"]
        return [*facts, _counted(self.num_outputs, "output")]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of a batch of images (B, C, H, W)."""
        logits: Tensor = self.model(images)
        return logits

    def block_tokens(self, output: Any) -> Tensor:
        """The tokens (B, N, D) in what a block returned."""
        tokens: Tensor = output[0] if isinstance(output, tuple) else output
        return tokens

    def readout_of_mean(self, tokens: Tensor, *, final_norm: bool = True) -> Tensor:
        """Logits (B, K) of the mean of all tokens: the tail applied to a sequence in which every token is the mean.

        LeGrad's readout (arXiv:2404.03214, eq. 3): it serves class-token and mean-pooled models alike.
        """
        return self.readout_of_each(tokens.mean(1, keepdim=True), final_norm=final_norm)[:, 0]

    def readout_of_each(self, tokens: Tensor, *, final_norm: bool = True) -> Tensor:
        """Logits (B, N, K) of each token: the tail applied to sequences in which every token is that one.

        Args:
            tokens: (B, N, D), any number of them.
            final_norm: see `readout`.
        """
        alone = tokens.flatten(0, 1)[:, None].expand(-1, self.num_prefix_tokens + 1, -1)
        logits: Tensor = self.readout(alone, final_norm=final_norm).unflatten(0, tokens.shape[:2])
        return logits

    def attention_branch(self, index: int) -> AttentionBranch:
        """How the attention of block ``index`` joins the tokens; only a few methods need it.

        Raises:
            TypeError: the adapter does not say it, or the block is not pre-norm.
        """
        raise TypeError(
            f"{self.family} does not say how attention joins its tokens; override attention_branch in its adapter."
        )

    @property
    def final_norm(self) -> nn.Module:
        """The norm between the last block and the head; only a few methods need it.

        Raises:
            TypeError: the adapter does not say it.
        """
        raise TypeError(f"{self.family} does not say which norm is its last; override final_norm in its adapter.")

    def target_index(self, name: str) -> int:
        """The output that a name stands for; only prompts have names."""
        raise ValueError(f"target {name!r} is a text, but {self.family} has numbered classes; give the class index.")

    @property
    def own(self) -> Adapter:
        """The model's own adapter: this one, or what is behind a view of the model with more tokens."""
        return self

    def view_of(self, adapter: Adapter) -> Adapter:
        """Another adapter on the same model, seen as this one sees `own`."""
        return adapter

    def partial_pass(self) -> AbstractContextManager[None]:
        """What has to be around blocks that are called one by one, which get all tokens, and not by `forward`."""
        return nullcontext()

    def block_norm(self, index: int) -> nn.Module:
        """The first norm of block ``index``, through which its tokens enter the attention.

        Raises:
            ValueError: the block has no module of that name.
        """
        norm = getattr(self.blocks[index], self.first_norm, None)
        if not isinstance(norm, nn.Module):
            raise ValueError(
                f"block {index} ({self.block_name(index)}) of {self.family} has no module {self.first_norm!r}, where "
                "its first norm is looked for. Set first_norm in the adapter, or explain the block's output: "
                "tokens='block'."
            )
        return norm

    def block_norms(self, index: int) -> tuple[nn.Module, nn.Module]:
        """The norms of block ``index`` before its attention and before its MLP.

        Raises:
            TypeError: the block has no module of one of the names.
        """
        norms = []
        for name, attribute in ((self.first_norm, "first_norm"), (self.second_norm, "second_norm")):
            norm = getattr(self.blocks[index], name, None)
            if not isinstance(norm, nn.Module):
                raise TypeError(
                    f"block {index} ({self.block_name(index)}) of {self.family} has no module {name!r}, so its "
                    f"attention and its MLP can't be told apart. Set {attribute} in the adapter."
                )
            norms.append(norm)
        return norms[0], norms[1]

    def mlp_output(self, index: int) -> nn.Linear:
        """The last linear layer of block ``index``: what enters it are the activations of its MLP's neurons.

        Raises:
            TypeError: a block without a linear layer.
        """
        layers = [each for each in self.blocks[index].modules() if isinstance(each, nn.Linear)]
        if not layers:
            raise TypeError(f"block {index} ({self.block_name(index)}) of {self.family} has no linear layer.")
        return layers[-1]

    def block_name(self, index: int) -> str:
        """The dotted name of block ``index`` inside the user's model."""
        block = self.blocks[index]
        return next((name for name, module in self.model.named_modules() if module is block), f"blocks[{index}]")

    def check_images(self, images: Tensor) -> None:
        """Refuses what the model can't explain, before any pass is run.

        Raises:
            TypeError: not a tensor, or a dtype that is not floating point.
            ValueError: no batch of images, wrong number of channels, another dtype or device than the model's, NaN or
                infinity, or a size the model can't take.
        """
        if not isinstance(images, Tensor):
            raise TypeError(f"inputs must be a tensor of images (B, C, H, W), got {type(images).__name__}.")
        if images.ndim != 4:
            remedy = " For one image add a batch dimension: image[None]." if images.ndim == 3 else ""
            raise ValueError(f"inputs must be a batch of images (B, C, H, W), got shape {tuple(images.shape)}.{remedy}")
        if images.shape[0] == 0:
            raise ValueError(f"inputs must hold at least one image, got shape {tuple(images.shape)}.")
        if not images.is_floating_point():
            raise TypeError(
                f"inputs must be floating point, got {images.dtype}. Apply the model's own preprocessing first."
            )
        if images.shape[1] != self.in_channels:
            raise ValueError(f"inputs must have {self.in_channels} channels, got {images.shape[1]}.")
        weight = next(self.model.parameters(), images)
        if images.device != weight.device:
            raise ValueError(f"inputs must be on the model's device {weight.device}, got {images.device}.")
        finite = images.isfinite().flatten(1).all(1)
        if not finite.all():
            broken = (~finite).nonzero().squeeze(1).tolist()
            raise ValueError(f"inputs must be finite, got NaN or infinity in image {', '.join(map(str, broken))}.")
        self.grid(*images.shape[-2:])
        if images.dtype != weight.dtype and not (self.casts_images or torch.is_autocast_enabled(images.device.type)):
            raise ValueError(
                f"inputs must have the model's dtype {weight.dtype}, got {images.dtype}. Cast them: "
                f"inputs.to({weight.dtype})."
            )

    def _fixed_grid(
        self, size: tuple[int, int], height: int, width: int, grid: tuple[int, int], remedy: str
    ) -> tuple[int, int]:
        """The grid of a model that takes one size only."""
        if (height, width) != size:
            raise ValueError(
                f"{self.family} takes images of {size[0]}×{size[1]} pixels, got {height}×{width}. {remedy}"
            )
        return grid

    def _divided_grid(self, patch: tuple[int, int], height: int, width: int) -> tuple[int, int]:
        """The grid of a model that takes any multiple of its patch size."""
        if height % patch[0] or width % patch[1]:
            raise ValueError(
                f"image sides must be multiples of the patch size {patch[0]}×{patch[1]}, got {height}×{width}. "
                "Resize or crop the image."
            )
        return height // patch[0], width // patch[1]

    def _token_weights(self, num_tokens: int, tokens: slice) -> Tensor:
        """Equal shares over a slice of the tokens, (N,)."""
        weights = torch.zeros(num_tokens)
        weights[tokens] = 1.0
        return weights / weights.sum()


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
