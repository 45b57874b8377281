"""Text prompts as classes: a two-tower model and a list of prompts make one image classifier."""

from __future__ import annotations

import math
import reprlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_vit.adapters.base import Adapter
from captum_vit.adapters.branch import AttentionBranch
from captum_vit.adapters.registry import check_state, find_adapter
from captum_vit.adapters.words import PromptWord

__all__ = ["PromptClassifier", "Template", "TextImageTower"]

Template: TypeAlias = str | Callable[[str], str]
"""A text with ``{}`` for the prompt, or a function from the prompt to the text (as OpenCLIP's own templates)."""


class TextImageTower(Adapter):
    """Adapter of an image tower whose model also reads texts; its outputs are the unnormalised image embedding."""

    @abstractmethod
    def encode_prompts(self, tokenizer: Any, prompts: Sequence[str]) -> Tensor:
        """Unnormalised embeddings (K, E) of the prompts.

        Raises:
            TypeError: a tokenizer of another library.
            ValueError: a prompt longer than the text tower reads, or token ids that it does not know.
        """

    @abstractmethod
    def prompt_words(self, tokenizer: Any, prompt: str) -> list[PromptWord]:
        """The words of a prompt, in their order, with their tokens.

        Raises:
            TypeError: a tokenizer of another library.
        """

    def logit_scale(self) -> float:
        """The model's own factor of the cosine similarity."""
        scale: Any = self.model.logit_scale
        return float(scale.detach().exp())

    def logit_bias(self) -> float:
        """The model's own offset of the logits; 0 where it has none."""
        bias: Any = getattr(self.model, "logit_bias", None)
        return 0.0 if bias is None else float(bias.detach())

    def _check_tokens(
        self, prompts: Sequence[str], too_long: Iterable[bool], length: int, token_ids: Tensor, vocabulary: int
    ) -> None:
        """Refuses prompts that the tokenizer would cut, and ids of a vocabulary that is not the model's."""
        for prompt, cut in zip(prompts, too_long, strict=True):
            if cut:
                shown = prompt if len(prompt) <= 60 else f"{prompt[:60]}…"
                raise ValueError(
                    f"prompts must fit the {length} tokens that the text tower of {self.family} reads, got {shown!r}, "
                    "whose end would be cut off. Shorten it."
                )
        if int(token_ids.max()) >= vocabulary:
            raise ValueError(
                f"tokenizer must be the model's own: it gives token id {int(token_ids.max())}, but the vocabulary of "
                f"{self.family} has {vocabulary} tokens."
            )


