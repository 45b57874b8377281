"""What methods need of a model, beside an adapter that knows it."""

from __future__ import annotations

from enum import Enum

__all__ = ["Need"]


class Need(Enum):
    """Something that not every supported model has; its value is how the documentation calls it."""

    FUSED_ATTENTION = "fused attention"
    SHARES = "no maximum as pooling"
    FIRST_NORM = "a norm before the attention"
    BOTH_NORMS = "norms before attention and MLP"
    PRE_NORM = "pre-norm blocks"
    CLASS_POOLING = "one class token, a LayerNorm and a linear head"
    CHAIN = "nothing between blocks"
    RULES = "a rule for each function"
    OUTPUTS = "two outputs or more"
    PROMPTS = "prompts"
