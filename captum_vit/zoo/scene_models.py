"""Three small models that come with the package, trained on `captum_vit.data.Scenes`: each a model of its library.

The weights are stored in half precision, and of the vocabulary's embedding table only the rows of words that occurred
in training; the others are zero.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "CONTEXT_LENGTH",
    "IMAGE_SIZE",
    "PATCH_SIZE",
    "SCENE_MODELS",
    "check_shipped",
    "compress",
    "expand",
    "resized",
    "weight_file",
]

IMAGE_SIZE = 96
PATCH_SIZE = 8
CONTEXT_LENGTH = 32
"""Tokens of a text, start and end included."""

_WIDTH, _DEPTH, _HEADS = 128, 6, 4
_EMBEDDING = 128
_TRUNK = {"img_size": IMAGE_SIZE, "patch_size": PATCH_SIZE, "embed_dim": _WIDTH, "depth": _DEPTH, "num_heads": _HEADS}
_VOCABULARY = 49_408
_TABLE = "token_embedding.weight"


def _vit() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    model: nn.Module = VisionTransformer(num_classes=64, **_TRUNK)
    return model


def _clip(image_size: tuple[int, int] = (IMAGE_SIZE, IMAGE_SIZE)) -> nn.Module:
    import open_clip

    vision = {"image_size": image_size, "patch_size": PATCH_SIZE, "width": _WIDTH, "layers": _DEPTH}
    model: nn.Module = open_clip.CLIP(
        embed_dim=_EMBEDDING,
        vision_cfg=vision | {"head_width": _WIDTH // _HEADS, "no_ln_pre": True},
        text_cfg=_text_config(),
    )
    return model


def _siglip() -> nn.Module:
    import open_clip
    from timm.models.vision_transformer import VisionTransformer

    model = open_clip.CustomTextCLIP(
        embed_dim=_WIDTH,  # the pooler's output is the embedding, as in SigLIP
        vision_cfg={"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "map", "timm_proj": "none"},
        text_cfg=_text_config(),
        init_logit_bias=-10.0,
    )
    model.visual.image_size = (IMAGE_SIZE, IMAGE_SIZE)
    model.visual.trunk = VisionTransformer(num_classes=0, class_token=False, global_pool="map", **_TRUNK)
    built: nn.Module = model
    return built


def _text_config() -> dict[str, Any]:
    return {"context_length": CONTEXT_LENGTH, "width": 128, "heads": 4, "layers": 2, "vocab_size": _VOCABULARY}


SCENE_MODELS: dict[str, Callable[[], nn.Module]] = {"vit": _vit, "clip": _clip, "siglip": _siglip}
"""Builders of the models with random weights, by name."""


def resized(model: nn.Module, size: tuple[int, int]) -> nn.Module:
    """The model for images (H, W) of another size, its position embeddings interpolated by its own library.

    Raises:
        ValueError: a size for which OpenCLIP would use position embeddings in the wrong places.
    """
    if size == (IMAGE_SIZE, IMAGE_SIZE):
        return model
    trunk: Any = model if hasattr(model, "set_input_size") else getattr(model.visual, "trunk", None)
    if trunk is not None:
        trunk.set_input_size(img_size=size)
        if trunk is not model:
            tower: Any = model.visual
            tower.image_size = size
        return model
    from open_clip.model import resize_pos_embed

    if size[0] * size[1] == IMAGE_SIZE * IMAGE_SIZE:  # it interpolates only when the number of patches changes
        raise ValueError(
            f"image_size must not have as many patches as {IMAGE_SIZE}×{IMAGE_SIZE} in another arrangement, for which "
            f"OpenCLIP does not interpolate position embeddings, got {size[0]}×{size[1]}."
        )
    state, other = model.state_dict(), _clip(size)
    resize_pos_embed(state, other)
    other.load_state_dict(state)
    return other


def weight_file(name: str) -> Path:
    """Where the weights of a model lie."""
    return Path(__file__).parent / "weights" / f"scenes-{name}.safetensors"


def check_shipped(path: Path) -> None:
    """Compares a shipped file with the SHA-256 on the card beside it.

    Raises:
        ValueError: it is not the file that was shipped.
    """
    card, found = path.with_suffix(".json"), hashlib.sha256(path.read_bytes()).hexdigest()
    if f'"sha256": "{found}"'.encode() not in card.read_bytes():
        raise ValueError(
            f"{path} is damaged: its SHA-256 must be the one in {card.name}, got {found}. Install captum-vit again: "
            "pip install --force-reinstall --no-deps captum-vit."
        )


def compress(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in half precision, with the rows of the embedding table that are not zero and their numbers."""
    small = {name: weight.half() if weight.is_floating_point() else weight for name, weight in state.items()}
    for name in [each for each in small if each.endswith(_TABLE)]:
        table = small.pop(name)
        indices = table.any(dim=1).nonzero()[:, 0]
        small |= {f"{name}.rows": table[indices], f"{name}.indices": indices.int()}
    return {name: weight.contiguous() for name, weight in small.items()}


def expand(small: dict[str, Tensor], path: str | Path = "in memory") -> dict[str, Tensor]:
    """The state dict that was given to `compress`, to half precision's rounding, in float32.

    Args:
        small: what `compress` gave.
        path: the file it was read from, for messages.

    Raises:
        ValueError: rows of a table without their numbers in it.
    """
    state = {name: weight.float() if weight.is_floating_point() else weight for name, weight in small.items()}
    for name in [each.removesuffix(".rows") for each in state if each.endswith(f"{_TABLE}.rows")]:
        rows, indices = state.pop(f"{name}.rows"), state.pop(f"{name}.indices", None)
        if indices is None or not _number_rows(indices, rows):
            got = "none" if indices is None else f"{tuple(indices.shape)} {indices.dtype}"
            raise ValueError(
                f"checkpoint {path}: {name} must come as rows (N, width) and N different whole numbers below "
                f"{_VOCABULARY}, got rows {tuple(rows.shape)} and numbers {got}."
            )
        state[name] = torch.zeros(_VOCABULARY, rows.shape[1]).index_copy(0, indices.long(), rows)
    return state


def _number_rows(indices: Tensor, rows: Tensor) -> bool:
    """Whether these are the numbers of different rows of the table."""
    return (
        indices.dtype in (torch.int32, torch.int64)
        and indices.ndim == 1
        and rows.ndim == 2
        and 0 < len(indices) == len(rows) == len(indices.unique())
        and 0 <= int(indices.min()) <= int(indices.max()) < _VOCABULARY
    )
