"""TextSpan's decomposition: what each token, head and block adds to the answer (Gandelsman et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from captum_vit.adapters.attention import AttentionRecord
from captum_vit.adapters.base import Adapter
from captum_vit.adapters.branch import AttentionBranch, InDtype
from captum_vit.adapters.capture import stream_blocks
from captum_vit.adapters.prompts import PromptClassifier
from captum_vit.adapters.registry import check_state
from captum_vit.attr.base import ViTAttribution, checked_batch_size, only_tensor
from captum_vit.attr.needs import Need
from captum_vit.attr.options import checked_switch

__all__ = ["Contributions", "TextSpan", "direct_effects"]

_TAIL_TOLERANCE = 1e-3
"""Relative error of float32 that a tail of one LayerNorm and one linear map stays far below."""


@dataclass(frozen=True, eq=False)
class Contributions:
    """What each part of a model adds to its image embedding (for a classifier: to its logits).

    Attributes:
        embedding: the pooled token before the first block, (B, E).
        heads: each block's heads, by the token that they read, (B, L, h, N, E). Test-time registers come first.
        mlps: each block's MLP, (B, L, E).
    """

    embedding: Tensor
    heads: Tensor
    mlps: Tensor

    def total(self) -> Tensor:
        """The sum of all parts, (B, E): the image embedding, of unit length where the classifier normalises it."""
        return self.embedding + self.heads.sum((1, 2, 3)) + self.mlps.sum(1)


def direct_effects(
    row: Tensor, value: Tensor, weight: Tensor, bias: Tensor, directions: Tensor, inner_scale: Tensor | None = None
) -> Tensor:
    """What each head and each token that it reads adds to the pooled token, along some directions.

    Head k adds ``W_k Σ_j a_kj v_kj`` to the pooled token, a sum over the tokens j; the bias is shared evenly by all
    heads and tokens.

    Args:
        row: the pooled token's attention in each head, (B, h, N).
        value: (B, h, N, d).
        weight: from the joined heads to the tokens, (D, h·d).
        bias: (D,), or per image (B, D).
        directions: (B, T, D).
        inner_scale: a factor of each joined channel before ``weight``, (B, h·d).

    Returns:
        (B, T, h, N); the sum over h and N is the product of direction and attention output.

    Example:
        >>> row, value = torch.tensor([[[0.25, 0.75]]]), torch.tensor([[[[4.0], [8.0]]]])
        >>> direct_effects(row, value, torch.tensor([[2.0]]), torch.tensor([1.0]), torch.tensor([[[1.0], [-1.0]]]))
        tensor([[[[  2.5000,  12.5000]],
        <BLANKLINE>
                 [[ -2.5000, -12.5000]]]])

    References:
        arXiv:2310.05916, eq. 5.
    """
    _, heads, tokens, dimension = value.shape
    seen = directions @ weight  # (B, T, h·d)
    if inner_scale is not None:
        seen = seen * inner_scale[:, None]
    effects = torch.einsum("btkd,bknd->btkn", seen.unflatten(-1, (heads, dimension)), row[..., None] * value)
    shared = (directions * (bias if bias.ndim == 1 else bias[:, None])).sum(-1) / (heads * tokens)  # (B, T)
    return effects + shared[..., None, None]


class TextSpan(ViTAttribution):
    """What the attention of all blocks brings from each patch straight into the logit of the target.

    The class token after the last block is the sum of its embedding and of what every MLP and every head of every block
    has added. The final norm is made linear by the image's own mean and variance, so that the logit without its bias
    (for a classifier: with it) is a sum over these parts. The map is the part of the heads, by the token that they
    read. `contributions` gives all parts.

    Args:
        model: one whose answer is read from a single class token by a LayerNorm and a linear map: OpenCLIP and Hugging
            Face CLIP, and classifiers of that kind.
        minus_mean: whether the mean over all prompts or classes is subtracted, as the authors do for segmentation.

    Raises:
        TypeError: another pooling, another kind of block or of final norm, or a switch that is neither True nor False.
    """

    name = "TextSpan"
    class_specific = True
    signed = True
    passes = "1 forward"
    memory = "the values of all blocks, no graph"
    needs = (Need.FUSED_ATTENTION, Need.PRE_NORM, Need.CLASS_POOLING)
    reference = "arXiv:2310.05916, eq. 3-5 and section 5"

    def __init__(self, model: nn.Module, *, minus_mean: bool = False) -> None:
        super().__init__(model)
        self.minus_mean = checked_switch("minus_mean", minus_mean)
        _pooled_token(self.name, self.forward_func)
        for index in range(len(self.forward_func.blocks)):
            self.forward_func.attention_branch(index)

    def contributions(
        self, inputs: Tensor | tuple[Tensor, ...], *, internal_batch_size: int | None = None
    ) -> Contributions:
        """The direct effect of every part of the model on the image embedding, or on a classifier's logits.

        The biases and means of the norms and the bias of the head are shared evenly: by the 2 L + 1 parts, and within
        attention by heads and tokens.

        Args:
            inputs: see `attribute`.
            internal_batch_size: see `attribute`.

        Returns:
            The parts. B·L·h·N·E numbers: about 58 MB an image for a ViT-B/16 of 512 dimensions in float32.

        Raises:
            TypeError: a head that is not linear, and as `attribute` otherwise.
        """
        images = only_tensor(inputs)
        adapter = self.forward_func
        adapter.check_images(images)
        check_state(adapter)
        with torch.inference_mode(False), torch.no_grad():
            images = images.clone() if images.is_inference() else images.detach()
            parts = [
                self._decompose(each) for each in images.split(checked_batch_size(internal_batch_size, len(images)))
            ]
            return Contributions(*(torch.cat(each).movedim(1, -1) for each in zip(*parts, strict=True)))

    def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        return self._decompose(images, targets)[1].sum((2, 3))  # (B, T, N)

    def _decompose(self, images: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The embedding's, heads' and MLPs' parts of T targets, or of all E dimensions of the embedding.

        Returns:
            (B, T), (B, T, L, h, N) and (B, T, L).
        """
        adapter = self.forward_func
        stream, calls = self._watched(images)
        blocks = [adapter.attention_branch(index) for index in range(len(calls))]
        with torch.autocast(images.device.type, enabled=False):
            head, offset = _linear_head(adapter, stream[-1])  # (E, D), (E,)
            norm = _Linearised(adapter.final_norm, stream[-1])
            embedding = norm(stream[-1]) @ head.T + offset
            self._check_tail(stream[-1], embedding)
            rows = self._rows(targets, embedding)  # (B, T, E)
            answers = rows @ head  # (B, T, D)
            seen = answers * norm.weight / norm.deviation[:, None]
            shared = (answers @ norm.constant[..., None])[..., 0] + rows @ offset  # (B, T)
            shared = shared / (2 * len(blocks) + 1)
            heads, mlps = [], []
            for index, (branch, (row, value)) in enumerate(zip(blocks, calls, strict=True)):
                effects = _branch_effects(branch, row, value, seen)  # (B, T, h, N)
                change = (seen @ (stream[index + 1] - stream[index])[..., None])[..., 0]
                mlps.append(change - effects.sum((2, 3)) + shared)
                heads.append(effects + (shared / effects[0, 0].numel())[..., None, None])
            first = (seen @ stream[0][..., None])[..., 0] + shared
        return first, torch.stack(heads, 2), torch.stack(mlps, 2)

    def _watched(self, images: Tensor) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        """The pooled token before the first block and after each, (B, D); its attention and the values, of each."""
        adapter = self.forward_func
        pooled = _pooled_token(self.name, adapter)
        stream: list[Tensor] = []
        calls: list[tuple[Tensor, Tensor]] = []

        def begin(index: int, tokens: Tensor) -> None:
            if index == 0:
                stream.append(tokens[:, pooled])

        def visit(index: int, record: AttentionRecord, tokens: Tensor) -> None:
            row = record.attention.rows(torch.tensor([pooled], device=tokens.device))[:, :, 0]  # (B, h, N)
            calls.append((row, record.detached().value))
            stream.append(tokens[:, pooled])

        stream_blocks(adapter, images, visit, range(len(adapter.blocks)), gradients=False, begin=begin)
        return [each.to(calls[0][0].dtype) for each in stream], calls

    def _rows(self, targets: Tensor | None, embedding: Tensor) -> Tensor:
        """What the image embedding is multiplied with: a row for each target, or for each dimension, (B, T, E)."""
        adapter = self.forward_func.own
        length = torch.ones_like(embedding[:, :1])
        rows = torch.eye(embedding.shape[1]).to(embedding)
        if isinstance(adapter, PromptClassifier):
            if adapter.normalize:
                length = vector_norm(embedding, dim=-1, keepdim=True)
            if targets is not None:
                rows = adapter.embeddings.to(embedding) * adapter.scale
        if targets is not None:
            rows = (rows - rows.mean(0) if self.minus_mean else rows)[targets]
        return rows / length[..., None]

    def _check_tail(self, token: Tensor, embedding: Tensor) -> None:
        """Compares the embedding with the model's own tail."""
        adapter = self.forward_func
        with InDtype(token.dtype):
            expected = _tower(adapter).readout_of_each(token[:, None])[:, 0]
        if (embedding - expected).abs().max() > _TAIL_TOLERANCE * expected.abs().max():
            raise TypeError(
                f"{self.name} needs an answer that a LayerNorm and a linear map read from one token; that of "
                f"{adapter.family} differs from it: its head is not linear."
            )

    def _why_blank(self) -> str:
        return "the target's row of the head, or the prompt's embedding, is zero (or equal to the mean of all)"