class PromptClassifier(Adapter):
    """An `nn.Module` from images (B, C, H, W) to logits (B, K), one per prompt, which any Captum method can take.

    The logit of an image embedding f and a prompt embedding t, both of unit length, is ``scale * f·t + bias``. Texts
    are encoded once, when they are set: after a change of the text tower's weights set them again.

    Args:
        model: OpenCLIP (CLIP, CoCa, SigLIP …) or Hugging Face (CLIP, SigLIP); with ``embeddings`` also an image encoder
            alone. It is not changed.
        tokenizer: ``open_clip.get_tokenizer(...)``, or a Hugging Face tokenizer or processor. Not needed with
            ``embeddings``.
        prompts: the texts. With ``embeddings`` they are names only.
        template: ``"a photo of {}."``, or several of them: each prompt is filled in, and the embeddings of several
            templates are averaged after normalisation, as zero-shot classifiers do (arXiv:2103.00020, section 3.1.4).
            A template may be a function from the prompt to the text: ``open_clip.OPENAI_IMAGENET_TEMPLATES`` works.
        embeddings: ready-made embeddings (K, E), from another modality's encoder for example. They are normalised.
        logit_scale: factor of the similarity; "model" takes the model's own at the time of each call. CheferCAM's map
            depends on it.
        logit_bias: offset of the logits; "model" takes the model's own at the time of each call.
        normalize: whether the image embedding is brought to unit length; False explains the plain dot product.

    Raises:
        ValueError: no prompt, an empty or repeated prompt, one that is longer than the model reads (it is never cut), a
            template without ``{}``, embeddings of the wrong shape, not finite or zero, a scale of zero.
        TypeError: a model without a text tower or no tokenizer, and no ``embeddings``; a tokenizer of another library.
        RuntimeError: texts for a model in training mode.

    Example:
        >>> import open_clip
        >>> _ = torch.manual_seed(0)
        >>> vision = {"image_size": 32, "patch_size": 16, "width": 64, "layers": 2}
        >>> clip = open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg={"width": 32, "heads": 2, "layers": 1})
        >>> tokenizer = open_clip.get_tokenizer("ViT-B-32")
        >>> model = PromptClassifier(clip.eval(), tokenizer, ["a cat", "a dog"], template="a photo of {}.")
        >>> model(torch.rand(1, 3, 32, 32)).shape
        torch.Size([1, 2])
        >>> model.target_index("a dog")
        1
        >>> model.prompts = ["a cat", "a dog", "a bird"]
        >>> model(torch.rand(1, 3, 32, 32)).shape
        torch.Size([1, 3])
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any = None,
        prompts: Sequence[str] | None = None,
        *,
        template: Template | Sequence[Template] = "{}",
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
        self._scale, self._bias = _checked_number("logit_scale", logit_scale), _checked_number("logit_bias", logit_bias)
        if self._scale == 0:
            raise ValueError(f"logit_scale must not be 0, got {logit_scale}: every logit would be the same.")
        self.family = f"{tower.family} with prompts"
        self.num_prefix_tokens = tower.num_prefix_tokens
        self.in_channels = tower.in_channels
        self.pooling = tower.pooling
        self.has_unread_pooler = tower.has_unread_pooler
        self.casts_images = tower.casts_images
        self.fused_attention_switch = tower.fused_attention_switch
        self.first_norm, self.second_norm = tower.first_norm, tower.second_norm
        self.takes_extra_tokens = tower.takes_extra_tokens
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
        """Replaces the prompts; methods built on this classifier explain the new ones from their next call.

        Raises:
            ValueError: as in the constructor; the classifier then keeps its old prompts.
            TypeError: the same.
            RuntimeError: the same.
        """
        names = _checked_prompts(prompts)
        self._set(self.encode(names, self.template), names, are_texts=True)

    def set_embeddings(self, embeddings: Tensor, names: Sequence[str] | None = None) -> None:
        """Replaces the prompts by ready-made embeddings (K, E), with names or numbered.

        Raises:
            TypeError: embeddings that are no floating-point tensor.
            ValueError: the wrong shape, NaN, infinity or zero in every dimension, another number of names.
        """
        _check_embeddings(embeddings)
        if embeddings.shape[1] != self.tower.num_outputs:
            raise ValueError(
                f"embeddings must have {self.tower.num_outputs} dimensions, as the image embedding of "
                f"{self.tower.family}, got {embeddings.shape[1]}."
            )
        labels = [f"embedding {index}" for index in range(len(embeddings))] if names is None else names
        checked = _checked_prompts(labels)
        if len(checked) != len(embeddings):
            raise ValueError(f"prompts must name each of the {len(embeddings)} embeddings, got {len(checked)} names.")
        # A tensor made in inference mode could not take part in a graph later.
        with torch.inference_mode(False), torch.no_grad():
            self._set(F.normalize(embeddings, dim=-1), checked, are_texts=False)

    def encode(self, prompts: Sequence[str], template: Template | Sequence[Template] = "{}") -> Tensor:
        """Unit embeddings (K, E) of texts, filled into a template or averaged over several.

        Raises:
            TypeError: the model has no text tower, there is no tokenizer, or it is of another library.
            ValueError: no text, a template without ``{}``, or a text that is longer than the model reads.
            RuntimeError: the model is in training mode.
        """
        if not isinstance(self.tower, TextImageTower):
            raise TypeError(f"{self.tower.family} reads no text; give ready-made embeddings (K, E).")
        if self.tokenizer is None:
            raise TypeError(
                "tokenizer must be given to encode prompts, got None; or give ready-made embeddings (K, E)."
            )
        check_state(self.tower)
        texts, templates = _checked_texts(prompts), _checked_templates(template)
        with torch.inference_mode(False), torch.no_grad():
            per_template = [
                F.normalize(self.tower.encode_prompts(self.tokenizer, [_filled(each, text) for text in texts]), dim=-1)
                for each in templates
            ]
            return F.normalize(torch.stack(per_template).mean(0), dim=-1)

    def prompt_text(self, index: int) -> str:
        """The text whose embedding an output has: its prompt, filled into the template.

        Raises:
            ValueError: no such output, several templates, whose embeddings are averaged, or given embeddings, whose
                prompts are names only.
        """
        if not 0 <= index < self.num_outputs:
            raise ValueError(f"prompt must be a text or in [0, {self.num_outputs - 1}], got {index}.")
        templates = _checked_templates(self.template)
        if len(templates) > 1 or not self._prompts_are_texts:
            why = f"there are {len(templates)} templates" if self._prompts_are_texts else "embeddings were given"
            raise ValueError(f"prompt must be a text, got {index}: no single text is behind an output, because {why}.")
        return _filled(templates[0], self.prompts[index])

    def with_extra(self, embedding: Tensor) -> PromptClassifier:
        """A classifier on the same model with one more, unnamed output, for an embedding of shape (E,)."""
        if embedding.shape != self.embeddings.shape[1:]:
            raise ValueError(
                f"embedding must have shape {tuple(self.embeddings.shape[1:])}, got {tuple(embedding.shape)}."
            )
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

    @property
    def native_size(self) -> tuple[int, int] | None:
        return self.tower.native_size

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return self.tower.grid(height, width)

    def covered(self, height: int, width: int) -> tuple[int, int]:
        return self.tower.covered(height, width)

    def pool_weights(self, num_tokens: int) -> Tensor:
        return self.tower.pool_weights(num_tokens)

    def block_tokens(self, output: Any) -> Tensor:
        return self.tower.block_tokens(output)

    def attention_branch(self, index: int) -> AttentionBranch:
        return self.tower.attention_branch(index)

    @property
    def final_norm(self) -> nn.Module:
        return self.tower.final_norm

    @property
    def scale(self) -> float:
        """The factor of the similarity: the chosen one, or the model's own."""
        return self._number(self._scale, "logit_scale", 1.0)

    def forward(self, images: Tensor) -> Tensor:
        return self._logits(self.tower(images))

    def _facts(self) -> list[str]:
        facts = [*super()._facts()[:-1], f"{len(self.prompts)} prompts {reprlib.repr(list(self.prompts))}"]
        return facts if self.template == "{}" else [*facts, f"template {reprlib.repr(self.template)}"]

    def readout(self, tokens: Tensor, *, final_norm: bool = True) -> Tensor:
        return self._logits(self.tower.readout(tokens, final_norm=final_norm))

    def similarity(self, image_embedding: Tensor) -> Tensor:
        """The logits (…, K) of image embeddings (…, E), without the bias."""
        if self.normalize:
            image_embedding = F.normalize(image_embedding, dim=-1)
        return image_embedding @ self.embeddings.to(image_embedding).T * self.scale

    def _logits(self, image_embedding: Tensor) -> Tensor:
        return self.similarity(image_embedding) + self._number(self._bias, "logit_bias", 0.0)

    def _number(self, choice: float | Literal["model"], name: str, without_text: float) -> float:
        """A chosen number, or the model's own at the time of the call."""
        if choice != "model":
            return choice
        own: float = getattr(self.tower, name)() if isinstance(self.tower, TextImageTower) else without_text
        return own

    def _set(self, embeddings: Tensor, names: tuple[str, ...], *, are_texts: bool) -> None:
        self._prompts, self._prompts_are_texts = names, are_texts
        self.num_outputs = len(names)
        self.register_buffer("embeddings", embeddings, persistent=False)


