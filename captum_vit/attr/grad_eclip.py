"""Grad-ECLIP: gradients of the pooled token's attention output, with a loosened attention map (Zhao et al. 2024)."""

from __future__ import annotations

from typing import TypeAlias, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_vit.adapters.attention import AttentionLike, AttentionRecord, LazyMap, propagate, start_row
from captum_vit.adapters.capture import stream_blocks, trace_calls, trace_readout
from captum_vit.adapters.prompts import PromptClassifier, TextImageTower
from captum_vit.adapters.registry import check_state
from captum_vit.attr.base import ViTAttribution, only_tensor
from captum_vit.attr.gradients import attention_gradients
from captum_vit.attr.options import checked_integer, checked_switch, is_integer
from captum_vit.attr.text_attribution import TextAttribution

__all__ = ["GradECLIP", "Prompts", "grad_eclip", "loosened_attention"]

Prompts: TypeAlias = list[str] | list[int] | list[str | int] | tuple[str | int, ...]
"""Texts, or indices of a classifier's own prompts."""


def loosened_attention(query: Tensor, key: Tensor, counted: Tensor | None = None) -> LazyMap:
    """The cosine of query and key over all heads together, brought to [0, 1] in each row: λ.

    Args:
        query: (B, h, Q, d).
        key: (B, h, N, d).
        counted: key tokens (N,) among which a row's smallest cosine becomes 0 and its largest 1, as booleans; all by
            default. The others get 0.

    Returns:
        (B, 1, Q, N), formed row by row; a row of equal cosines is 0.
    """
    queries, keys = (F.normalize(each.transpose(1, 2).flatten(2), dim=-1) for each in (query, key))  # (B, ·, h·d)
    left_out = torch.zeros(key.shape[2], dtype=torch.bool, device=key.device) if counted is None else ~counted

    def form_rows(index: Tensor, heads: slice) -> Tensor:
        cosine = queries[:, index] @ keys.transpose(1, 2)  # (B, r, N)
        low = cosine.masked_fill(left_out, float("inf")).amin(-1, keepdim=True)
        spread = cosine.masked_fill(left_out, float("-inf")).amax(-1, keepdim=True) - low
        scaled = (cosine - low) / spread.where(spread > 0, float("inf"))
        return scaled.masked_fill(left_out, 0.0)[:, None][:, heads]

    return LazyMap((query.shape[0], 1, query.shape[2], key.shape[2]), form_rows, queries)


def grad_eclip(
    gradient: AttentionLike,
    query: Tensor,
    key: Tensor,
    *,
    read: Tensor | None = None,
    counted: Tensor | None = None,
    spatial_weight: bool = True,
) -> Tensor:
    """Channel weights times spatial weights times values: ``λ_i Σ_c w_c v_ic`` for each key token i.

    w is the gradient of the score at the pooled token's attention output, over all heads. So ``Σ_c w_c v_ic`` is the
    pooled token's row of the gradient of the attention map, summed over heads, and no values are needed.

    Args:
        gradient: of the score with respect to the attention map of one block or pooler, (B, h, Q, N).
        query: (B, h, Q, d).
        key: (B, h, N, d).
        read: query tokens that the output is read from, (Q,), as booleans; the first (class token) by default. The
            relevance of several is summed.
        counted: see `loosened_attention`.
        spatial_weight: whether λ is there; False is the paper's ablation.

    Returns:
        Relevance of each key token before the ReLU, (B, N).

    Example:
        >>> gradient = torch.tensor([[[[2.0, -1.0, 3.0]]]])
        >>> query, key = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]]])
        >>> grad_eclip(gradient, query, key)  # cosines 1, 0, -1
        tensor([[ 2.0000, -0.5000,  0.0000]])

    References:
        arXiv:2502.18816, section 3.
    """
    row = start_row(gradient, None if read is None else read.float())
    maps = [gradient, loosened_attention(query, key, counted)] if spatial_weight else [gradient]
    return propagate(row, maps, lambda _, rows, *weights: rows.sum(1) * (weights[0][:, 0] if weights else 1.0))


