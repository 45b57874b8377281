"""Tiny two-tower models with random weights, and tokenizers of their kind that need no download.

Every model is in evaluation mode and float64, has two blocks, reads images of 3×32×32 and texts of at most 32 tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import open_clip
import timm
from models import randomise
from open_clip.coca_model import CoCa
from open_clip.tokenizer import HFTokenizer, bytes_to_unicode
from timm.models.vision_transformer import VisionTransformer
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import Unigram
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)

EMBEDDING = 16
CONTEXT = 32
DEPTH = 2


@dataclass(frozen=True)
class TwoTowers:
    """A model and its tokenizer.

    Attributes:
        library_logits: logits (B, K) of images and texts as the model's own library computes them.
        special_tokens: how many the tokenizer adds to each text.
    """

    model: nn.Module
    tokenizer: Any
    library_logits: Callable[[Tensor, Sequence[str]], Tensor]
    special_tokens: int


_WORDS = ["a", "photo", "of", "cat", "dog", "remote", "control", "the"]
_SIGLIP_VOCABULARY = ["<pad>", "</s>", "<unk>", *(f"▁{word}" for word in _WORDS), *"▁abcdefghijklmnopqrstuvwxyz.,"]
_OPEN_CLIP_TEXT = {"context_length": CONTEXT, "width": 32, "heads": 2, "layers": 2}
_OPEN_CLIP_VISION = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": DEPTH}
_HF_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": CONTEXT,
}
_HF_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}


def build(name: str, folder: Path) -> TwoTowers:
    """One of `NAMES`; the same weights each time. Files of its tokenizer are written to ``folder``."""
    return _BUILDERS[name](folder)


def _open_clip_clip(folder: Path) -> TwoTowers:
    return _open_clip(open_clip.CLIP(EMBEDDING, _OPEN_CLIP_VISION, _OPEN_CLIP_TEXT), _byte_pairs())


def _open_clip_coca(folder: Path) -> TwoTowers:
    coca = CoCa(
        EMBEDDING,
        multimodal_cfg=_OPEN_CLIP_TEXT | {"attn_pooler_heads": 2},
        text_cfg=_OPEN_CLIP_TEXT | {"embed_cls": True, "output_tokens": True},
        vision_cfg=_OPEN_CLIP_VISION | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    )
    return _open_clip(coca, _byte_pairs())


def _open_clip_siglip(folder: Path) -> TwoTowers:
    """A timm trunk with an attention pooler, a text tower without causal mask, and a logit bias."""
    trunk = VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=EMBEDDING,
        depth=DEPTH,
        num_heads=2,
        class_token=False,
        global_pool="map",
        num_classes=0,
    )
    text = _OPEN_CLIP_TEXT | {
        "vocab_size": len(_SIGLIP_VOCABULARY),
        "no_causal_mask": True,
        "pool_type": "last",
        "proj_bias": True,
    }
    vision = {"image_size": 32, "timm_model_name": "tiny", "timm_pool": "map", "timm_proj": "none"}
    with mock.patch.object(timm, "create_model", return_value=trunk):
        siglip = open_clip.CustomTextCLIP(EMBEDDING, vision, text, init_logit_scale=2.0, init_logit_bias=-10.5)
    return _open_clip(siglip, _wrapped_siglip_tokenizer(folder), special_tokens=1)


def _huggingface_clip(folder: Path) -> TwoTowers:
    size = len(_clip_vocabulary())
    text = _HF_TEXT | {"vocab_size": size, "bos_token_id": size - 2, "eos_token_id": size - 1}
    config = CLIPConfig(text_config=text, vision_config=_HF_VISION, projection_dim=EMBEDDING)
    return _huggingface(CLIPModel(config), clip_tokenizer(folder), {"padding": True})


def _huggingface_siglip(folder: Path) -> TwoTowers:
    text = _HF_TEXT | {"vocab_size": len(_SIGLIP_VOCABULARY), "pad_token_id": 1, "bos_token_id": 1, "eos_token_id": 1}
    siglip = SiglipModel(SiglipConfig(text_config=text, vision_config=_HF_VISION))
    nn.init.constant_(siglip.logit_scale, 2.0)
    nn.init.constant_(siglip.logit_bias, -10.5)
    padding = {"padding": "max_length", "max_length": CONTEXT}
    return _huggingface(siglip, siglip_tokenizer(folder), padding, special_tokens=1)


_BUILDERS = {
    "OpenCLIP CLIP": _open_clip_clip,
    "OpenCLIP CoCa": _open_clip_coca,
    "OpenCLIP SigLIP": _open_clip_siglip,
    "Hugging Face CLIP": _huggingface_clip,
    "Hugging Face SigLIP": _huggingface_siglip,
}
NAMES = list(_BUILDERS)


def _open_clip(model: nn.Module, tokenizer: Callable[..., Tensor], special_tokens: int = 2) -> TwoTowers:
    randomise(model).eval().double()

    def logits(images: Tensor, texts: Sequence[str]) -> Tensor:
        tokens = tokenizer(list(texts))
        if isinstance(model, CoCa):  # it has no function for its logits; its embeddings are of unit length
            return (model.logit_scale.exp() * model.encode_image(images) @ model.encode_text(tokens).T).detach()
        return model.get_logits(images, tokens)[0].detach()

    return TwoTowers(model, tokenizer, logits, special_tokens)


def _huggingface(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, padding: dict[str, Any], special_tokens: int = 2
) -> TwoTowers:
    randomise(model).eval().double()

    def logits(images: Tensor, texts: Sequence[str]) -> Tensor:
        tokens = tokenizer(list(texts), return_tensors="pt", **padding)
        return model(pixel_values=images, **tokens).logits_per_image.detach()

    return TwoTowers(model, tokenizer, logits, special_tokens)


def _byte_pairs() -> Callable[..., Tensor]:
    """The tokenizer that comes with OpenCLIP."""
    return open_clip.get_tokenizer("ViT-B-32", context_length=CONTEXT)


def _wrapped_siglip_tokenizer(folder: Path) -> HFTokenizer:
    """OpenCLIP's own wrapper around a Hugging Face tokenizer."""
    siglip_tokenizer(folder).save_pretrained(folder)
    return HFTokenizer(str(folder), context_length=CONTEXT, clean="canonicalize")


def clip_tokenizer(folder: Path, **special_tokens: str) -> CLIPTokenizer:
    """CLIP's own tokenizer class, over ``vocab.json`` and ``merges.txt`` with two merges."""
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(_clip_vocabulary())}))
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    return CLIPTokenizer.from_pretrained(folder, **special_tokens)


def siglip_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """A unigram tokenizer as SigLIP's: it ends each text with ``</s>`` and gives no attention mask."""
    scores = [(token, -float(1 + index / 100)) for index, token in enumerate(_SIGLIP_VOCABULARY)]
    tokenizer = Tokenizer(Unigram(scores, unk_id=2))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    path = folder / "siglip.json"
    tokenizer.save(str(path))
    return PreTrainedTokenizerFast(
        tokenizer_file=str(path),
        pad_token="</s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_input_names=["input_ids"],
    )


def _clip_vocabulary() -> list[str]:
    letters = list(bytes_to_unicode().values())
    return [*letters, *(f"{each}</w>" for each in letters), "ca", "cat</w>", "<|startoftext|>", "<|endoftext|>"]
