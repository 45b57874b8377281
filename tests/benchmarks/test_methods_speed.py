"""What a method's time is compared with: its passes, counted in multiplications, which no machine changes."""

import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from captum_vit import METHODS

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import methods_speed
from methods_speed import (
    FIELDS,
    OURS,
    TABLE,
    WITH_GAMMA,
    Timed,
    measure,
    methods_section,
    methods_table,
    some_of,
    timed_with,
    write_workload,
)
from methods_worker import FORWARD_BACKWARD, Measured, bare_passes, our_calls, timm_model, torchvision_model
from report import COMMANDS, append_rows, latest_runs, sections, write_page
from subjects import Subject, WorkerFailedError

SMALL = {"img_size": 64, "embed_dim": 96, "depth": 12, "num_heads": 3, "num_classes": 10}
MORE = {"lrp": 2.5, "transformer-attribution": 3.3, WITH_GAMMA: 1.7}
"""Methods whose rules take more products than the plain passes have, and how many times as many."""


@pytest.fixture(scope="module")
def workload(tmp_path_factory):
    path = tmp_path_factory.mktemp("methods") / "workload.pt"
    write_workload(path, 1, **SMALL)
    return path


@pytest.fixture(scope="module")
def given(workload):
    return torch.load(workload)


@pytest.fixture(scope="module")
def calls(given):
    return our_calls(given)


