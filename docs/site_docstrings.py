"""Docstrings as mkdocstrings reads them: an example is a section of code, an arXiv id a link."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
_ARXIV = re.compile(r"arXiv[: ](\d{4}\.\d{5})")


class Docstrings(Extension):
    """Runs on everything that has a docstring."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Names the section as griffe knows it, and links papers."""
        if obj.docstring is not None:
            text = _EXAMPLE.sub("Examples:", obj.docstring.value)
            obj.docstring.value = _ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", text)
