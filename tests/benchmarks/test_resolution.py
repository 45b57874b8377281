"""What methods are measured against at high resolution: plain references, and how their work compares."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from methods_speed import write_workload
from methods_worker import timm_model
from resolution import FIELDS, GOALS, add_differences, resolution_section, time_statistics
from resolution_worker import METHODS, PLAIN, REFERENCES, Measured, eager_maps

SMALL = {"img_size": 96, "patch_size": 8, "embed_dim": 48, "depth": 4, "num_heads": 3, "num_classes": 5}


@pytest.fixture(scope="module")
def workload(tmp_path_factory):
    path = tmp_path_factory.mktemp("resolution") / "workload.pt"
    write_workload(path, 1, **SMALL)
    return path


@pytest.fixture(scope="module")
def measured(workload):
    return {name: Measured(name, workload, torch.device("cpu")) for name in [*REFERENCES, *METHODS]}


@pytest.mark.parametrize("name", ["chefer-cam", "attention-rollout"])
def test_plain_references_give_the_methods_maps(measured, name):
    plain, ours = measured[PLAIN + name].run(), measured[name].run()
    assert plain.shape == ours.shape == (1, 1, 1, 12, 12)
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5 * float(plain.max()))
    assert float(plain.std()) > 1e-3 * float(plain.max())


def test_references_leave_the_model_with_its_kernel(workload):
    model = timm_model(torch.load(workload))
    with eager_maps(model) as maps:
        model(torch.zeros(1, 3, 96, 96))
    assert [tuple(each.shape) for each in maps] == [(1, 3, 145, 145)] * 4
    torch.testing.assert_close(maps[0].sum(-1), torch.ones(1, 3, 145))
    assert all(block.attn.fused_attn and not block.attn.attn_drop._forward_hooks for block in model.blocks)


def test_work_is_below_that_of_the_references(measured):
    """A backward pass to activations costs a forward pass, one to parameters two; a row costs less than a product."""
    work = {name: each.multiplications()["gflop"] for name, each in measured.items()}
    forward = work["forward"]
    assert work[PLAIN + "chefer-cam"] > 2.9 * forward
    assert work["chefer-cam"] < 0.8 * work[PLAIN + "chefer-cam"]
    assert forward < work["attention-rollout"] < work[PLAIN + "attention-rollout"]
    assert work["attention-cam"] < 1.3 * forward


def rows_of(seconds):
    return [
        dict.fromkeys(FIELDS, "")
        | {"device": "cpu", "date": "today", "machine": "one", "image_size": size, "subject": name, "tokens": 5}
        | {"median_s": value, "least_s": value, "ratio_to_forward": value, "gflop": 1, "peak_mb": 100 * value}
        for (size, name), value in seconds.items()
    ]


def test_goals_are_ratios_of_one_run():
    seconds = {(224, PLAIN + "chefer-cam"): 4, (224, "chefer-cam"): 2, (224, "attention-rollout"): 1.5}
    seconds |= {(448, PLAIN + "chefer-cam"): 8, (448, "chefer-cam"): 2, (1024, "gmar"): 12.5}
    seconds |= {(448, PLAIN + "attention-rollout"): 3, (448, "attention-rollout"): 1.5}
    found = [(each.limit, each.measured(rows_of(seconds))) for each in GOALS]
    assert found[:6] == [(1 / 2, 0.5), (1 / 3, 0.25), (1 / 4, 0.5), (1 / 4, 0.25), (1.15, 1.5), (1 / 1.5, 0.5)]
    assert found[6:] == [(2000, None), (2000, None), (2000, 1250), (2000, None), (2000, None)]


def test_a_section_says_what_was_reached():
    timed = rows_of({(224, "forward"): 1, (224, PLAIN + "chefer-cam"): 4, (224, "chefer-cam"): 3})
    large = [each | {"median_s": ""} for each in rows_of({(1024, "forward"): 2, (1024, "gmar"): 12.5})]
    text = resolution_section(timed + large)
    assert "| CheferCAM, 1 image at 224: time, × plain | at most 0.50 | 0.75 | no |" in text
    assert "| GMAR, 1 image at 1024: memory over the model, MB | at most 2000 | 1250 | yes |" in text
    assert "| 224 | chefer-cam | 3.000 | 3.000 | 3.00 | 1 | 300 |  |" in text
    assert "| subject | 1024×1024, 5 tokens |" in text
    assert "| gmar | 1250 |" in text


def test_ratios_are_within_a_turn():
    found = time_statistics([[2.0, 4.0], [9.0]], [[1.0], [3.0, 3.0]])
    assert found == {"median_s": 4.0, "least_s": 2.0, "calls": 3, "ratio_to_forward": 3.0}


def test_maps_are_compared_with_their_reference(tmp_path):
    class Told:
        def __init__(self, value):
            self.value = value

        def ask(self, question, path):
            torch.save(torch.tensor([0.0, self.value]), path)

    names = ["forward", PLAIN + "chefer-cam", "chefer-cam"]
    rows = [{"subject": name} for name in names]
    add_differences(rows, [Told(0.0), Told(0.5), Told(0.75)], tmp_path)
    assert [row.get("map_difference") for row in rows] == [None, None, 0.25]
