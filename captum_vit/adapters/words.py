"""The words of a prompt: which tokens a tokenizer has made of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["PromptWord", "marks", "prompt_words"]


@dataclass(frozen=True)
class PromptWord:
    """A word of a prompt: what stands between spaces once the tokenizer has cleaned the text.

    Attributes:
        text: the word as the tokenizer reads it, which may be in lower case.
        tokens: the places of its tokens in the sequence.
        pieces: the texts of these tokens.
    """

    text: str
    tokens: tuple[int, ...]
    pieces: tuple[str, ...]


def prompt_words(ids: Sequence[int], tokenizer: Any, begin: set[int | None], end: set[int | None]) -> list[PromptWord]:
    """The words between the mark of the beginning, if there is one, and the first mark of the end.

    A token begins a word where the decoded text has a space before it; marks like CLIP's ``</w>`` and SigLIP's ``▁``
    are left to the tokenizer.

    Args:
        ids: token ids of one text.
        tokenizer: decodes a list of ids.
        begin: ids that stand before a text.
        end: ids that stand after it, and padding.
    """
    first = int(ids[0] in begin)
    last = next((place for place in range(first, len(ids)) if ids[place] in end), len(ids))
    words: list[list[int]] = []
    for place in range(first, last):
        before, until = tokenizer.decode(ids[first:place]), tokenizer.decode(ids[first : place + 1])
        apart = before.endswith(" ") or until[len(before) :].startswith(" ")
        if not words or (apart and _text(tokenizer, ids, words[-1])):
            words.append([])
        words[-1].append(place)
    return [
        PromptWord(
            text=_text(tokenizer, ids, places),
            tokens=tuple(places),
            pieces=tuple(_text(tokenizer, ids, [place]) for place in places),
        )
        for places in words
    ]


def _text(tokenizer: Any, ids: Sequence[int], places: Sequence[int]) -> str:
    text: str = tokenizer.decode([ids[place] for place in places])
    return text.strip(" ▁")


def marks(tokenizer: Any) -> tuple[set[int | None], set[int | None]]:
    """What a Hugging Face tokenizer may put before a text, and after it."""
    return (
        {tokenizer.bos_token_id, tokenizer.cls_token_id},
        {tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id},
    )