class _Linearised:
    """A LayerNorm with the statistics of given tokens (B, D) held fixed: ``x ↦ weight · x / deviation + constant``."""

    def __init__(self, norm: nn.Module, tokens: Tensor) -> None:
        assert isinstance(norm, nn.LayerNorm)
        one, zero = torch.ones_like(tokens[0]), torch.zeros_like(tokens[0])
        self.weight = one if norm.weight is None else norm.weight.detach().to(tokens)  # (D,)
        bias = zero if norm.bias is None else norm.bias.detach().to(tokens)
        mean = tokens.mean(-1, keepdim=True)
        self.deviation = (tokens.var(-1, keepdim=True, correction=0) + norm.eps).sqrt()  # (B, 1)
        self.constant = bias - self.weight * mean / self.deviation  # (B, D)

    def __call__(self, tokens: Tensor) -> Tensor:
        return self.weight * tokens / self.deviation + self.constant


def _branch_effects(branch: AttentionBranch, row: Tensor, value: Tensor, directions: Tensor) -> Tensor:
    """`direct_effects` of a block, a norm inside its attention made linear too."""
    weight, bias = branch.weight.to(value), branch.bias.to(value)
    if branch.inner_norm is None:
        return direct_effects(row, value, weight, bias, directions)
    joined = (row[..., None] * value).sum(2).flatten(1)  # (B, h·d)
    norm = _Linearised(branch.inner_norm, joined)
    bias = bias + norm.constant @ weight.T
    return direct_effects(row, value, weight, bias, directions, norm.weight / norm.deviation)


