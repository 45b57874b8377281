"""The tutorials run offline, say what their committed outputs say, and are small enough to be read on a code host."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))

TRAINING = {"debug-a-biased-model"}
"""Whose numbers come from weights that are trained on the spot, and differ between machines; their cells assert."""

LINK = re.compile(r"\]\(([^)\s]+)\)")
NUMBER = re.compile(r"(?<![\w.])[-+−]?\d+(?:\.\d+)?(?:e[-+]\d+)?(?![\w.])")


@pytest.fixture
def tutorials():
    spec = importlib.util.spec_from_file_location("tutorials", ROOT / "docs" / "tutorials.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stem(path):
    return path.stem


def said(notebook):
    """For each cell of code, what it printed and the kinds of everything it showed."""
    return [
        (
            "".join(each.text for each in cell.outputs if each.output_type == "stream"),
            [list(each.get("data", {each.get("name"): None})) for each in cell.outputs],
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def numbers(text):
    return [float(each.replace("−", "-")) for each in NUMBER.findall(text)]


def words(text):
    return NUMBER.sub("0", text).split()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=stem)
def test_runs_and_says_what_it_said(path, tutorials, tmp_path):
    before = nbformat.read(path, as_version=4)
    after = tutorials.lasting(tutorials.executed(path, tmp_path))
    nbformat.validate(after)
    assert [kinds for _, kinds in said(after)] == [kinds for _, kinds in said(before)], "run `make tutorials`"
    assert "stderr" not in {kind for _, kinds in said(after) for each in kinds for kind in each}
    for (now, _), (then, _) in zip(said(after), said(before), strict=True):
        assert words(now) == words(then)
        if path.stem not in TRAINING:  # what is printed has two or three digits
            assert numbers(now) == pytest.approx(numbers(then), abs=0.011, rel=0.02)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=stem)
def test_is_committed_small_and_without_what_differs_from_run_to_run(path, tutorials):
    notebook = nbformat.read(path, as_version=4)
    assert path.stat().st_size < 300_000
    assert sum("image/png" in each for _, kinds in said(notebook) for each in kinds) >= 1
    counts = [each.execution_count for each in notebook.cells if each.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}
    assert [each.metadata for each in notebook.cells if each.metadata] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=stem)
def test_begins_with_a_title_and_ends_with_what_to_read_next(path):
    cells = nbformat.read(path, as_version=4).cells
    assert cells[0].source.startswith("# ")
    assert "## Read next" in cells[-1].source
    assert max(len(each.source.splitlines()) for each in cells) <= 35
    prose = "\n".join(each.source for each in cells if each.cell_type == "markdown")
    links = [each.partition("#")[0] for each in LINK.findall(prose) if "://" not in each]
    assert [each for each in links if not (path.parent / each).exists()] == []


def test_a_cell_that_fails_is_an_error(tutorials, tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("assert 1 == 2")])
    nbformat.write(notebook, tmp_path / "wrong.ipynb")
    with pytest.raises(CellExecutionError, match="assert 1 == 2"):
        tutorials.executed(tmp_path / "wrong.ipynb", tmp_path)


def test_a_cell_can_download_nothing(tutorials, tmp_path):
    code = "from urllib.request import urlopen\nurlopen('https://example.com')"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbformat.write(notebook, tmp_path / "online.ipynb")
    with pytest.raises(CellExecutionError, match="Connection refused"):
        tutorials.executed(tmp_path / "online.ipynb", tmp_path)
