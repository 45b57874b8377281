"""Vision transformers of every family behind one view, and what their attention did in one forward pass."""

from captum_vit.adapters.attention import AttentionLike, AttentionRecord, LazyMap, TokenRecord, propagate, start_row
from captum_vit.adapters.base import Adapter
from captum_vit.adapters.capture import Trace, stream_blocks, stream_tails, trace, trace_last, trace_readout
from captum_vit.adapters.examine import Examination, examine
from captum_vit.adapters.parts import BlockParts, block_parts
from captum_vit.adapters.prompts import PromptClassifier
from captum_vit.adapters.registry import adapt, find_adapter, known_families, register_adapter
from captum_vit.adapters.sharing import SharedPasses, shared_passes
from captum_vit.adapters.tokens import trace_tokens

__all__ = [
    "Adapter",
    "AttentionLike",
    "AttentionRecord",
    "BlockParts",
    "Examination",
    "LazyMap",
    "PromptClassifier",
    "SharedPasses",
    "TokenRecord",
    "Trace",
    "adapt",
    "block_parts",
    "examine",
    "find_adapter",
    "known_families",
    "propagate",
    "register_adapter",
    "shared_passes",
    "start_row",
    "stream_blocks",
    "stream_tails",
    "trace",
    "trace_last",
    "trace_readout",
    "trace_tokens",
]
