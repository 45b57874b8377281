"""One measured process: an untrained ViT and the methods of one package, each called when it is asked for.

It runs in three environments, with captum_vit, grad-cam or lxt, so it imports none before it is asked for. Questions
name one of `Measured`'s methods (`serving.serve`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import torch
from serving import Workload, finished, repeated, serve, versions
from torch import Tensor, nn

Call: TypeAlias = Callable[[], Tensor]
Calls: TypeAlias = Callable[[str], Call]

PACKAGES = ["torch", "timm", "torchvision", "captum_vit", "grad-cam", "lxt"]
FORWARD_BACKWARD = "forward + backward"
"""The yardstick of methods that need one pass."""
PASSES_OF = "passes of "
"""The yardstick of a perturbation method: this and the method's name."""
ROWS = 64
"""Changed copies of an image that run at a time, the default of every perturbation method."""
GAMMA = {"gamma": 0.05, "patch_gamma": 0.25, "epsilon": 1e-6}
"""γ of linear layers and of the patch embedding, and zennit's ε."""
OPTIONS: dict[str, dict[str, Any]] = {
    "cp-lrp": {"variant": "cp-lrp"},
    "gamma": GAMMA,
    "float32": {"dtype": torch.float32},
}
"""What stands behind a method's name, after commas."""


def our_calls(given: Workload) -> Calls:
    """The methods of this package, on their defaults but for `OPTIONS`, and the yardsticks."""
    from captum.attr import InputXGradient

    from captum_vit import METHODS, LeGrad, LibraGrad, adapt, libragrad

    images, targets, model = given["images"], given["targets"], timm_model(given)
    adapter = adapt(model)
    plain, leaf = InputXGradient(adapter), images.clone().requires_grad_()

    def balanced() -> Tensor:
        with libragrad(plain):
            attribution: Tensor = plain.attribute(leaf, target=targets)
        return attribution

    def attribution_of(name: str) -> Call:
        kind, *chosen = name.split(", ")
        options = {option: value for each in chosen for option, value in OPTIONS[each].items()}
        method = LibraGrad(LeGrad(adapter)) if kind == "libragrad(legrad)" else METHODS[kind](adapter, **options)
        return lambda: method.attribute(images, target=targets)

    def call(name: str) -> Call:
        if name == FORWARD_BACKWARD:
            return lambda: forward_backward(model, images, targets)
        if name == "passes of vit-cx":
            return bare_passes(model, images, batches_seen(model, attribution_of("vit-cx")))
        if name.startswith(PASSES_OF):
            return bare_passes(model, images, *needed_passes(name.removeprefix(PASSES_OF), model, len(images)))
        return balanced if name == "libragrad(input x gradient)" else attribution_of(name)

    return call


def grad_cam_calls(given: Workload) -> Calls:
    """Methods of the package grad-cam, on the tokens behind the last block's first norm, as its documentation says."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, targets = timm_model(given), [ClassifierOutputTarget(each) for each in given["targets"].tolist()]
    kinds = {
        "grad-cam": "GradCAM",
        "grad-cam-plus-plus": "GradCAMPlusPlus",
        "hires-cam": "HiResCAM",
        "layer-cam": "LayerCAM",
    }

    def call(name: str) -> Call:
        method = getattr(pytorch_grad_cam, kinds[name])(
            model=model,
            target_layers=[model.blocks[-1].norm1],
            reshape_transform=lambda tokens: (
                tokens[:, 1:].unflatten(1, model.patch_embed.grid_size).permute(0, 3, 1, 2)
            ),
        )
        return lambda: torch.from_numpy(method(input_tensor=given["images"], targets=targets))

    return call


def lxt_calls(given: Workload) -> Calls:
    """Input times gradient by lxt's rules for vision transformers, on torchvision's ViT of the same weights.

    lxt exchanges methods of PyTorch's classes for the whole process: of GELU, LayerNorm and MultiheadAttention.
    """
    from lxt.efficient import monkey_patch, monkey_patch_zennit
    from torchvision.models import vision_transformer
    from zennit.composites import LayerMapComposite
    from zennit.rules import Gamma

    monkey_patch(vision_transformer)
    monkey_patch_zennit()

    def call(name: str) -> Call:
        model = torchvision_model(given)
        if name == "attnlrp, cp-lrp, gamma":
            rules = [(nn.Conv2d, Gamma(GAMMA["patch_gamma"])), (nn.Linear, Gamma(GAMMA["gamma"]))]
            LayerMapComposite(rules).register(model)

        def relevance() -> Tensor:
            images = given["images"].clone().requires_grad_()
            model(images).gather(1, given["targets"][:, None]).sum().backward()
            return images.detach() * images.grad

        return relevance

    return call


PEERS = {"captum_vit": our_calls, "grad-cam": grad_cam_calls, "lxt": lxt_calls}


def timm_model(given: Workload) -> Any:
    """The model of the workload."""
    import timm

    model = timm.create_model(given["model"], **given["options"])
    model.load_state_dict(given["weights"])
    return model.to(given["images"].device).eval()


def torchvision_model(given: Workload) -> Any:
    """The same model as torchvision builds it; its parameters take no gradient."""
    from torchvision.models.vision_transformer import VisionTransformer

    weights, shape = given["weights"], timm_model(given)
    model = VisionTransformer(
        image_size=given["images"].shape[-1],
        patch_size=shape.patch_embed.patch_size[0],
        num_layers=len(shape.blocks),
        num_heads=shape.blocks[0].attn.num_heads,
        hidden_dim=shape.embed_dim,
        mlp_dim=shape.blocks[0].mlp.fc1.out_features,
        num_classes=shape.num_classes,
    )
    model.load_state_dict({torchvision_name(name): weight for name, weight in weights.items()})
    return model.requires_grad_(False).to(given["images"].device).eval()


def torchvision_name(name: str) -> str:
    """What torchvision calls a parameter of timm's ``VisionTransformer``."""
    if name.startswith("norm."):
        return f"encoder.ln.{name.removeprefix('norm.')}"
    for theirs, here in (
        ("cls_token", "class_token"),
        ("pos_embed", "encoder.pos_embedding"),
        ("patch_embed.proj", "conv_proj"),
        ("blocks.", "encoder.layers.encoder_layer_"),
        (".norm", ".ln_"),
        ("attn.qkv.", "self_attention.in_proj_"),
        ("attn.proj", "self_attention.out_proj"),
        ("mlp.fc1", "mlp.0"),
        ("mlp.fc2", "mlp.3"),
        ("head.", "heads.head."),
    ):
        name = name.replace(theirs, here)
    return name


