"""What mkdocs does to these pages beyond its plugins: their API, their formulas, and files from beside docs/."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = [ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "benchmarks" / "results").glob("*.csv"))]
"""Files from beside docs/ that become part of the site, at the same place as seen from its root."""

_log = logging.getLogger("mkdocs.hooks.site")  # a warning makes a strict build fail

_API = re.compile(r"<!-- api: (captum_vit\.[\w.]+) -->\n?")
_FORMULA = re.compile(r'<(?:span|div) class="arithmatex">\s*\\([(\[])(.*?)\\[)\]]\s*</(?:span|div)>', re.DOTALL)
_OUT_OF_DOCS = re.compile(r"\]\(\.\./((?:\.\./)*(?:CHANGELOG\.md|CONTRIBUTING\.md|benchmarks/))")
_TABLE = re.compile(r"(\[benchmarks/results/([\w.]+)\]\((?:\.\./)*benchmarks/results/)\)")
_INTO_DOCS = re.compile(r"\]\(docs/")

_SAID_OTHERWISE = {r"\arg\m": r"\operatorname{arg}\m", r"\langle": "⟨", r"\rangle": "⟩"}
"""Commands that the converter to MathML does not know, by others that it does."""
_COMMAND = re.compile(r">(\\\w+)<")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Takes the files from beside docs/ into the site."""
    for each in OUTSIDE:
        files.append(File.generated(config, each.relative_to(ROOT).as_posix(), abs_src_path=str(each)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links to files beside docs/ into the site, and ends a page with the API that its comments name."""
    del page, config, files
    modules = _API.findall(markdown)
    markdown = _INTO_DOCS.sub("](", _TABLE.sub(r"\1\2)", _OUT_OF_DOCS.sub(r"](\1", _API.sub("", markdown))))
    if not modules:
        return markdown
    options = "    options:\n      show_root_heading: false\n      show_root_toc_entry: false\n"
    return "\n\n".join([markdown, "## API", *(f"::: {module}\n{options}" for module in modules)])


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Formulas as MathML, which browsers show by themselves."""
    del page, config, files
    return _FORMULA.sub(_mathml, html)


def on_post_build(config: MkDocsConfig) -> None:
    """Every public name has its place in the site."""
    site = "".join(each.read_text(encoding="utf-8") for each in Path(config.site_dir).rglob("*.html"))
    anchors = {each.rpartition(".")[2] for each in re.findall(r'id="(captum_vit\.[\w.]+)"', site)}
    for package, name in _public_names():
        if name not in anchors:
            _log.warning("%s.%s is public, and no page shows it.", package, name)


def _public_names() -> Iterator[tuple[str, str]]:
    for package in ("attr", "adapters", "metrics", "metrics/functional", "data", "evaluation", "viz", "zoo"):
        tree = ast.parse((ROOT / "captum_vit" / package / "__init__.py").read_text(encoding="utf-8"))
        for each in tree.body:
            if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "__all__":
                yield from ((f"captum_vit.{package.replace('/', '.')}", name) for name in ast.literal_eval(each.value))


def _mathml(found: re.Match[str]) -> str:
    inline, formula = found[1] == "(", unescape(found[2]).strip()
    for command, known in _SAID_OTHERWISE.items():
        formula = formula.replace(command, known)
    made = convert(formula, display="inline" if inline else "block")
    if unknown := _COMMAND.findall(made):
        _log.warning("formula %r has commands that are not understood: %s.", formula, ", ".join(unknown))
    return made if inline else f'<div class="formula">{made}</div>'
