from __future__ import annotations

import pytest
from report_folders import write_results
from typer.testing import CliRunner

from captum_vit.cli import app


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_an_evaluation_becomes_a_page(tmp_path):
    options = ("--dataset", "scenes(length=2)", "--method", "legrad,random", "--metric", "sparseness")
    assert run("evaluate", *options, "-o", tmp_path, "--keep-maps").exit_code == 0
    done = run("report", tmp_path)
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path / 'report.html'}\n")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "<h1>scenes:vit on scenes(length=2)</h1>" in page
    assert '"image":"' in page
    other = tmp_path / "other.html"
    assert run("report", tmp_path, "-o", other).exit_code == 0
    assert other.read_text("utf-8") == page


@pytest.mark.parametrize("folder", ["empty", "foreign", "nowhere"])
def test_a_folder_without_results_is_refused(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("")
    done = run("report", tmp_path / folder)
    said = {"empty": "is empty", "foreign": "holds no config.json", "nowhere": "does not exist"}[folder]
    assert done.exit_code == 2
    assert f"/{folder} {said}" in " ".join(done.stderr.replace("│", " ").split()).replace("/ ", "/")
    assert done.stdout == ""


def test_a_page_that_cannot_be_written_is_refused(tmp_path):
    done = run("report", write_results(tmp_path / "results"), "-o", tmp_path / "nowhere" / "page.html")
    assert done.exit_code == 2
    said = " ".join(done.stderr.replace("│", " ").split())
    assert "can't be written: No such file or directory" in said


def test_no_maps_are_kept_of_a_table_of_a_paper(tmp_path):
    done = run("evaluate", "--protocol", "faf-baf", "--keep-maps", "-o", tmp_path)
    assert done.exit_code == 2
    assert "can't go together with --protocol" in done.stderr
