"""One measured process: a model, one subject, and its answers to the questions that arrive on standard input.

It runs in two environments, with captum_vit or with legrad_torch, so it imports neither before it is asked for.
Questions name one of `Measured`'s methods (`serving.serve`).
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import open_clip
import torch
import torch.nn.functional as F
from serving import Workload, finished, repeated, serve, versions
from torch import Tensor

Call: TypeAlias = Callable[[], Tensor]

PACKAGES = ["torch", "timm", "open_clip_torch", "captum_vit", "legrad_torch"]


def plain_forward(model: Any, workload: Workload) -> Call:
    """The image tower by itself, what every explanation is compared with: embeddings (B, E)."""

    def call() -> Tensor:
        with torch.inference_mode():
            embeddings: Tensor = model.encode_image(workload["images"])
            return embeddings

    return call


def our_legrad(model: Any, workload: Workload) -> Call:
    """LeGrad of this package, all prompts in one call: maps (B, T, 1, gh, gw)."""
    from captum_vit import LeGrad, PromptClassifier

    classifier = PromptClassifier(model, embeddings=workload["embeddings"], logit_scale=1.0)
    method = LeGrad(classifier, blocks=range(-workload["last_blocks"], 0))
    return lambda: method.attribute_targets(workload["images"], list(range(classifier.num_outputs)))


def authors_legrad(model: Any, workload: Workload) -> Call:
    """LeGrad of the authors' package: maps (1, T, H, W), scaled to [0, 1]."""
    from legrad import LeWrapper

    wrapper = LeWrapper(model, layer_index=-workload["last_blocks"])
    return lambda: wrapper.compute_legrad(workload["embeddings"], workload["images"])


SUBJECTS = {"forward": plain_forward, "captum_vit": our_legrad, "legrad_torch": authors_legrad}


class Measured:
    """What is measured, ready to be called, on a model that has already run once.

    Args:
        name: a key of `SUBJECTS`.
        workload: a file with "model" and "weights"; "images" (B, 3, H, W) and unit "embeddings" (T, E); "last_blocks",
            how many blocks LeGrad averages.
        device: where the model runs.
    """

    def __init__(self, name: str, workload: Path, device: torch.device) -> None:
        given: Workload = torch.load(workload, map_location=device)
        self.device = device
        self.size = tuple(given["images"].shape[-2:])
        model = open_clip.create_model(
            given["model"], pretrained=given["weights"], force_image_size=self.size, device=device
        ).eval()
        plain_forward(model, given)()  # kernels are loaded and chosen before anything is measured
        self._call = SUBJECTS[name](model, given)

    def describe(self) -> dict[str, str]:
        """Versions of what runs here."""
        return versions(PACKAGES, self.device)

    def peak(self) -> dict[str, float | None]:
        """Most memory in MB that one call takes above the loaded model; None where the system does not tell.

        CPU: peak resident memory of the process, reset just before the call, minus what is resident then, after
        garbage collection and after the allocator has given its free pages back.
        """
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            self.run()
            return {"mb": (torch.cuda.max_memory_allocated(self.device) - before) / 1e6}
        reset = Path("/proc/self/clear_refs")
        if not os.access(reset, os.W_OK):
            return {"mb": None}
        ctypes.CDLL(None).malloc_trim(0)
        reset.write_text("5")  # peak := current, see man 5 proc
        before = _resident("VmRSS")
        self.run()
        return {"mb": (_resident("VmHWM") - before) / 1e6}

    def time(self, seconds: float) -> dict[str, list[float]]:
        """See `serving.repeated`; a call before the others is not timed."""
        self.run()
        return {"seconds": repeated(self.run, seconds)}

    def maps(self, path: str) -> dict[str, list[int]]:
        """Saves the maps of one image at its size, each scaled to [0, 1], (T, H, W)."""
        result = self.run().detach().cpu()
        if result.ndim == 5:  # (B, T, 1, gh, gw) of captum_vit
            result = F.interpolate(result[0], size=self.size, mode="bilinear").transpose(0, 1)  # (1, T, H, W)
        flat = result[0].flatten(1)
        low, high = flat.amin(1)[:, None, None], flat.amax(1)[:, None, None]
        torch.save((result[0] - low) / (high - low), path)
        return {"shape": list(result.shape[1:])}

    def run(self) -> Tensor:
        """One call, waited for."""
        return finished(self._call, self.device)


def _resident(name: str) -> int:
    """A line of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


if __name__ == "__main__":
    serve(SUBJECTS, Measured)