def _checked_number(name: str, choice: float | Literal["model"]) -> float | Literal["model"]:
    if choice == "model":
        return choice
    if isinstance(choice, bool) or not isinstance(choice, (int, float)):
        raise TypeError(f"{name} must be a number or 'model', got {choice!r}.")
    if not math.isfinite(choice):
        raise ValueError(f"{name} must be finite, got {choice}.")
    return choice


def _check_embeddings(embeddings: Tensor) -> None:
    if not isinstance(embeddings, Tensor) or not embeddings.is_floating_point():
        kind = embeddings.dtype if isinstance(embeddings, Tensor) else type(embeddings).__name__
        raise TypeError(f"embeddings must be a floating-point tensor, got {kind}.")
    if embeddings.ndim != 2 or not len(embeddings):
        raise ValueError(f"embeddings must have shape (K, E), got {tuple(embeddings.shape)}.")
    finite = embeddings.isfinite().all(1)
    if not finite.all():
        raise ValueError(f"embeddings must be finite, got NaN or infinity in row {_first(~finite)}.")
    zero = (embeddings == 0).all(1)
    if zero.any():
        raise ValueError(f"embeddings must have a direction, got zero in every dimension of row {_first(zero)}.")


def _first(mask: Tensor) -> int:
    return int(mask.nonzero()[0])


def _checked_templates(template: Template | Sequence[Template]) -> list[Template]:
    templates = [template] if isinstance(template, str) or callable(template) else list(template)
    if not templates:
        raise ValueError("template must be a text or several texts with {}, got none.")
    for each in templates:
        if callable(each):
            continue
        if not isinstance(each, str):
            raise TypeError(f"template must be a text with {{}} or a function, got {type(each).__name__}.")
        if "{}" not in each:
            raise ValueError(f"template must contain {{}} for the prompt, got {each!r}.")
    return templates


def _filled(template: Template, prompt: str) -> str:
    return template.replace("{}", prompt) if isinstance(template, str) else template(prompt)


def _checked_texts(prompts: Sequence[str]) -> tuple[str, ...]:
    if isinstance(prompts, str):
        raise TypeError(f"prompts must be a list of texts, got the text {prompts!r}; write [{prompts!r}].")
    names = tuple(prompts)
    if not names:
        raise ValueError("prompts must hold at least one text, got an empty list.")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"prompts must be texts, got {type(name).__name__}.")
    return names


def _checked_prompts(prompts: Sequence[str]) -> tuple[str, ...]:
    names = _checked_texts(prompts)
    for name in names:
        if not name.strip():
            raise ValueError(f"prompts must not be empty texts, got {name!r}.")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"prompts must differ from each other, got {repeated[0]!r} more than once.")
    return names
