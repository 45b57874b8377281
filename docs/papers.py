"""The papers of docs/references.bib, and what of the package comes from each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parent

_ENTRY = re.compile(r"^@article\{(\w+),\n(.*?)^\}$", re.DOTALL | re.MULTILINE)
_FIELD = re.compile(r"^  (\w+) = \{(.*)\},?$", re.MULTILINE)
_NAMED = re.compile(r"arXiv[: ](\d{4}\.\d{4,5})|doi[: ](10\.[\w./]*\w)|openreview:([\w-]+)")
_SHOWN = re.compile(r"^(?:<!-- api:|:::) captum_vit\.([\w.]+)", re.MULTILINE)
_LINKED = re.compile(r"(?:arxiv\.org/abs/|openreview\.net/forum\?id=|doi\.org/)([\w./-]*\w)")


@dataclass(frozen=True)
class Paper:
    """One entry.

    Attributes:
        key: in the bib file.
        id: arXiv's number, the DOI, or OpenReview's name.
        fields: of the entry, by name.
    """

    key: str
    id: str
    fields: Mapping[str, str]

    @property
    def url(self) -> str:
        """Where it can be read."""
        if "eprint" in self.fields:
            return f"https://arxiv.org/abs/{self.id}"
        return self.fields.get("url") or f"https://doi.org/{self.id}"

    @property
    def citation(self) -> str:
        """Authors, year, title and venue."""
        authors = self.fields["author"].split(" and ")
        names = " and ".join(authors) if len(authors) < 3 else f"{', '.join(authors[:-1])} and {authors[-1]}"
        venue = f" {self.fields['journal']}." if "journal" in self.fields else ""
        return f"{names} ({self.fields['year']}). [{self.fields['title']}]({self.url}).{venue}"


def papers() -> dict[str, Paper]:
    """All papers, by `Paper.id`."""
    found = {}
    for key, body in _ENTRY.findall((DOCS / "references.bib").read_text(encoding="utf-8")):
        fields = dict(_FIELD.findall(body))
        name = fields.get("eprint") or fields.get("doi") or fields["url"].rpartition("=")[2]
        found[name] = Paper(key, name, fields)
    return found


def named(text: str) -> set[str]:
    """The papers that a docstring, a class attribute or a page names, by `Paper.id`."""
    return {next(filter(None, each)) for each in _NAMED.findall(text)} | set(_LINKED.findall(text))


def named_on(page: Path) -> set[str]:
    """The papers that a page, or a docstring that the site shows there, names."""
    text = page.read_text(encoding="utf-8")
    package = DOCS.parent / "captum_vit"
    shown = [package.joinpath(*each.split(".")) for each in _SHOWN.findall(text)]
    sources = [source for each in shown for source in (each.with_suffix(".py"), *each.glob("*.py")) if source.exists()]
    return named(text).union(*(named(each.read_text(encoding="utf-8")) for each in sources))