class Multiplications(TorchDispatchMode):
    """Counts those of products, convolutions and attention, forwards and backwards."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result


def multiplications(call):
    with Multiplications() as counted:
        call()
    return counted.total


@pytest.mark.parametrize("timed", [each for each in TABLE if each.package == OURS], ids=lambda each: each.method)
def test_no_method_multiplies_more_than_its_passes(timed, calls):
    """What is asked for of the time must hold for the work first."""
    ratio = multiplications(calls(timed.method)) / multiplications(calls(timed.yardstick))
    more = MORE.get(timed.method.removesuffix(", float32"))
    if more is not None:
        assert ratio == pytest.approx(more, abs=0.05)
    else:
        assert ratio <= (1.06 if timed.yardstick != FORWARD_BACKWARD else 1.001)


def test_the_yardstick_is_a_forward_and_a_backward_pass_to_the_pixels(given, calls):
    model = timm_model(given)
    images = given["images"].clone().requires_grad_()
    model(images)[0, int(given["targets"][0])].backward()
    torch.testing.assert_close(calls(FORWARD_BACKWARD)(), images.grad)
    forward = multiplications(lambda: model(given["images"]))
    assert multiplications(calls(FORWARD_BACKWARD)) == pytest.approx(2 * forward, rel=0.05)


def test_bare_passes_are_counted_by_hand(given):
    model, images = timm_model(given), given["images"]
    forward = multiplications(lambda: model(images))
    blocks = multiplications(lambda: model.blocks(torch.zeros(1, 17, 96)))
    head = 2 * 96 * 10
    assert multiplications(bare_passes(model, images, [2, 1])) == 3 * forward
    rows = multiplications(bare_passes(model, images, [1], 130, 9))
    assert rows == forward + 130 * (blocks // 4 + head)
    assert bare_passes(model, images, [1], 130, 9)().shape == (131, 10)


def test_torchvision_s_model_is_the_same(given):
    torch.testing.assert_close(torchvision_model(given)(given["images"]), timm_model(given)(given["images"]))


def test_every_method_and_case_is_known(calls):
    named = {each.method for each in TABLE if each.package == OURS}
    assert {each.split(", ")[0] for each in named} - set(METHODS) == {
        "libragrad(legrad)",
        "libragrad(input x gradient)",
    }
    assert {each.method for each in TABLE} == named  # a peer stands beside the same method here
    assert {each.method for each in timed_with(1)} - {each.method for each in timed_with(8)} == {
        "recipro-cam",
        "vit-cx",
        "caap",
    }
    some = [(each.method, each.package) for each in some_of(TABLE)]
    assert some == [
        ("grad-cam", OURS),
        ("attnlrp", OURS),
        (WITH_GAMMA, OURS),
        ("recipro-cam", OURS),
        ("grad-cam", "grad-cam"),
        ("attnlrp, cp-lrp", "lxt"),
    ]


def test_the_first_call_is_not_timed(workload, monkeypatch):
    measured = Measured(OURS, workload, torch.device("cpu"))
    made, called = [], []
    monkeypatch.setattr(measured, "_make", lambda name: made.append(name) or (lambda: called.append(name)))
    assert [len(measured.time("grad-cam", 0)["seconds"]) for _ in range(3)] == [1, 1, 1]
    assert (len(made), len(called)) == (1, 4)


class FakeWorker:
    """Answers at once; the yardstick takes 2 seconds, a method 3, and nothing is known of ``lost``."""

    def __init__(self, subject, workload, options, script):
        assert script == "methods_worker.py"
        self.subject = subject

    def ask(self, method, name="", seconds=0.0):
        if method == "describe":
            return {"torch": "2", "captum_vit": "0.1", "lxt": "2.1"}
        if name == "lost":
            raise WorkerFailedError(f"{self.subject.name} ended with 1: lost")
        return {"seconds": [2.0 if name == FORWARD_BACKWARD else 3.0] * 2}

    def stop(self):
        pass


@pytest.fixture
def rows(monkeypatch):
    monkeypatch.setattr(methods_speed, "Worker", FakeWorker)
    here = Path(sys.executable)
    packages = {
        OURS: Subject(OURS, here),
        "lxt": Subject("lxt", here),
        "grad-cam": Subject("grad-cam", None, note="not measured: no space"),
    }
    timed = [Timed("gmar", at_most=1.6), Timed("attnlrp", at_most=1.3), Timed("lost", "lxt"), Timed("gmar", "grad-cam")]
    run = {"device": "cpu", "date": "today", "commit": "c", "machine": "m", "gpu": "", "threads": 2, "batch": 1}
    found = measure(timed, packages, Path("none"), Namespace(rounds=3, seconds=1.0))
    return [row | run | {"model": "vit", "dtype": "float32"} for row in found]


def test_rows_hold_ratios_and_what_failed(rows, tmp_path):
    gmar, _, lost, missing = rows
    assert (gmar["median_s"], gmar["iqr_s"], gmar["calls"], gmar["yardstick_s"], gmar["ratio"]) == (3, 0, 6, 2, 1.5)
    assert (lost["note"], lost["ratio"]) == ("lxt ended with 1: lost", "")
    assert missing["note"] == "not measured: no space"
    lines = methods_table(rows).splitlines()[2:]
    assert lines == [
        "| 1 | gmar | captum_vit 0.1 | 3.000 (0.000) | 2.000 | 1.50 | 1.60 | yes |",
        "| 1 | attnlrp | captum_vit 0.1 | 3.000 (0.000) | 2.000 | 1.50 | 1.30 | no |",
        "| 1 | lost | lxt 2.1 | lxt ended with 1: lost |  |  |  |  |",
        "| 1 | gmar | grad-cam | not measured: no space |  |  |  |  |",
    ]


def test_this_package_must_not_fail(monkeypatch):
    monkeypatch.setattr(methods_speed, "Worker", FakeWorker)
    with pytest.raises(WorkerFailedError, match="captum_vit ended with 1: lost"):
        measure(
            [Timed("lost")],
            {OURS: Subject(OURS, Path(sys.executable))},
            Path("none"),
            Namespace(rounds=1, seconds=0.0),
        )


def test_the_page_shows_the_latest_run(rows, tmp_path):
    page, results = tmp_path / "page.md", tmp_path / "results.csv"
    text = "before\n<!-- methods: written by benchmarks/speed.py from here -->\nold\n<!-- methods: to here -->\nafter\n"
    page.write_text(text)
    append_rows(results, [row | {"date": "yesterday", "median_s": 7} for row in rows], FIELDS)
    append_rows(results, rows, FIELDS)
    told = sections(latest_runs(results), methods_section, COMMANDS)
    write_page(page, "methods", told)
    written = page.read_text()
    assert written.startswith(
        "before\n<!-- methods: written by benchmarks/speed.py from here -->\n### cpu\n\nm; 2 threads;"
    )
    assert written.endswith(
        "`python benchmarks/speed.py --device cuda` fills this in.\n<!-- methods: to here -->\nafter\n"
    )
    assert "| 1 | gmar | captum_vit 0.1 | 3.000 (0.000) | 2.000 | 1.50 | 1.60 | yes |" in written
    assert "7.000" not in written
    assert "old" not in written
    with pytest.raises(ValueError, match=r"page\.md must hold the marks '<!-- legrad: written by"):
        write_page(page, "legrad", told)
