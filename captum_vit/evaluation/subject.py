"""The model that is evaluated: how it takes samples, and what its outputs are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from captum_vit.adapters import Adapter, PromptClassifier, adapt
from captum_vit.data import Geometry, Sample
from captum_vit.metrics.functional import probabilities
from captum_vit.metrics.functional.probe import Score
from captum_vit.zoo import LoadedModel

__all__ = ["Precision", "Subject", "subject_of", "told_apart"]

Precision = Literal["float32", "bfloat16", "float16"]
"""Of a model's passes."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model with what evaluation has to know about it.

    Attributes:
        name: of the model.
        model: images (B, C, H, W) → logits (B, K); an `Adapter` where methods for transformers can explain it.
        geometry: brings samples to the size that the model takes.
        mean: per channel, subtracted from colours in [0, 1].
        std: per channel, what is then divided by.
        activation: what makes probabilities of the logits.
        device: where the model is.
        class_names: of a classifier's outputs, where they are known.
    """

    name: str
    model: nn.Module
    geometry: Geometry
    mean: tuple[float, ...]
    std: tuple[float, ...]
    activation: Literal["softmax", "sigmoid"]
    device: torch.device
    class_names: tuple[str, ...] | None = None

    def autocast(self, precision: Precision) -> AbstractContextManager[object]:
        """Inside, the model's passes run in that precision.

        Raises:
            ValueError: another precision.
        """
        if precision not in get_args(Precision):
            raise ValueError(f"precision must be 'float32', 'bfloat16' or 'float16', got {precision!r}.")
        return nullcontext() if precision == "float32" else torch.autocast(self.device.type, getattr(torch, precision))

    @property
    def patch(self) -> tuple[int, int]:
        """Pixels (h, w) of a patch.

        Raises:
            ValueError: a model without patches.
        """
        if not isinstance(self.model, Adapter):
            raise ValueError(f"patch must be given in pixels, got 'grid': {self.name} has no patches.")
        rows, columns = self.model.grid(*self.geometry.size)
        return self.geometry.size[0] // rows, self.geometry.size[1] // columns

    @property
    def score(self) -> Score:
        """Images → probabilities (B, K)."""
        return probabilities(self.model, self.activation)

    @property
    def black(self) -> tuple[float, ...]:
        """Per channel, what black is in the units of the images that the model takes."""
        return tuple(-mean / std for mean, std in zip(self.mean, self.std, strict=True))

    def pixels(self, sample: Sample) -> Tensor:
        """(C, H, W) of a sample that is in the model's geometry, on the CPU."""
        colours: Tensor = pil_to_tensor(sample.image).float() / 255
        mean, std = (torch.tensor(each)[:, None, None] for each in (self.mean, self.std))
        return (colours - mean) / std

    @cached_property
    def outputs(self) -> int:
        """Number of the model's outputs."""
        height, width = self.geometry.size
        with torch.no_grad():
            return int(self.model(torch.zeros(1, len(self.mean), height, width, device=self.device)).shape[1])


def subject_of(
    loaded: LoadedModel,
    *,
    prompts: tuple[str, ...] = (),
    template: str = "a photo of {}.",
    embeddings: Tensor | None = None,
    geometry: Geometry | None = None,
    device: str | torch.device = "cpu",
) -> Subject:
    """A loaded model as the subject of an evaluation.

    Args:
        loaded: from `captum_vit.zoo.load_model`.
        prompts: one per class of the dataset, for a model that compares images with texts. Where one stands for several
            classes, such as "crane", the outputs are called "crane (134)" and "crane (517)" by their places.
        template: sentence around each prompt.
        embeddings: ready-made (K, E), of the prompts or of what else they name, such as sounds; the model then needs no
            text tower.
        geometry: how samples come to the model's size; squashed by default, so that all of every image is seen.
        device: where the model goes.

    Raises:
        ValueError: a model that reads texts without prompts; a geometry of another size.
    """
    geometry = geometry or Geometry(loaded.image_size)
    if geometry.size != loaded.image_size:
        raise ValueError(f"geometry must have the size {loaded.image_size} that the model takes, got {geometry.size}.")
    model: nn.Module = loaded.model.to(device)
    if loaded.load_tokenizer is not None or embeddings is not None:
        if not prompts:
            raise ValueError(f"prompts must be given: {loaded.name} compares images with texts, and got none.")
        tokenizer = None if loaded.load_tokenizer is None else loaded.load_tokenizer()
        embeddings = None if embeddings is None else embeddings.to(device)
        names = told_apart(prompts)
        if embeddings is None and names != prompts:
            embeddings = PromptClassifier(model, tokenizer, prompts[:1]).encode(prompts, template)
        model = PromptClassifier(model, tokenizer, names, template=template, embeddings=embeddings)
    else:
        with suppress(TypeError):  # no transformer that the methods know: Captum's own methods still explain it
            model = adapt(model)
    return Subject(
        loaded.name,
        model.eval(),
        geometry,
        loaded.mean,
        loaded.std,
        loaded.activation,
        torch.device(device),
        loaded.class_names,
    )


def told_apart(names: Sequence[str]) -> tuple[str, ...]:
    """The names, with their places where one stands for several classes.

    Example:
        >>> told_apart(["crane", "cat", "crane"])
        ('crane (0)', 'cat', 'crane (2)')
    """
    counts = Counter(names)
    return tuple(name if counts[name] == 1 else f"{name} ({place})" for place, name in enumerate(names))
