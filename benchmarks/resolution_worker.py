"""One measured process of `resolution.py`: an untrained ViT, and one method or its plain reference.

The references share no code with captum_vit: timm's own attention without the fused kernel, every map held, PyTorch's
``backward()`` through parameters and all, and products of N×N matrices.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from methods_worker import Call, timm_model
from serving import Workload, serve, versions
from speed_worker import Measured as WithMemory
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

PACKAGES = ["torch", "timm", "captum_vit"]
PLAIN = "plain "


def forward(model: Any, given: Workload) -> Call:
    """The model by itself: logits (1, K)."""

    def call() -> Tensor:
        with torch.inference_mode():
            logits: Tensor = model(given["images"])
            return logits

    return call


@contextmanager
def eager_maps(model: Any) -> Iterator[list[Tensor]]:
    """The attention map of each block, (1, h, N, N), as forward passes inside form them."""
    maps: list[Tensor] = []
    switched = [block.attn for block in model.blocks if block.attn.fused_attn]
    hooks = [block.attn.attn_drop.register_forward_hook(lambda *call: maps.append(call[2])) for block in model.blocks]
    for attention in switched:
        attention.fused_attn = False
    try:
        yield maps
    finally:
        for attention in switched:
            attention.fused_attn = True
        for hook in hooks:
            hook.remove()


def plain_chefer_cam(model: Any, given: Workload) -> Call:
    """R ← R + mean_h((∇A ∘ A)⁺) R of Chefer et al. 2021 over all blocks, as N×N products: a map (1, 1, 1, gh, gw)."""

    def call() -> Tensor:
        with eager_maps(model) as maps:
            logits = model(given["images"])
            for each in maps:
                each.retain_grad()
            model.zero_grad()
            logits[0, int(given["targets"][0])].backward()
        with torch.no_grad():
            relevance = torch.eye(maps[0].shape[-1], device=maps[0].device)
            for each in maps:
                assert each.grad is not None
                relevance = relevance + (each.grad * each)[0].clamp(min=0).mean(0) @ relevance
        return _of_patches(model, relevance[0])

    return call


def plain_attention_rollout(model: Any, given: Workload) -> Call:
    """Ã_L ⋯ Ã_1 of Abnar & Zuidema 2020 over all blocks, as N×N products: a map (1, 1, 1, gh, gw)."""

    def call() -> Tensor:
        with torch.inference_mode():
            with eager_maps(model) as maps:
                model(given["images"])
            identity = torch.eye(maps[0].shape[-1], device=maps[0].device)
            rollout = identity
            for each in maps:
                mixed = each[0].mean(0) + identity
                rollout = mixed / mixed.sum(-1, keepdim=True) @ rollout
            return _of_patches(model, rollout[0])

    return call


def _of_patches(model: Any, row: Tensor) -> Tensor:
    patches: Tensor = row[model.num_prefix_tokens :]
    return patches.reshape(1, 1, 1, *model.patch_embed.grid_size)


REFERENCES = {
    "forward": forward,
    PLAIN + "chefer-cam": plain_chefer_cam,
    PLAIN + "attention-rollout": plain_attention_rollout,
}
METHODS = ["legrad", "chefer-cam", "gmar", "attention-rollout", "attention-cam"]


def method(name: str, model: Any, given: Workload) -> Call:
    """A method of this package on its defaults: maps (1, 1, 1, gh, gw)."""
    from captum_vit import METHODS as ALL

    explain = ALL[name](model)
    targets = given["targets"][:, None]
    return lambda: explain.attribute_targets(given["images"], targets)


class Measured(WithMemory):
    """What is measured, ready to be called, on a model that has already run once.

    Args:
        name: a key of `REFERENCES`, or one of `METHODS`.
        workload: see `methods_speed.write_workload`; one image.
        device: where the model runs.
    """

    def __init__(self, name: str, workload: Path, device: torch.device) -> None:
        given: Workload = torch.load(workload, map_location=device)
        self.device = device
        self.size = tuple(given["images"].shape[-2:])
        model = timm_model(given)
        forward(model, given)()  # kernels are loaded and chosen before anything is measured
        self._tokens = model.num_prefix_tokens + model.patch_embed.num_patches
        self._call = REFERENCES[name](model, given) if name in REFERENCES else method(name, model, given)

    def describe(self) -> dict[str, Any]:
        """Versions of what runs here, and the model's tokens."""
        return {**versions(PACKAGES, self.device), "tokens": self._tokens}

    def multiplications(self) -> dict[str, float]:
        """Multiplications and additions of one call, in 10⁹, of matrix products, convolutions and attention."""
        with FlopCounterMode(display=False) as counter:
            self.run()
        return {"gflop": counter.get_total_flops() / 1e9}


if __name__ == "__main__":
    serve([*REFERENCES, *METHODS], Measured)
