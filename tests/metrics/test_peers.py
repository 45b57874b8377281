"""What grad-cam, torchcam and quantus say about the same maps; `benchmarks/peer_metrics.py` asked them."""

from math import ceil
from pathlib import Path

import numpy as np
import pytest
import torch

from captum_vit.metrics import functional

GOLDEN = Path(__file__).parents[1] / "golden"


def arrays(name):
    with np.load(GOLDEN / f"metrics_{name}.npz") as found:
        return {each: torch.from_numpy(found[each]) for each in found.files if found[each].dtype.kind != "U"}


@pytest.fixture(scope="module")
def given():
    found = arrays("inputs")

    def score(images):
        return (images.flatten(1) @ found["weights"].T).softmax(1)

    return score, (found["images"], found["maps"], found["targets"]), found["masks"]


@pytest.mark.parametrize("order", ["morf", "lerf"])
def test_road_is_that_of_grad_cam(given, order):
    """Its percentile q keeps the pixels below it; what it returns is the change of the probability."""
    score, batch, _ = given
    peer = arrays("grad-cam")
    whole = score(batch[0]).gather(1, batch[2][:, None])[:, 0]
    for percentile, change in zip(peer["percentiles"].tolist(), peer[order], strict=True):
        removed = 1024 - ceil(percentile / 100 * 1023)
        found = functional.road(score, *batch, order=order, fractions=(removed / 1024,), noise=0).score
        torch.testing.assert_close(found - whole, change, atol=1e-6, rtol=0)
        assert change.abs().min() > 1e-5


def test_drops_are_those_of_grad_cam_and_torchcam(given):
    score, batch, _ = given
    grad_cam, torchcam = arrays("grad-cam"), arrays("torchcam")
    absolute = functional.average_drop(score, *batch, kind="absolute", normalise="none")
    relative = functional.average_drop(score, *batch, normalise="none")
    increase = functional.average_increase(score, *batch, normalise="none")
    torch.testing.assert_close(absolute, grad_cam["drop"], atol=1e-6, rtol=0)
    torch.testing.assert_close(relative.double() / 100, torchcam["avg_drop"], atol=2e-6, rtol=0)
    assert increase.tolist() == (100 * grad_cam["increase"]).tolist() == (100 * torchcam["conf_increase"]).tolist()
    assert 0 < increase.mean() < 100


@pytest.mark.parametrize("name", ["insertion", "deletion"])
def test_insertion_and_deletion_are_those_of_torchcam(given, name):
    score, batch, _ = given
    peer = arrays("torchcam")
    found = getattr(functional, name)(score, *batch, steps=int(peer["steps"]), fill=0.0).score
    torch.testing.assert_close(found.double(), peer[f"{name}_auc"].double(), atol=1e-6, rtol=0)


def test_localisation_is_that_of_quantus(given):
    _, (_, maps, _), masks = given
    peer = arrays("quantus")
    for name, found in (
        ("rank accuracy", functional.relevance_rank_accuracy(maps, masks)),
        ("mass accuracy", functional.energy_inside(maps, masks)),
        ("top k", functional.top_k_inside(maps, masks, k=100)),
        ("auc", functional.localisation_auc(maps, masks)),
    ):
        torch.testing.assert_close(found.double(), peer[name].double(), atol=1e-6, rtol=0)
        assert found.std() > 0


def test_complexity_is_that_of_quantus(given):
    _, (_, maps, _), _ = given
    peer = arrays("quantus")
    for name, found in (
        ("sparseness", functional.sparseness(maps)),
        ("entropy", functional.entropy(maps)),
        ("effective complexity", functional.effective_complexity(maps, threshold=0.4, normalise=False)),
    ):
        torch.testing.assert_close(found.double(), peer[name].double(), atol=1e-5, rtol=0)


def test_falls_of_regions_are_those_of_quantus(given):
    score, batch, _ = given
    curve = functional.aopc(score, *batch, patch=(8, 8), steps=16)
    falls = arrays("quantus")["regions"]
    torch.testing.assert_close((curve.values[:, :1] - curve.values[:, 1:]).double(), falls.double(), atol=1e-6, rtol=0)
