"""The part of the benchmarks that needs a GPU, on the CPU and tiny: that it runs, and what it says."""

import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import gpu_speed
import speed
from gpu_speed import BIG, CASES, FIELDS, GOALS, QUICK, gpu_section, measure
from gpu_worker import CLASSIFIER, TOWER, Measured


@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.kind)
def test_every_call_of_a_tiny_model_runs(case, tmp_path, monkeypatch):
    monkeypatch.setenv("CAPTUM_VIT_TRITON", "1")  # put back afterwards
    shape = {"vision" if case.kind == TOWER else "classifier": case.shape}
    torch.save(shape | {"batch": case.batch, "dtype": torch.bfloat16}, tmp_path / "workload.pt")
    with torch.random.fork_rng():
        measured = Measured(case.kind, tmp_path / "workload.pt", torch.device("cpu"))
    about = measured.describe()
    assert about["weights_mb"] * 1e6 == 2 * about["parameters"] > 0
    for call in case.calls:
        assert len(measured.cost(call, triton=False, seconds=0.0)["seconds"]) == 1
        assert set(measured.memory(call, triton=True)) == {"mb"}


def test_the_large_tower_has_its_parameters():
    import open_clip

    assert {case.kind for case in CASES} == {case.kind for case in QUICK} == {TOWER, CLASSIFIER}
    text = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 1, "layers": 1}
    with torch.device("meta"):
        visual = open_clip.model.CLIP(BIG["width"], dict(BIG), text).visual
    assert 1.8e9 < sum(each.numel() for each in visual.parameters()) < 1.9e9


class FakeWorker:
    """A method takes 3 seconds where its yardstick takes 2, and 6 without kernels."""

    def __init__(self, subject, workload, options, script):
        assert script == "gpu_worker.py"
        assert torch.load(workload)["dtype"] == torch.bfloat16

    def ask(self, method, call="", triton=False, seconds=0.0):
        if method == "describe":
            return {"torch": "2", "triton": "3", "parameters": 7}
        first = call in ("forward", "forward + backward")
        return {"mb": 5.0} if method == "memory" else {"seconds": [2.0 if first else 3.0 if triton else 6.0] * 2}

    def stop(self):
        pass


def test_rows_compare_kernels_and_none_with_the_yardstick(monkeypatch):
    monkeypatch.setattr(gpu_speed, "Worker", FakeWorker)
    options = Namespace(rounds=3, seconds=1.0)
    rows = [row for case in CASES for row in measure(case, options)]
    legrad = [row for row in rows if row["subject"] == "legrad" and row["batch"] == 256]
    assert [(row["kernels"], row["ratio_to_first"], row["calls"]) for row in legrad] == [
        ("yes", 1.5, 6),
        ("no", 3.0, 6),
    ]
    assert legrad[0]["images_per_s"] == 256 / 3
    assert [goal.measured(rows) for goal in GOALS] == [256 / 3, 1.5, 1.5, 1.5, 1.5, 5.0]
    assert all(set(row) == set(FIELDS) for row in rows)
    text = gpu_section([row | {"dtype": "bfloat16"} for row in rows])
    assert "| ViT-B/16 | 256 | legrad | no | 6.0000 | 43 | 3.00 | 5 |" in text
    assert "| LeGrad, bfloat16, batch of 256: time, × forward pass | at most 1.70 | 1.50 | yes |" in text


def test_it_is_left_out_on_a_cpu(monkeypatch, capsys):
    monkeypatch.setattr(speed, "PARTS", {"gpu": speed.PARTS["gpu"]})
    monkeypatch.setattr(sys, "argv", ["speed.py"])
    speed.main()
    assert "gpu is not measured here: python benchmarks/speed.py gpu --device cuda" in capsys.readouterr().out