def forward_backward(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """The gradient of each image's target at its pixels, (B, C, H, W): one forward and one backward pass."""
    images = images.clone().requires_grad_()
    score = model(images).gather(1, targets[:, None]).sum()
    return torch.autograd.grad(score, images)[0]


def needed_passes(name: str, model: Any, batch: int) -> tuple[list[int], int, int]:
    """The passes that a method needs for a batch: see `bare_passes`."""
    patches, depth = model.patch_embed.num_patches, len(model.blocks)
    return {
        "recipro-cam": ([batch], batch * (patches + 1), depth - 1),  # one copy more in which every patch is masked
        "caap": ([batch, batch], batch * patches, depth // 3),  # of the image and of the neutral one
    }[name]


def batches_seen(model: nn.Module, call: Call) -> list[int]:
    """The sizes of the batches that a model is given in a call: of ViT-CX's masks, whose number the images decide."""
    sizes: list[int] = []
    hook = model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    call()
    hook.remove()
    return sizes


def bare_passes(model: Any, images: Tensor, whole: list[int], rows: int = 0, start: int = 0) -> Call:
    """Forward passes and nothing else.

    Args:
        model: of timm.
        images: (B, C, H, W).
        whole: sizes of the batches that pass the whole model.
        rows: how many rows of tokens, at most `ROWS` at a time, pass the model from block ``start`` on.
        start: index from 0.
    """
    given = images[:1].repeat(max(whole), 1, 1, 1)
    tokens = torch.randn(ROWS, model.patch_embed.num_patches + 1, model.embed_dim).to(images)

    @torch.no_grad()
    def passes() -> Tensor:
        logits = [model(given[:size]) for size in whole]
        for first in range(0, rows, ROWS):
            inner = model.blocks[start:](tokens[: rows - first])
            logits.append(model.forward_head(model.norm(inner)))
        return torch.cat(logits)

    return passes


class Measured:
    """The methods of one package.

    Args:
        package: a key of `PEERS`.
        workload: a file with "model" and "options" for ``timm.create_model``, "weights"; "images" (B, 3, H, W) and
            "targets" (B,).
        device: where the model runs.
    """

    def __init__(self, package: str, workload: Path, device: torch.device) -> None:
        given: Workload = torch.load(workload, map_location=device)
        self.device = device
        self._make = PEERS[package](given)
        self._calls: dict[str, Call] = {}

    def describe(self) -> dict[str, str]:
        """Versions of what runs here."""
        return versions(PACKAGES, self.device)

    def time(self, name: str, seconds: float) -> dict[str, list[float]]:
        """See `serving.repeated`; the first call of all is not timed."""
        if name not in self._calls:
            self._calls[name] = self._make(name)
            self._run(name)
        return {"seconds": repeated(lambda: self._run(name), seconds)}

    def _run(self, name: str) -> Tensor:
        return finished(self._calls[name], self.device)


if __name__ == "__main__":
    serve(PEERS, Measured)