class GradECLIP(ViTAttribution):
    """The gradient at the pooled token's last attention output, projected on each patch's value, by its likeness to it.

    The likeness is the cosine of the pooled token's query and the patch's key, brought to [0, 1] over the image: softer
    than attention, which in CLIP is nearly zero almost everywhere. With an attention pooler it is the pooler's queries,
    keys and values; with mean pooling, an extension, every token that is averaged counts as a pooled one.
    `attribute_text` is the same for the words of a prompt.

    Args:
        model: see `ViTAttribution`.
        spatial_weight: False leaves the likeness out, the paper's ablation.
        relu: whether negative relevance is dropped at the end, as the paper does. By default the map stays signed: one
            that is negative everywhere would be blank.

    Raises:
        TypeError: a switch that is neither True nor False.
    """

    name = "Grad-ECLIP"
    class_specific = True
    signed = True
    passes = "1 forward + 1 backward through the last block"
    memory = "the graph of the last block"
    reference = "arXiv:2502.18816, section 3"

    def __init__(self, model: nn.Module, *, spatial_weight: bool = True, relu: bool = False) -> None:
        super().__init__(model)
        self.spatial_weight = checked_switch("spatial_weight", spatial_weight)
        self.relu = checked_switch("relu", relu)
        self.signed = not relu

    def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        adapter = self.forward_func
        gh, gw = adapter.grid(*images.shape[-2:])
        relevance: list[Tensor] = []

        def visit(index: int, record: AttentionRecord, tokens: Tensor) -> None:
            if adapter.pooling == "attention":
                logits, record = trace_readout(adapter, tokens)
            else:
                logits = adapter.readout(tokens)
            read = adapter.pool_weights(record.shape[2]).ne(0).to(images.device)
            counted = torch.arange(record.shape[3], device=images.device) >= record.shape[3] - gh * gw
            for (gradient,), _ in attention_gradients(logits, targets, [record]):
                relevance.append(self._positive(self._effect(record, gradient, read, counted)))

        last = [len(adapter.blocks) - 1]
        stream_blocks(adapter, images, visit, last, gradients=adapter.pooling != "attention")
        return torch.stack(relevance, 1)  # (B, T, N)

    @overload
    def attribute_text(
        self, inputs: Tensor | tuple[Tensor, ...], prompt: str | int, *, num_blocks: int | None = None
    ) -> TextAttribution: ...

    @overload
    def attribute_text(
        self, inputs: Tensor | tuple[Tensor, ...], prompt: Prompts, *, num_blocks: int | None = None
    ) -> list[TextAttribution]: ...

    def attribute_text(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        prompt: str | int | Prompts,
        *,
        num_blocks: int | None = None,
    ) -> TextAttribution | list[TextAttribution]:
        """Which words of a prompt make it fit the images.

        Args:
            inputs: see `attribute`.
            prompt: any text, encoded as it stands, without the classifier's template; or the index of one of the
                classifier's own prompts, filled into its template as it is there; or a list of these.
            num_blocks: how many of the text tower's last blocks are summed; 8, as in the authors' notebook, or all
                of fewer by default.

        Returns:
            The words and tokens and, for each image, the relevance of each; a list of that for a list. The score is the
            prompt's logit.

        Raises:
            TypeError: a model without a text tower or a classifier without its tokenizer, a prompt that is no text.
            ValueError: an empty prompt or list, a prompt that is longer than the model reads, the index of no prompt or
                of one that is no single text, or a number of blocks that the text tower does not have.
            RuntimeError: training mode, or attention that can't be captured.
            BlankMapError: relevance that would be zero for every token of an image, or not finite.
        """
        images = only_tensor(inputs)
        classifier, tower = self._with_text()
        given = prompt if isinstance(prompt, (list, tuple)) else [prompt]
        texts = [_text_of(each, classifier) for each in given]
        if not texts:
            raise ValueError("prompt must hold at least one text, got none.")
        classifier.check_images(images)
        check_state(classifier)
        with torch.inference_mode(False), torch.no_grad():
            images = images.clone() if images.is_inference() else images.detach()
            embeddings = self.forward_func.view_of(tower)(images)  # (B, E)
            found = [self._words(classifier, tower, embeddings, text, num_blocks) for text in texts]
        return found if isinstance(prompt, (list, tuple)) else found[0]

    def _words(
        self, classifier: PromptClassifier, tower: TextImageTower, images: Tensor, text: str, num_blocks: int | None
    ) -> TextAttribution:
        """The words of a text for images of the embeddings (B, E)."""
        words = tower.prompt_words(classifier.tokenizer, text)
        relevance = self._of_text(classifier, tower, images, text, num_blocks)
        relevance = self._positive(relevance[:, [place for word in words for place in word.tokens]])
        self._refuse_blank(relevance[:, None, None, None])
        return TextAttribution(text, tuple(words), relevance)

    def _of_text(
        self, classifier: PromptClassifier, tower: TextImageTower, image: Tensor, prompt: str, num_blocks: int | None
    ) -> Tensor:
        """Relevance of all tokens of the text tower, (B, N)."""
        text, records = trace_calls(
            tower, lambda: tower.encode_prompts(classifier.tokenizer, [prompt] * len(image))
        )  # (B, E)
        with torch.enable_grad():
            image = F.normalize(image, dim=-1) if classifier.normalize else image
            logits = (image * F.normalize(text, dim=-1)).sum(-1, keepdim=True) * classifier.scale  # (B, 1)
        depth = len(records)
        taken = min(8, depth) if num_blocks is None else checked_integer("num_blocks", num_blocks, 1, depth)
        first = torch.zeros(len(image), 1, dtype=torch.long, device=image.device)
        ((gradients, _),) = attention_gradients(logits, first, records[-taken:])
        read = gradients[-1].full().ne(0).any(3).any(1).any(0)  # (Q,): in the last block only the pooled token's query
        relevance = [
            self._effect(record, gradient, read, _seen(record, read))
            for record, gradient in zip(records[-taken:], gradients, strict=True)
        ]
        return torch.stack(relevance).sum(0)

    def _effect(self, record: AttentionRecord, gradient: LazyMap, read: Tensor, counted: Tensor) -> Tensor:
        record = record.detached()
        return grad_eclip(
            gradient, record.query, record.key, read=read, counted=counted, spatial_weight=self.spatial_weight
        )

    def _positive(self, relevance: Tensor) -> Tensor:
        return relevance.clamp(min=0) if self.relu else relevance

    def _why_blank(self) -> str:
        against = "everything that counts speaks against the target, which relu=True drops; or " if self.relu else ""
        return against + super()._why_blank()

    def _with_text(self) -> tuple[PromptClassifier, TextImageTower]:
        adapter = self.forward_func.own
        if not isinstance(adapter, PromptClassifier):
            raise TypeError(f"{adapter.family} reads no text; wrap a model that does in PromptClassifier.")
        if not isinstance(adapter.tower, TextImageTower):
            raise TypeError(f"{adapter.tower.family} reads no text, so no words of a prompt can be explained.")
        if adapter.tokenizer is None:
            raise TypeError("tokenizer must be given to PromptClassifier to explain the words of a prompt, got None.")
        return adapter, adapter.tower


def _text_of(prompt: str | int, classifier: PromptClassifier) -> str:
    """The text that is meant.

    Raises:
        TypeError: neither a text nor an integer.
        ValueError: an empty text, or an index of no single text.
    """
    if not isinstance(prompt, str):
        if not is_integer(prompt):
            raise TypeError(f"prompt must be a text or the index of a prompt, got {prompt!r}.")
        return classifier.prompt_text(int(prompt))
    if not prompt.strip():
        raise ValueError(f"prompt must not be empty, got {prompt!r}.")
    return prompt


def _seen(record: AttentionRecord, read: Tensor) -> Tensor:
    """The keys that the queries ``read`` may attend to, (N,): before them in a causal tower, and no padding."""
    rows = record.attention.rows(read.nonzero().squeeze(1))  # (B, h, r, N)
    return rows.ne(0).flatten(0, 2).any(0)
