"""Notebooks as pages of the site, with the outputs that are committed in them, and to be downloaded."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_LINK = re.compile(r"(\]\([^):\s]+)\.ipynb([#)])")

_DOWNLOAD = '*A notebook: <a href="{name}" download>{name}</a>. It needs no network.*'


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each notebook, and its pictures beside it."""
    for each in [each for each in files if each.src_uri.endswith(".ipynb")]:
        path = PurePosixPath(each.src_uri)
        pictures: dict[str, bytes] = {}
        text = "\n\n".join(_parts(json.loads(each.content_string), path.stem, pictures))
        files.append(File.generated(config, str(path.with_suffix(".md")), content=text))
        for name, picture in pictures.items():
            files.append(File.generated(config, str(path.with_name(name)), content=picture))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links to notebooks into links to their pages."""
    del page, config, files
    return _LINK.sub(r"\1.md\2", markdown)


def _parts(notebook: dict[str, Any], stem: str, pictures: dict[str, bytes]) -> Iterator[str]:
    heading = stem
    for number, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            heading = (_HEADING.findall(source) or [heading])[-1]
            yield source
        else:
            yield f"```python\n{source}\n```"
            yield from _outputs(cell["outputs"], f"{stem}-{number}.png", heading, pictures)
        if number == 0:
            yield _DOWNLOAD.format(name=f"{stem}.ipynb")


def _outputs(outputs: list[dict[str, Any]], name: str, heading: str, pictures: dict[str, bytes]) -> Iterator[str]:
    for each in outputs:
        if "text" in each:
            yield f"```text\n{''.join(each['text']).rstrip()}\n```"
        else:
            pictures[name] = b64decode("".join(each["data"]["image/png"]))
            yield f"![What the code above draws: {heading}]({name})"
