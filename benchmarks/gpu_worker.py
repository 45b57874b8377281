"""One measured process of `gpu_speed.py`: an untrained tower in half precision, and what is called on it."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from methods_worker import FORWARD_BACKWARD, Call, forward_backward
from serving import Workload, repeated, serve, versions
from speed_worker import Measured as WithMemory
from speed_worker import our_legrad, plain_forward

PACKAGES = ["torch", "timm", "open_clip_torch", "captum_vit", "triton"]
TOWER = "tower"
CLASSIFIER = "classifier"


def tower_calls(given: Workload, device: torch.device) -> tuple[Any, dict[str, Call]]:
    """OpenCLIP's image tower: its forward pass, and LeGrad for one prompt an image."""
    import open_clip

    width = given["vision"]["width"]
    text = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 1, "layers": 1}
    with device:
        model = open_clip.model.CLIP(width, given["vision"], text).to(given["dtype"]).eval()
    size = given["vision"]["image_size"]
    given |= {
        "images": torch.randn(given["batch"], 3, size, size, device=device, dtype=given["dtype"]),
        "embeddings": F.normalize(torch.randn(1, width, device=device), dim=-1).to(given["dtype"]),
        "last_blocks": given["vision"]["layers"],
    }
    return model.visual, {"forward": plain_forward(model, given), "legrad": our_legrad(model, given)}


def classifier_calls(given: Workload, device: torch.device) -> tuple[Any, dict[str, Call]]:
    """A classifier of timm: one forward and one backward pass, and methods that need no more."""
    from timm.models.vision_transformer import VisionTransformer

    from captum_vit import METHODS

    with device:
        model = VisionTransformer(**given["classifier"]).to(given["dtype"]).eval()
    size = given["classifier"]["img_size"]
    images = torch.randn(given["batch"], 3, size, size, device=device, dtype=given["dtype"])
    targets = torch.randint(model.num_classes, (given["batch"], 1), device=device)
    calls: dict[str, Call] = {FORWARD_BACKWARD: partial(forward_backward, model, images, targets[:, 0])}
    for name in ("chefer-cam", "gmar", "attention-cam"):
        calls[name] = partial(METHODS[name](model).attribute_targets, images, targets)
    return model, calls


MODELS = {TOWER: tower_calls, CLASSIFIER: classifier_calls}


class Measured(WithMemory):
    """Calls on one model, each asked for by name.

    Args:
        name: a key of `MODELS`.
        workload: a file with "batch", "dtype" and the shape of the model, "vision" of OpenCLIP or "classifier" of timm.
        device: where the model runs.
    """

    def __init__(self, name: str, workload: Path, device: torch.device) -> None:
        given: Workload = torch.load(workload)
        torch.manual_seed(0)
        self.device = device
        self._model, self._calls = MODELS[name](given, device)

    def describe(self) -> dict[str, Any]:
        """Versions of what runs here, and the number of parameters."""
        return versions(PACKAGES, self.device) | {
            "parameters": sum(each.numel() for each in self._model.parameters()),
            "weights_mb": sum(each.numel() * each.itemsize for each in self._model.parameters()) / 1e6,
        }

    def cost(self, call: str, triton: bool, seconds: float) -> dict[str, list[float]]:
        """See `serving.repeated`; a call before the others is not timed.

        Args:
            call: its name.
            triton: whether kernels of Triton may be used.
            seconds: how long it is repeated, at least once.
        """
        self._choose(call, triton)
        self.run()
        return {"seconds": repeated(self.run, seconds)}

    def memory(self, call: str, triton: bool) -> dict[str, float | None]:
        """Most memory in MB that a call takes above the loaded model; see `speed_worker.Measured.peak`."""
        self._choose(call, triton)
        self.run()
        return self.peak()

    def _choose(self, call: str, triton: bool) -> None:
        os.environ["CAPTUM_VIT_TRITON"] = str(int(triton))
        self._call = self._calls[call]


if __name__ == "__main__":
    serve(MODELS, Measured)
