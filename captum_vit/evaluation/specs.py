"""Names with options, as the command line and configurations write them: ``insertion(steps=28, patch='grid')``."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Spec", "parse_spec", "split_specs", "unknown"]

_SPEC = re.compile(r"\s*([^()\s]+)\s*(?:\((.*)\))?\s*", re.DOTALL)
_LITERALS = "options must be Python literals, such as insertion(steps=28) or gmar(norm='l2')"


@dataclass(frozen=True)
class Spec:
    """A name with options.

    Attributes:
        name: such as "insertion" or "captum:integrated-gradients".
        options: keyword arguments.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{self.name}({options})" if options else self.name


def parse_spec(text: str) -> Spec:
    """Reads one name with options; options are Python literals.

    Raises:
        ValueError: anything else.

    Example:
        >>> parse_spec("captum:occlusion(strides=(3, 8, 8))")
        Spec(name='captum:occlusion', options={'strides': (3, 8, 8)})
    """
    match = _SPEC.fullmatch(text)
    if match is None:
        raise ValueError(f"must be a name, or a name with options such as insertion(steps=28), got {text!r}.")
    name, arguments = match[1], match[2] or ""
    try:
        call = ast.parse(f"f({arguments})", mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"{_LITERALS}, got {text!r}.") from error
    assert isinstance(call, ast.Call)
    if call.args or any(each.arg is None for each in call.keywords):
        raise ValueError(f"options must be named, such as steps=28 or method='legrad', got {text!r}.")
    try:
        return Spec(name, {str(each.arg): ast.literal_eval(each.value) for each in call.keywords})
    except ValueError as error:
        raise ValueError(f"{_LITERALS}, got {text!r}.") from error


def split_specs(text: str) -> list[str]:
    """Splits at the commas outside of brackets and quotation marks.

    Raises:
        ValueError: a bracket or a quotation mark that is not closed.

    Example:
        >>> split_specs("legrad, gmar(norm='l2', start_block=1)")
        ['legrad', "gmar(norm='l2', start_block=1)"]
    """
    parts, depth, quote = [""], 0, ""
    for each in text:
        if quote:
            quote = "" if each == quote else quote
        elif each in "'\"":
            quote = each
        depth += 0 if quote else (each in "([{") - (each in ")]}")
        if depth < 0:
            break
        if each == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += each
    if depth or quote:
        raise ValueError(f"brackets and quotation marks must be closed, got {text!r}.")
    return [part.strip() for part in parts if part.strip()]


def unknown(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a name that does not exist, with the nearest ones."""
    names = sorted(known)
    near = difflib.get_close_matches(name.lower().replace("_", "-"), names, n=3, cutoff=0.4)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return ValueError(f"no {kind} is called {name!r}.{hint} Known: {', '.join(names)}.")
