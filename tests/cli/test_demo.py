from __future__ import annotations

import re
import sys
from itertools import product
from pathlib import Path

import pytest
from one_pass import ONE_PASS
from typer.testing import CliRunner

from captum_vit import METHODS
from captum_vit.cli import app
from captum_vit.cli.demonstration.scores import COLUMNS, MODELS, RANDOM, averaged
from captum_vit.cli.demonstration.tables import read_csv, text_table

MODULE = sys.modules["captum_vit.cli.demo"]  # the package's name `demo` is the command
README = Path(__file__).parents[2] / "README.md"


def run(*arguments):
    return CliRunner().invoke(app, ["demo", *map(str, arguments)])


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder, and what the command printed about it."""
    folder = tmp_path_factory.mktemp("demo") / "made" / "here"
    result = run("-o", folder, "--scenes", 1, "--seed", 3)
    assert result.exit_code == 0, result.output
    return folder, result


def test_it_writes_a_figure_numbers_and_a_page_and_says_where(small):
    folder, result = small
    names = ["demo.png", "demo.csv", "index.html"]
    assert sorted(each.name for each in folder.iterdir()) == sorted(names)
    assert result.stdout.splitlines()[-3:] == [f"  {folder / name}" for name in names]
    assert (folder / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert "captum-vit demo --scenes 1 --seed 3" in (folder / "index.html").read_text("utf-8")


def test_every_model_and_method_has_numbers(small):
    rows = read_csv(small[0] / "demo.csv")
    shown = [METHODS[each].get_name() for each in ONE_PASS]
    methods = [*shown, RANDOM]
    assert [(row.model, row.method) for row in rows] == list(product(MODELS, methods))


def test_the_table_on_the_terminal_is_the_mean(small):
    shown = text_table(averaged(read_csv(small[0] / "demo.csv"))).splitlines()
    printed = small[1].stdout.splitlines()[: len(shown)]
    numbers = [[float(each) for each in re.findall(r"\d+\.\d+", line)] for line in shown]
    assert printed[0] == shown[0]
    for line, expected in zip(printed, numbers, strict=True):
        # the file has four digits
        assert [float(each) for each in re.findall(r"\d+\.\d+", line)] == pytest.approx(expected, abs=0.011)


def test_progress_goes_to_stderr(small):
    assert "scenes:siglip" in small[1].stderr
    assert "%|" not in small[1].stdout


def test_a_second_run_gives_the_same_but_for_times(small, tmp_path):
    assert run("-o", tmp_path, "--scenes", 1, "--seed", 3).exit_code == 0
    for first, second in zip(*(read_csv(each / "demo.csv") for each in (small[0], tmp_path)), strict=True):
        for row in (first, second):
            row.values.pop("milliseconds", None)
        assert first == second
    assert (small[0] / "demo.png").read_bytes() == (tmp_path / "demo.png").read_bytes()


def test_the_numbers_in_the_readme_are_those_of_the_command(tmp_path):
    assert run("-o", tmp_path).exit_code == 0
    part = re.search(r"<!-- demo:begin -->\n(.*?)<!-- demo:end -->", README.read_text("utf-8"), re.DOTALL)[1]
    written = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in part.splitlines()[2:-2]]
    found = averaged(read_csv(tmp_path / "demo.csv"))
    assert [cells[0] for cells in written] == [row.method for row in found]
    for cells, row in zip(written, found, strict=True):
        for name, cell in zip(COLUMNS, cells[1:], strict=True):
            if name != "milliseconds":
                assert float(cell) == pytest.approx(row.values[name], abs=1.5 * 10 ** -COLUMNS[name].digits), (
                    f"{row.method}, {name}: make demo"
                )


def test_all_methods_take_part_where_they_can(tmp_path, monkeypatch):
    few = {name: METHODS[name] for name in ("raw-attention", "text-span", "partial-lrp")}
    monkeypatch.setattr("captum_vit.cli.demonstration.scores.METHODS", few)
    result = run("-o", tmp_path, "--scenes", 1, "--seed", 3, "--all")
    assert result.exit_code == 0, result.output
    rows = read_csv(tmp_path / "demo.csv")
    assert [row.method for row in rows if row.model == "scenes:vit"] == [
        *(each.get_name() for each in few.values()),
        RANDOM,
    ]
    assert [row.model for row in rows if row.method == "TextSpan"] == ["scenes:vit", "scenes:clip"]
    means = [row.method for row in averaged(rows)]
    assert means == ["Raw Attention", "TextSpan (2 of 3 models)", "Partial LRP", RANDOM]
    assert "captum-vit demo --scenes 1 --seed 3 --all" in (tmp_path / "index.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [("--scenes", 0, "at least 1"), ("--scenes", -3, "at least 1"), ("--seed", -1, "in [0, 4294967296)")],
)
def test_numbers_out_of_range_are_refused(option, value, rule, tmp_path):
    result = run("-o", tmp_path / "out", option, value)
    assert result.exit_code == 2
    assert f"{option}: must be {rule}, got {value}." in " ".join(re.sub(r"[│\n]+", " ", result.stderr).split())
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        result = run("-o", folder)
        assert result.exit_code == 2
        assert "can't be written" in result.stderr
        assert "%|" not in result.stderr


def test_a_file_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(MODULE, "_computed", lambda scenes, seed, *, every: (b"figure", []))
    (tmp_path / "demo.png").mkdir()
    result = run("-o", tmp_path)
    assert result.exit_code == 2
    assert re.search(r"can't be written:\s+Is\s+a\s+directory", re.sub(r"[│\n]+", " ", result.stderr))


def test_missing_and_damaged_weights_are_an_error(tmp_path, monkeypatch):
    weights = tmp_path / "scenes-vit.safetensors"
    monkeypatch.setattr("captum_vit.zoo.scenes.weight_file", lambda name: weights)
    weights.with_suffix(".json").write_text("{}")
    for said in ("scenes-vit.safetensors is missing", "scenes-vit.safetensors is damaged"):
        result = run("-o", tmp_path / "out")
        assert result.exit_code == 2
        assert said in " ".join(re.sub(r"[│\n]+", " ", result.stderr).split())
        weights.write_bytes(b"damaged")


def test_an_interrupt_ends_with_130(tmp_path, monkeypatch):
    def interrupted(scenes, seed, *, every):
        raise KeyboardInterrupt

    monkeypatch.setattr(MODULE, "_computed", interrupted)
    result = run("-o", tmp_path)
    assert result.exit_code == 130
    assert "Interrupted; nothing was written." in result.stderr
    assert list(tmp_path.iterdir()) == []
