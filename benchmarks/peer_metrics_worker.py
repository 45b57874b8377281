"""One peer's metrics on given arrays, in the peer's own environment: `peer_metrics.py` starts it."""

from __future__ import annotations

import contextlib
import sys
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Arrays = dict[str, Any]

PERCENTILES = (20, 50, 80)
STEPS = 16


class Linear(nn.Module):
    """Logits, or their softmax, of a linear layer."""

    def __init__(self, weights: np.ndarray, *, softmax: bool) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.from_numpy(weights))
        self.softmax = softmax

    def forward(self, images: Tensor) -> Tensor:
        logits = images.flatten(1) @ self.weights.T
        return logits.softmax(1) if self.softmax else logits


def grad_cam(given: Arrays) -> Arrays:
    """ROAD without noise at three percentiles in both orders, and the drops, as differences of probabilities."""
    from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence, IncreaseInConfidence
    from pytorch_grad_cam.metrics.perturbation_confidence import (
        PerturbationConfidenceMetric,
        RemoveLeastRelevantFirst,
        RemoveMostRelevantFirst,
    )
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, images, maps = Linear(given["weights"], softmax=True), torch.from_numpy(given["images"]), given["maps"]
    targets = [ClassifierOutputTarget(int(each)) for each in given["targets"]]
    found = {"drop": DropInConfidence()(images, maps, targets, model)}
    found["increase"] = IncreaseInConfidence()(images, maps, targets, model)
    for order, remover in (("morf", RemoveMostRelevantFirst), ("lerf", RemoveLeastRelevantFirst)):
        found[order] = np.stack(
            [
                PerturbationConfidenceMetric(remover(each, NoisyLinearImputer(noise=0)))(images, maps, targets, model)
                for each in PERCENTILES
            ]
        )
    return found | {"percentiles": np.array(PERCENTILES)}


class GivenMaps:
    """Looks like a CAM extractor, and returns maps that exist."""

    def __init__(self, model: nn.Module, maps: Tensor) -> None:
        self.model, self.maps = model, maps

    def __call__(self, *_: Any, **__: Any) -> list[Tensor]:
        return [self.maps]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        """The only one."""
        return cams[0]

    @contextlib.contextmanager
    def _hooks_off(self) -> Any:
        yield


def torchcam(given: Arrays) -> Arrays:
    """Insertion, deletion, average drop and increase, image by image."""
    from torchcam.metrics import ClassificationMetric, DeletionInsertionMetric

    model, found = Linear(given["weights"], softmax=True).eval(), {}
    for number, target in enumerate(given["targets"].tolist()):
        image, maps = (torch.from_numpy(given[name][number : number + 1]) for name in ("images", "maps"))
        extractor = GivenMaps(model, maps)
        for metric in (DeletionInsertionMetric(extractor, steps=STEPS), ClassificationMetric(extractor)):
            metric.update(image, target)
            for name, value in metric.summary().items():
                found.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in found.items()} | {"steps": np.array(STEPS)}


def quantus(given: Arrays) -> Arrays:
    """What is no bug of it: complexity, localisation, and region perturbation as the drop at every step."""
    import quantus as q

    plain = {"disable_warnings": True, "display_progressbar": False, "normalise": False, "abs": False}
    metrics = {
        "sparseness": q.Sparseness(**plain),
        "entropy": q.Complexity(**plain),
        "effective complexity": q.EffectiveComplexity(eps=0.4, **plain),
        "rank accuracy": q.RelevanceRankAccuracy(**plain),
        "mass accuracy": q.RelevanceMassAccuracy(**plain),
        "top k": q.TopKIntersection(k=100, **plain),
        "auc": q.AUC(**plain),
        "regions": q.RegionPerturbation(patch_size=8, regions_evaluation=16, perturb_baseline=0.0, **plain),
    }
    model = Linear(given["weights"], softmax=False).eval()
    return {
        name: np.array(
            metric(
                model=model,
                x_batch=given["images"],
                y_batch=given["targets"],
                a_batch=given["maps"][:, None].copy(),
                s_batch=given["masks"][:, None],
                softmax=True,
                device="cpu",
            )
        )
        for name, metric in metrics.items()
    }


def main() -> None:
    """Reads the inputs and writes what the peer said, with its version."""
    peer, given, found = sys.argv[1:]
    with np.load(given) as arrays:
        result = {"grad-cam": grad_cam, "torchcam": torchcam, "quantus": quantus}[peer](dict(arrays))
    np.savez_compressed(found, version=np.array(f"{peer} {metadata.version(peer)}"), **result)


if __name__ == "__main__":
    main()
