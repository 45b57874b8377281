"""One measured process: a metric of one package, in turns with the bare forward passes that its work needs.

It runs in three environments, with captum_vit, quantus or grad-cam, so it imports none before it is asked for. When
it is done it prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import timm
import torch
from torch import Tensor, nn

Call: TypeAlias = Callable[[], object]
Workload: TypeAlias = dict[str, Any]

PACKAGES = ["torch", "timm", "captum_vit", "quantus", "grad-cam"]
BATCH_SIZE = 64
STEPS = 28
TENTHS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]

FORWARDS = {"perturbation": 1 + 2 * len(TENTHS), "insertion": STEPS + 1, "deletion": STEPS + 1, "road": len(TENTHS)}
"""Work → forward passes that each image needs."""


class Counting(nn.Module):
    """A model that counts the images it sees."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.images = model, 0

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        logits: Tensor = self.model(images)
        return logits


def our_metric(work: str, model: nn.Module, given: Workload) -> Call:
    """The function of this package."""
    from captum_vit.metrics import functional

    options: dict[str, Any] = {"batch_size": BATCH_SIZE}
    if work in ("insertion", "deletion"):
        options["steps"] = STEPS
    measure = getattr(functional, work)
    score = functional.probabilities(model)
    return lambda: measure(score, given["images"], given["maps"], given["targets"], **options)


def quantus_metric(work: str, model: nn.Module, given: Workload) -> Call:
    """Deletion as pixel flipping in 28 steps, and ROAD, which measures accuracy there."""
    import quantus

    images, maps, targets = (given[name].cpu().numpy() for name in ("images", "maps", "targets"))
    plain = {"disable_warnings": True, "display_progressbar": False}
    metric = {
        "deletion": lambda: quantus.PixelFlipping(features_in_step=maps[0].size // STEPS, **plain),
        "road": lambda: quantus.ROAD(percentages=[round(100 * share) for share in TENTHS], **plain),
    }[work]()
    device = str(given["images"].device)
    return lambda: metric(
        model=model, x_batch=images, y_batch=targets, a_batch=maps[:, None], device=device, batch_size=BATCH_SIZE
    )


def grad_cam_metric(work: str, model: nn.Module, given: Workload) -> Call:
    """ROAD in the order of most relevant first."""
    from pytorch_grad_cam.metrics.road import ROADMostRelevantFirstAverage
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    metric = {"road": ROADMostRelevantFirstAverage}[work](percentiles=[round(100 * share) for share in TENTHS])
    targets = [ClassifierOutputSoftmaxTarget(target) for target in given["targets"].tolist()]
    return lambda: metric(given["images"], given["maps"].cpu().numpy(), targets, model)


SUBJECTS = {"captum_vit": our_metric, "quantus": quantus_metric, "grad-cam": grad_cam_metric}


def bare_forwards(model: nn.Module, images: Tensor, passes: int) -> None:
    """Runs every image so often, in full batches."""
    with torch.no_grad():
        for batch in images.repeat(passes, 1, 1, 1).split(BATCH_SIZE):
            model(batch).softmax(1)


def seconds_of(call: Call, device: torch.device) -> float:
    """How long one call takes, waited for."""
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measured(subject: str, work: str, workload: Path, device: torch.device, rounds: int) -> dict[str, Any]:
    """Seconds of the metric and of the bare forward passes in each round, and what was run with what."""
    given: Workload = torch.load(workload, map_location=device)
    model = timm.create_model(given["model"])
    model.load_state_dict(given["weights"])
    counting = Counting(model.to(device)).eval()
    metric = SUBJECTS[subject](work, counting, given)
    times: dict[str, list[float]] = {"forward": [], "metric": []}
    bare_forwards(model, given["images"], 1)  # kernels are loaded and chosen before anything is measured
    for _ in range(rounds):
        times["forward"].append(seconds_of(lambda: bare_forwards(model, given["images"], FORWARDS[work]), device))
        times["metric"].append(seconds_of(metric, device))
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    versions = {name: _version(name) for name in PACKAGES} | {"python": platform.python_version(), "gpu": gpu}
    return versions | times | {"forwards_run": counting.images / rounds / len(given["images"])}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def main() -> None:
    """Measures and answers; what libraries print goes to standard error."""
    parser = argparse.ArgumentParser()
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("work", choices=FORWARDS)
    parser.add_argument("workload", type=Path)
    parser.add_argument("--device", type=torch.device, default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    torch.set_num_threads(options.threads)
    print(
        json.dumps(measured(options.subject, options.work, options.workload, options.device, options.rounds)),
        file=answers,
    )
    answers.close()


if __name__ == "__main__":
    main()
