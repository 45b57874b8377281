"""Runs the notebooks of docs/tutorials/ and keeps their outputs, pictures small: run ``python docs/tutorials.py``."""

from __future__ import annotations

import argparse
import base64
import os
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image
from traitlets.config import Config

FOLDER = Path(__file__).parent / "tutorials"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

_SECONDS = 300
_WARNINGS = "ignore:IProgress not found"
"""What readers see by default, but that a progress bar has no widget."""

_NOWHERE = "http://127.0.0.1:9"
"""A proxy that does not exist: what a cell tries to download fails at once."""


def executed(path: Path, folder: Path) -> NotebookNode:
    """The notebook with the outputs of a run of its own.

    Args:
        path: of the notebook, which stays as it is.
        folder: the working directory of its cells.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell that raises.
    """
    notebook = nbformat.read(path, as_version=4)
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}  # pictures go into cells
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": _WARNINGS}
    environment |= dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), _NOWHERE)
    environment |= {"no_proxy": "", "NO_PROXY": ""}
    with TemporaryDirectory() as sockets:  # files, since the ports of notebooks that start at once may collide
        connection = {"transport": "ipc", "ip": f"{sockets}/kernel", "connection_file": f"{sockets}/kernel.json"}
        config = Config(ConnectionFileMixin=connection)
        resources = {"metadata": {"path": str(folder)}}
        client = NotebookClient(
            notebook, timeout=_SECONDS, kernel_name="python3", coalesce_streams=True, resources=resources, config=config
        )
        ran: NotebookNode = client.execute(env=environment)
    return ran


def lasting(notebook: NotebookNode) -> NotebookNode:
    """The notebook without what differs from run to run, and with pictures in a third of the bytes."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = NotebookNode(kernelspec=NotebookNode(kernel), language_info=NotebookNode(name="python"))
    for cell in notebook.cells:
        cell.metadata = NotebookNode()
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                output.metadata, output.data = NotebookNode(), NotebookNode({"image/png": _small(data["image/png"])})
    return notebook


def _small(picture: str) -> str:
    """A picture in base64, with 256 colours."""
    file = BytesIO()
    with Image.open(BytesIO(base64.b64decode(picture))) as image:
        few = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1)
        few.save(file, format="png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def main() -> None:
    """Runs all notebooks, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    names: Any = [each.stem for each in NOTEBOOKS]
    parser.add_argument("names", nargs="*", choices=[*names, []], default=[])
    options = parser.parse_args()
    for path in NOTEBOOKS:
        if path.stem in (options.names or names):
            with TemporaryDirectory() as folder:
                nbformat.write(lasting(executed(path, Path(folder))), path)


if __name__ == "__main__":
    main()
