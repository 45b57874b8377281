"""Tiny models as their libraries write them to disk, for the tests of model loading and of the command line."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import timm
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = ["<pad>", "<unk>", "a", "photo", "of", "cat", "dog", "tree", "<eos>"]

OPEN_CLIP_CONFIG = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
}


def write_timm_checkpoint(path: Path, num_classes: int = 5) -> torch.nn.Module:
    """``test_vit`` (6 blocks of width 64, 160×160 pixels) with a head of its own; returns the model."""
    torch.manual_seed(1)
    model = timm.create_model("test_vit", num_classes=num_classes).eval()
    if path.suffix == ".safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)
    return model


def write_hf_classifier(folder: Path) -> torch.nn.Module:
    """A ViT of 2 blocks with three named classes; returns the model."""
    torch.manual_seed(2)
    config = transformers.ViTConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        id2label={0: "cat", 1: "dog", 2: "tree, oak"},
    )
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return model


def write_hf_clip(folder: Path) -> torch.nn.Module:
    """A CLIP of 2 blocks with a tokenizer of nine words; returns the model."""
    torch.manual_seed(3)
    config = transformers.CLIPConfig(
        text_config={
            "vocab_size": len(WORDS),
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 16,
            "eos_token_id": 8,
            "bos_token_id": 2,
            "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        projection_dim=16,
    )
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 8)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>", model_max_length=16
    ).save_pretrained(folder)
    transformers.CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}).save_pretrained(
        folder
    )
    return model


def write_open_clip(folder: Path) -> torch.nn.Module:
    """An OpenCLIP model of 2 blocks with a preprocessing of its own; returns the model."""
    torch.manual_seed(4)
    (folder / "open_clip_config.json").write_text(json.dumps(OPEN_CLIP_CONFIG))
    model = open_clip.CLIP(**OPEN_CLIP_CONFIG["model_cfg"]).eval()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return model
