"""How much the words of a prompt count."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from captum_vit.adapters.words import PromptWord

__all__ = ["TextAttribution"]


@dataclass(frozen=True, eq=False)
class TextAttribution:
    """How much each word of a prompt counts, and each of its tokens.

    Attributes:
        prompt: the text that was explained.
        pieces: its words in their order, with their tokens, without marks and padding.
        relevance: (B, n), one number for each image and token.
    """

    prompt: str
    pieces: tuple[PromptWord, ...]
    relevance: Tensor

    @property
    def tokens(self) -> tuple[str, ...]:
        """The texts of the n tokens."""
        return tuple(piece for word in self.pieces for piece in word.pieces)

    @property
    def words(self) -> tuple[str, ...]:
        """The W words, as the tokenizer reads them: CLIP's puts them in lower case and sets punctuation apart."""
        return tuple(word.text for word in self.pieces)

    @property
    def word_relevance(self) -> Tensor:
        """(B, W): of each word the sum over its tokens."""
        sizes = [len(word.tokens) for word in self.pieces]
        return torch.stack([part.sum(1) for part in self.relevance.split(sizes, 1)], 1)

    def by_word(self) -> list[list[tuple[str, float]]]:
        """For each image the words in their order, each with its relevance."""
        return [list(zip(self.words, row, strict=True)) for row in self.word_relevance.tolist()]
