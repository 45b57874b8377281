"""Text prompts as classes: a two-tower model and a list of prompts make one image classifier."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_vit.adapters.base import Adapter
from captum_vit.adapters.registry import check_state, find_adapter

__all__ = ["PromptClassifier", "TextImageTower"]


class TextImageTower(Adapter):
    """Adapter of an image tower whose model also reads texts; its outputs are the unnormalised image embedding."""

    @abstractmethod
    def encode_prompts(self, tokenizer: Any, prompts: Sequence[str]) -> Tensor:
        """Unnormalised embeddings (K, E) of the prompts."""

    def logit_scale(self) -> float:
        """The model's own factor of the cosine similarity."""
        scale: Any = self.model.logit_scale
        return float(scale.exp())

    def logit_bias(self) -> float:
        """The model's own offset of the logits; 0 where it has none."""
        bias: Any = getattr(self.model, "logit_bias", None)
        return 0.0 if bias is None else float(bias)


class PromptClassifier(Adapter):
    """An `nn.Module` from images (B, C, H, W) to logits (B, K), one per prompt, which any Captum method can take.

    The logit of an image embedding f and a prompt embedding t, both of unit length, is ``scale * f·t + bias``.

    Args:
        model: OpenCLIP (CLIP, CoCa, SigLIP …) or Hugging Face (CLIP, SigLIP); with ``embeddings`` also an image encoder
            alone. It is not changed.
        tokenizer: ``open_clip.get_tokenizer(...)``, or a Hugging Face tokenizer or processor. Not needed with
            ``embeddings``.
        prompts: the texts. With ``embeddings`` they are names only.
        template: ``"a photo of {}."``, or several of them: each prompt is filled in, and the embeddings of several
            templates are averaged after normalisation, as zero-shot classifiers do (arXiv:2103.00020, section 3.1.4).
        embeddings: ready-made embeddings (K, E), from another modality's encoder for example. They are normalised.
        logit_scale: factor of the similarity; "model" takes the model's own. CheferCAM's map depends on it.
        logit_bias: offset of the logits; "model" takes the model's own.
        normalize: whether the image embedding is brought to unit length; False explains the plain dot product.

    Raises:
        ValueError: no prompt, an empty or repeated prompt, a template without ``{}``, embeddings of the wrong shape.
        TypeError: a model without a text tower and no ``embeddings``.

    Example:
        >>> import open_clip
        >>> clip = open_clip.create_model("ViT-B-32", pretrained=None).eval()
        >>> tokenizer = open_clip.get_tokenizer("ViT-B-32")
        >>> model = PromptClassifier(clip, tokenizer, ["a cat", "a dog"], template="a photo of {}.")
        >>> model(torch.zeros(1, 3, 224, 224)).shape
        torch.Size([1, 2])
        >>> model.target_index("a dog")
        1
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any = None,
        prompts: Sequence[str] | None = None,
        *,
        template: str | Sequence[str] = "{}",
        embeddings: Tensor | None = None,
        logit_scale: float | Literal["model"] = "model",
        logit_bias: float | Literal["model"] = "model",
        normalize: bool = True,
    ) -> None:
        tower = find_adapter(model)
        super().__init__(tower.model)
        self.tower = tower
        self.tokenizer = tokenizer
        self.template = template
        self.normalize = normalize
        self._scale, self._bias = logit_scale, logit_bias
        self.family = f"{tower.family} with prompts"
        self.num_prefix_tokens = tower.num_prefix_tokens
        self.in_channels = tower.in_channels
        self.pooling = tower.pooling
        self.fused_attention_switch = tower.fused_attention_switch
        self.embeddings: Tensor
        if embeddings is None:
            if prompts is None:
                raise ValueError("prompts must be a list of texts, got None; give prompts or ready-made embeddings.")
            self.set_prompts(prompts)
        else:
            self.set_embeddings(embeddings, prompts)

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts, in the order of the outputs; assign a list to change them."""
        return self._prompts

    @prompts.setter
    def prompts(self, prompts: Sequence[str]) -> None:
        self.set_prompts(prompts)

    def set_prompts(self, prompts: Sequence[str]) -> None:
        """Replaces the prompts; methods built on this classifier explain the new ones from their next call."""
        names = _checked_prompts(prompts)
        self._set(self.encode(names, self.template), names)

    def set_embeddings(self, embeddings: Tensor, names: Sequence[str] | None = None) -> None:
        """Replaces the prompts by ready-made embeddings (K, E), with names or numbered."""
        if embeddings.ndim != 2 or not len(embeddings) or not embeddings.is_floating_point():
            raise ValueError(
                f"embeddings must be floating point of shape (K, E), got {embeddings.dtype} {tuple(embeddings.shape)}."
            )
        if embeddings.shape[1] != self.tower.num_outputs:
            raise ValueError(
                f"embeddings must have {self.tower.num_outputs} dimensions, as the image embedding of "
                f"{self.tower.family}, got {embeddings.shape[1]}."
            )
        labels = [f"embedding {index}" for index in range(len(embeddings))] if names is None else names
        checked = _checked_prompts(labels)
        if len(checked) != len(embeddings):
            raise ValueError(f"prompts must name each of the {len(embeddings)} embeddings, got {len(checked)} names.")
        self._set(F.normalize(embeddings.detach(), dim=-1), checked)

    def encode(self, prompts: Sequence[str], template: str | Sequence[str] = "{}") -> Tensor:
        """Unit embeddings (K, E) of prompts, filled into a template or averaged over several.

        Raises:
            TypeError: the model has no text tower, or there is no tokenizer.
            ValueError: a template without ``{}``.
            RuntimeError: the model is in training mode.
        """
        if not isinstance(self.tower, TextImageTower):
            raise TypeError(f"{self.tower.family} reads no text; give ready-made embeddings (K, E).")
        if self.tokenizer is None:
            raise TypeError(
                "tokenizer must be given to encode prompts, got None; or give ready-made embeddings (K, E)."
            )
        check_state(self.tower)
        templates = [template] if isinstance(template, str) else list(template)
        if not templates:
            raise ValueError("template must be a text or several texts with {}, got none.")
        for each in templates:
            if "{}" not in each:
                raise ValueError(f"template must contain {{}} for the prompt, got {each!r}.")
        with torch.inference_mode(False), torch.no_grad():
            per_template = [
                F.normalize(
                    self.tower.encode_prompts(self.tokenizer, [each.replace("{}", prompt) for prompt in prompts]),
                    dim=-1,
                )
                for each in templates
            ]
            return F.normalize(torch.stack(per_template).mean(0), dim=-1)

    def with_extra(self, embedding: Tensor) -> PromptClassifier:
        """A classifier on the same model with one more, unnamed output, for an embedding of shape (E,)."""
        return PromptClassifier(
            self.tower,
            self.tokenizer,
            template=self.template,
            embeddings=torch.cat([self.embeddings, embedding[None].to(self.embeddings)]),
            logit_scale=self._scale,
            logit_bias=self._bias,
            normalize=self.normalize,
        )

    def target_index(self, name: str) -> int:
        if name not in self.prompts:
            raise ValueError(f"target must be one of the prompts {list(self.prompts)}, got {name!r}.")
        return self.prompts.index(name)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return self.tower.blocks

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return self.tower.grid(height, width)

    def pool_weights(self, num_tokens: int) -> Tensor:
        return self.tower.pool_weights(num_tokens)

    def block_tokens(self, output: Any) -> Tensor:
        return self.tower.block_tokens(output)

    def forward(self, images: Tensor) -> Tensor:
        return self._logits(self.tower(images))

    def readout(self, tokens: Tensor, *, final_norm: bool = True) -> Tensor:
        return self._logits(self.tower.readout(tokens, final_norm=final_norm))

    def _logits(self, image_embedding: Tensor) -> Tensor:
        if self.normalize:
            image_embedding = F.normalize(image_embedding, dim=-1)
        similarity = image_embedding @ self.embeddings.to(image_embedding).T  # (B, K)
        return similarity * self._number(self._scale, "logit_scale", 1.0) + self._number(self._bias, "logit_bias", 0.0)

    def _number(self, choice: float | Literal["model"], name: str, without_text: float) -> float:
        """A chosen number, or the model's own at the time of the call."""
        if choice != "model":
            return choice
        own: float = getattr(self.tower, name)() if isinstance(self.tower, TextImageTower) else without_text
        return own

    def _set(self, embeddings: Tensor, names: tuple[str, ...]) -> None:
        self._prompts = names
        self.num_outputs = len(names)
        self.register_buffer("embeddings", embeddings, persistent=False)


def _checked_prompts(prompts: Sequence[str]) -> tuple[str, ...]:
    if isinstance(prompts, str):
        raise TypeError(f"prompts must be a list of texts, got the text {prompts!r}; write [{prompts!r}].")
    names = tuple(prompts)
    if not names:
        raise ValueError("prompts must hold at least one text, got an empty list.")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"prompts must be texts, got {type(name).__name__}.")
        if not name.strip():
            raise ValueError(f"prompts must not be empty texts, got {name!r}.")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"prompts must differ from each other, got {repeated[0]!r} more than once.")
    return names
