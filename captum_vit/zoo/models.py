"""Models by name: ``library:identifier``."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from PIL import Image
from torch import Tensor, nn

from captum_vit.zoo.weights import WeightsUnavailableError

__all__ = ["LIBRARIES", "LoadedModel", "Outputs", "Request", "Weights", "load_model"]

LIBRARIES = {
    "timm": "captum_vit.zoo.timm",
    "open_clip": "captum_vit.zoo.open_clip",
    "hf": "captum_vit.zoo.huggingface",
    "torchvision": "captum_vit.zoo.torchvision",
    "scenes": "captum_vit.zoo.scenes",
}
"""The module that loads the models of each library, by the prefix of their names."""

Weights: TypeAlias = Literal["pretrained", "untrained", "auto"]

Outputs: TypeAlias = Literal["classes", "features", "embedding"]
"""What the model's outputs are: classes; features, when it has no head; an image embedding, to compare with texts."""


@dataclass(frozen=True)
class Request:
    """What a library's loader is asked for.

    Attributes:
        pretrained: whether published weights are wanted.
        checkpoint: file of weights that replaces them.
        image_size: (H, W), or None for the model's own.
        seed: of random weights.
    """

    pretrained: bool
    checkpoint: Path | None
    image_size: tuple[int, int] | None
    seed: int


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model that is ready to be explained.

    Attributes:
        name: the name it was asked for.
        model: in evaluation mode, float32, on the CPU.
        preprocess: the model's own preprocessing, from an image to a tensor (C, H, W).
        mean: what that preprocessing subtracts, per channel.
        std: what it then divides by, per channel.
        image_size: (H, W) of the preprocessed image.
        outputs: what the model's outputs are.
        pretrained: False for random weights, whose maps mean nothing.
        activation: what makes probabilities of the outputs: "softmax" over classes that exclude each other, and over
            the texts that one image is compared with; "sigmoid" where the classifier was trained to say which classes
            are present.
        class_names: the classes in the order of the outputs, where they are known; never for random weights.
        load_tokenizer: gives the tokenizer of a model that compares images with texts; None for others.
        unknown_words: gives the words of a text that the model can't have learned anything about, where that is known.
        missing_weights: why there are no pretrained weights, where they were wanted.
    """

    name: str
    model: nn.Module
    preprocess: Callable[[Image.Image], Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: tuple[int, int]
    outputs: Outputs
    pretrained: bool
    activation: Literal["softmax", "sigmoid"] = "softmax"
    class_names: tuple[str, ...] | None = None
    load_tokenizer: Callable[[], Any] | None = None
    unknown_words: Callable[[str], list[str]] | None = None
    missing_weights: str | None = None

    def __repr__(self) -> str:
        height, width = self.image_size
        weights = "" if self.pretrained else ", UNTRAINED WEIGHTS"
        names = "" if self.class_names is None else f" {reprlib.repr(list(self.class_names))}"
        model = type(self.model).__name__
        return f"LoadedModel({self.name}: {model}, images {height}×{width}, {self.outputs}{names}{weights})"

    def denormalise(self, image: Tensor) -> Tensor:
        """Preprocessed images (…, C, H, W) as colours in [0, 1]: what the model was shown, for display."""
        mean, std = (torch.tensor(each, dtype=image.dtype)[:, None, None] for each in (self.mean, self.std))
        return (image.cpu() * std + mean).clamp(0, 1)


def load_model(
    name: str,
    *,
    weights: Weights = "pretrained",
    checkpoint: str | Path | None = None,
    image_size: int | tuple[int, int] | None = None,
    seed: int = 0,
) -> LoadedModel:
    """Loads a vision transformer by name, with its own preprocessing.

    Args:
        name: ``timm:vit_base_patch16_224`` (also with ``.tag``, or ``timm:hf-hub:org/name``);
            ``open_clip:ViT-B-16/laion2b_s34b_b88k``, where the last part is a tag or a file of weights (also
            ``open_clip:FOLDER`` with ``open_clip_config.json``, or ``open_clip:hf-hub:org/name``); ``hf:org/name`` or
            ``hf:FOLDER``; ``torchvision:vit_b_16`` (also with ``/IMAGENET1K_SWAG_E2E_V1``); ``scenes:vit``,
            ``scenes:clip`` and ``scenes:siglip``, which come with the package and need no network.
        weights: "pretrained" raises where they can't be had; "auto" then takes random ones and says so in the result;
            "untrained" takes random ones. Drawing them leaves the global random state alone. torchvision's head, which
            is made of zeros and would make every map blank, is drawn as the other libraries draw theirs.
        checkpoint: a ``.safetensors`` file, or one of ``torch.save`` that holds weights only. It must fit whole. The
            number of classes is read from it.
        image_size: side, or (H, W), when it is not the model's own; position embeddings are interpolated.
        seed: of random weights.

    Raises:
        ValueError: a name, tag or size that does not exist, with the nearest ones; a checkpoint that does not fit.
        FileNotFoundError: no such checkpoint.
        WeightsUnavailableError: no network and no cached copy, or no published weights.
    """
    library, _, identifier = name.partition(":")
    if library not in LIBRARIES or not (identifier or name == "scenes:"):  # the scenes' loader lists its three
        known = ", ".join(f"{each}:NAME" for each in LIBRARIES)
        raise ValueError(f"model must be one of {known}, got {name!r}.")
    if weights not in ("pretrained", "untrained", "auto"):
        raise ValueError(f"weights must be 'pretrained', 'untrained' or 'auto', got {weights!r}.")
    if checkpoint is not None and weights == "untrained":
        raise ValueError(f"weights must not be 'untrained' when there is a checkpoint, got {str(checkpoint)!r}.")
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ValueError(f"image_size must be a positive side or (height, width), got {image_size}.")
    load = import_module(LIBRARIES[library]).load
    request = Request(weights != "untrained", Path(checkpoint) if checkpoint is not None else None, size, seed)
    try:
        loaded: LoadedModel = load(identifier, request)
    except WeightsUnavailableError as error:
        if weights != "auto":
            raise
        loaded = replace(load(identifier, replace(request, pretrained=False)), missing_weights=error.cause)
    loaded.model.eval()
    return loaded