def _linear_head(adapter: Adapter, token: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (E, D) and bias (E,) of what follows the final norm, from its values at zero and at unit tokens."""
    units = torch.eye(token.shape[1]).to(token)
    with InDtype(token.dtype):
        values = _tower(adapter).readout_of_each(
            torch.cat([torch.zeros_like(units[:1]), units])[None], final_norm=False
        )
    offset = values[0, 0]
    return (values[0, 1:] - offset).T, offset


def _tower(adapter: Adapter) -> Adapter:
    """What ends in the image embedding: the tower of a `PromptClassifier`, or the classifier itself."""
    own = adapter.own
    return own.tower if isinstance(own, PromptClassifier) else own


def _pooled_token(name: str, adapter: Adapter) -> int:
    """The index of the one token that is read.

    Raises:
        TypeError: another pooling, or a final norm that is no LayerNorm.
    """
    if adapter.pooling != "class":
        raise TypeError(f"{name} decomposes a class token, but {adapter.family} pools by {adapter.pooling}.")
    read = adapter.pool_weights(adapter.num_prefix_tokens + 1).nonzero().squeeze(1).tolist()
    if len(read) != 1:
        raise TypeError(f"{name} decomposes one class token, but {adapter.family} reads {len(read)} kinds of tokens.")
    if not isinstance(adapter.final_norm, nn.LayerNorm):
        raise TypeError(
            f"{name} needs a LayerNorm behind the last block, got {type(adapter.final_norm).__name__} in "
            f"{adapter.family}."
        )
    return int(read[0])
