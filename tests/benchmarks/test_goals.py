"""What is asked for, what a run reached, and the page that says so."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import environments
import speed
import subjects
from environments import EnvironmentMissingError
from goals import Goal, goal_table, overview, value
from legrad_tables import FIELDS, GOALS
from report import append_rows

MOST = Goal("time, × forward pass", 1.5, lambda rows: value(rows, "ratio", subject="legrad"))
LEAST = Goal("images a second", 4000, lambda rows: value(rows, "speed"), at_least=True, device="cuda")


@pytest.mark.parametrize(
    ("goal", "got", "line"),
    [
        (MOST, 1.5, "at most 1.50 | 1.50 | yes"),
        (MOST, 1.51, "at most 1.50 | 1.51 | no"),
        (LEAST, 4000.0, "at least 4000 | 4000 | yes"),
        (LEAST, 3999.0, "at least 4000 | 3999 | no"),
    ],
)
def test_a_goal_is_reached_or_not(goal, got, line):
    rows = [{"subject": "forward", "ratio": 1, "speed": got}, {"subject": "legrad", "ratio": got, "speed": 0}]
    assert goal_table([goal], rows).splitlines()[2:] == [f"| {goal.what} | {line} |"]


def test_what_was_not_measured_names_its_command():
    commands = {"cpu": "make bench", "cuda": "python gpu.py"}
    runs = {"cpu": [{"subject": "legrad", "ratio": "1.25"}]}
    assert goal_table([MOST], [{"subject": "legrad", "ratio": ""}]).splitlines()[2:] == []
    assert overview([([MOST, LEAST], runs, commands), ([MOST], {}, commands)]).splitlines()[2:] == [
        "| cpu | time, × forward pass | at most 1.50 | 1.25 | yes |",
        "| cuda | images a second | at least 4000 | not measured | `python gpu.py` fills this in |",
        "| cpu | time, × forward pass | at most 1.50 | not measured | `make bench` fills this in |",
    ]


def test_goals_of_legrad_are_ratios_of_one_case():
    cases = {(8, 1, 224): (3, 1), (1, 16, 224): (5, 2), (1, 1, 448): (7, 4)}
    rows = [
        {"kind": "speed", "batch": batch, "prompts": prompts, "image_size": size, "subject": subject}
        | {"median_s": times, "peak_mb": 10 * times, "ratio_to_forward": times / 2}
        for (batch, prompts, size), (peer, ours) in cases.items()
        for subject, times in (("legrad_torch", peer), ("captum_vit", ours))
    ]
    found = [(goal.limit, goal.measured(rows)) for goal in GOALS]
    assert found == [(1.5, 0.5), (1 / 3.5, 0.4), (1 / 20, 0.4), (1 / 1.4, 4 / 7), (1 / 8, 4 / 7)]
    assert all(goal.measured(rows[:2]) is None for goal in GOALS[1:])


def test_the_page_is_written_from_the_results(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "HERE", tmp_path)
    page = tmp_path / "page.md"
    for name in (*speed.PARTS, "goals"):
        with page.open("a") as file:
            file.write(f"<!-- {name}: written by benchmarks/speed.py from here -->\n<!-- {name}: to here -->\n")
    row = dict.fromkeys(FIELDS, "") | {"device": "cpu", "date": "today", "kind": "speed", "model": "ViT-B-16"}
    row |= {
        "batch": 8,
        "prompts": 1,
        "image_size": 224,
        "subject": "captum_vit",
        "median_s": 2,
        "ratio_to_forward": 1.4,
    }
    append_rows(tmp_path / "results" / "speed.csv", [row], FIELDS)
    speed.write_pages(page)
    text = page.read_text()
    assert "| cpu | LeGrad, 1 target, 8 images at 224: time, × forward pass | at most 1.50 | 1.40 | yes |" in text
    assert "| 8 images at 224, 1 prompt | captum_vit | 2.000 () | 1.40 |  |  |" in text
    assert text.count("Not measured. `python benchmarks/speed.py gpu --device cuda` fills this in.") == 1
    assert text.count("### cpu\n\nNot measured. `make bench` fills this in.") == 2
    assert text.count("| not measured | `python benchmarks/speed.py gpu --device cuda` fills this in |") == 6


def test_the_docs_hold_the_marks_and_the_latest_tables(tmp_path):
    """As `python benchmarks/speed.py --tables` writes them."""
    copy = tmp_path / "benchmarks.md"
    copy.write_text(speed.PAGE.read_text())
    speed.write_pages(copy)
    assert copy.read_text() == speed.PAGE.read_text()


def test_an_environment_that_cannot_be_made_is_a_note_in_its_rows(tmp_path, monkeypatch):
    def fail(*command: object, **options: object) -> subjects.subprocess.CompletedProcess:
        return subjects.subprocess.CompletedProcess(command, 1, "", "first line\nno space left")

    monkeypatch.setattr(environments, "HERE", tmp_path)
    monkeypatch.setattr(environments, "PEERS", tmp_path / ".peers")
    monkeypatch.setattr(environments.subprocess, "run", fail)
    with pytest.raises(EnvironmentMissingError, match="-m venv --clear failed: no space left"):
        environments.peer_environment("some", "some==1")
    found = subjects.find_subjects(None)
    assert (found["peer"].python, found["bare peer"].python) == (None, None)
    assert found["peer"].note == "not measured: -m venv --clear failed: no space left"
    assert found["ours"].python is not None


def test_an_environment_is_made_once(tmp_path, monkeypatch):
    commands = []

    def succeed(command: list[str], **options: object) -> subjects.subprocess.CompletedProcess:
        commands.append(command[1:3])
        (tmp_path / ".peers" / "some").mkdir(parents=True, exist_ok=True)
        return subjects.subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(environments, "HERE", tmp_path)
    monkeypatch.setattr(environments, "PEERS", tmp_path / ".peers")
    monkeypatch.setattr(environments.subprocess, "run", succeed)
    for _ in range(2):
        python = environments.peer_environment("some", "some==1")
    assert python.parts[-3] == "some"
    assert commands == [["-m", "venv"], ["-m", "pip"]]
    environments.peer_environment("some", "some==2")
    assert len(commands) == 4


@pytest.mark.parametrize("option", ["--threads", "--rounds", "--pixels"])
@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_numbers_of_less_than_one_are_refused(option, value, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["speed.py", "--tables", f"{option}={value}"])
    with pytest.raises(SystemExit, match="2"):
        speed.main()
    assert f"argument {option}: must be an integer of at least 1, got '{value}'" in capsys.readouterr().err
