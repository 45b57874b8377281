"""Vision transformers of every family behind one view, and what their attention did in one forward pass."""

from captum_vit.adapters.attention import AttentionLike, AttentionRecord, LazyMap
from captum_vit.adapters.base import Adapter
from captum_vit.adapters.capture import Trace, stream_blocks, trace, trace_readout
from captum_vit.adapters.prompts import PromptClassifier
from captum_vit.adapters.registry import adapt, find_adapter, known_families, register_adapter

__all__ = [
    "Adapter",
    "AttentionLike",
    "AttentionRecord",
    "LazyMap",
    "PromptClassifier",
    "Trace",
    "adapt",
    "find_adapter",
    "known_families",
    "register_adapter",
    "stream_blocks",
    "trace",
    "trace_readout",
]
