"""Any Captum `Attribution` as a function from images and targets to maps."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

import captum.attr
import numpy as np
import torch
from captum.attr import Attribution, NoiseTunnel
from torch import Tensor, nn

from captum_vit.adapters import Adapter
from captum_vit.attr import METHODS, WRAPPERS, BlankMapError, ViTAttribution, upsample
from captum_vit.attr.options import OptionTypeError
from captum_vit.attr.wrapper import MethodWrapper
from captum_vit.evaluation.specs import Spec, parse_spec, unknown
from captum_vit.evaluation.subject import Subject

__all__ = ["RANDOM", "Explainer", "UnsupportedMethodError", "check_name", "explainer_of", "tried"]

RANDOM = "random"
"""The baseline: noise on the patch grid, or on a grid of 14×14 for a model without patches."""

_CAPTUM = "captum:"
_CAPTUM_METHODS: dict[str, type[Attribution]] = {
    "deconvolution": captum.attr.Deconvolution,
    "deep-lift": captum.attr.DeepLift,
    "feature-ablation": captum.attr.FeatureAblation,
    "gradient-shap": captum.attr.GradientShap,
    "guided-backprop": captum.attr.GuidedBackprop,
    "guided-grad-cam": captum.attr.GuidedGradCam,
    "input-x-gradient": captum.attr.InputXGradient,
    "integrated-gradients": captum.attr.IntegratedGradients,
    "kernel-shap": captum.attr.KernelShap,
    "layer-activation": captum.attr.LayerActivation,
    "layer-grad-cam": captum.attr.LayerGradCam,
    "layer-gradient-x-activation": captum.attr.LayerGradientXActivation,
    "lime": captum.attr.Lime,
    "noise-tunnel": NoiseTunnel,
    "occlusion": captum.attr.Occlusion,
    "saliency": captum.attr.Saliency,
    "shapley-value-sampling": captum.attr.ShapleyValueSampling,
}


_DETERMINISTIC = {
    _CAPTUM + name
    for name in _CAPTUM_METHODS
    if name not in ("gradient-shap", "kernel-shap", "lime", "noise-tunnel", "shapley-value-sampling")
}

_REQUIRED = {"layer": "'name of a module'", "neurons": "[(block, neuron)]"}
"""Options that have no default, with an example."""


class UnsupportedMethodError(ValueError):
    """A method that exists and can't explain this model; the reason is the message."""


class Explainer:
    """A method on a model.

    Args:
        spec: name and options, as in the results.
        maps: images (B, C, H, W), targets (B,) → (B, H, W), signed, as the method gives them; or, for what reads them
            by block, (B, L, gh, gw).
        seed: of methods that draw random numbers.
        alone: whether images must come one at a time, so that a map does not depend on what else is in the batch: for
            methods that draw random numbers.
        gradients: whether a forward pass that other methods share must carry a graph for this one.
        on_grid: the same maps on the patch grid, (B, gh, gw), as they are before they are brought to the image's size.
        method: what gives the maps, if it is a method of this package or of its kind.

    Attributes:
        memory: bytes that a batch of maps takes at its peak; None where it is not known.
    """

    def __init__(
        self,
        spec: Spec,
        maps: Callable[[Tensor, Tensor], Tensor],
        *,
        seed: int = 0,
        alone: bool = False,
        gradients: bool = False,
        on_grid: Callable[[Tensor, Tensor], Tensor] | None = None,
        method: ViTAttribution | None = None,
    ) -> None:
        self.spec, self.alone, self.gradients, self.method = spec, alone, gradients, method
        self.memory: int | None = None
        self._maps, self._seed, self._on_grid = maps, seed, on_grid

    def on_grid(self, images: Tensor, targets: Tensor) -> Tensor:
        """(B, gh, gw): one number per patch.

        Raises:
            ValueError: a method that knows no patches.
        """
        if self._on_grid is None:
            raise ValueError(f"method must give one number per patch, got {self.spec.name!r}, which knows no patches.")
        return self._on_grid(images, targets)

    def __call__(self, images: Tensor, targets: Tensor, *, key: int = 0) -> Tensor:
        """What ``maps`` gives, float32 or wider, detached; what is random follows from the seed and the key."""
        with _seeded(self._seed + key, images.device):
            maps = self._maps(images, targets).detach()
        return maps.float() if maps.dtype in (torch.float16, torch.bfloat16) else maps


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, all generators that Captum's methods draw from start at the seed; afterwards they are as before."""
    plain, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if device.type == "cpu":
            torch.default_generator.manual_seed(
                seed
            )  # and not those of devices that are not used here, which takes long
        else:
            torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(plain)
            np.random.set_state(arrays)  # noqa: NPY002


def explainer_of(spec: str | Spec, subject: Subject, *, seed: int = 0) -> Explainer:
    """A method by its name.

    Args:
        spec: ``legrad`` and the other names of `captum_vit.METHODS`; ``captum:integrated-gradients`` and Captum's other
            methods, options being those of their constructor and of ``attribute``; ``random``; or ``module:Class``, an
            `Attribution` of your own. ``captum:noise-tunnel(method='legrad')``, ``libragrad(method='legrad')`` and the
            other names of `captum_vit.attr.WRAPPERS` take another method inside,
            ``test-time-registers(neurons=[(3, 17)])`` also neurons, and ``captum:layer-grad-cam(layer='layer4')`` the
            name of a layer.
        subject: the model.
        seed: of methods that draw random numbers.

    Raises:
        ValueError: no such method, or options that it does not have.
        UnsupportedMethodError: a method that can't explain this model.
    """
    spec = parse_spec(spec) if isinstance(spec, str) else spec
    if spec.name == RANDOM:
        return Explainer(spec, _noise(subject), seed=seed, alone=True)
    method, arguments = _built(spec, subject)
    if isinstance(method, ViTAttribution):
        return Explainer(
            spec,
            lambda images, targets: method.attribute(images, target=targets).sum(1),
            gradients=method.class_specific,
            on_grid=lambda images, targets: method.attribute(images, target=targets, resolution="patch")[:, 0],
            method=method,
        )
    return Explainer(spec, _full_size(method, arguments), seed=seed, alone=spec.name not in _DETERMINISTIC)


def check_name(name: str) -> None:
    """Refuses a name that `explainer_of` would not know.

    Raises:
        ValueError: no method of that name.
    """
    if name != RANDOM:
        _class_of(name)


def tried(explainer: Explainer, subject: Subject, *, maps: int = 1) -> None:
    """Lets an explainer explain noise.

    Args:
        explainer: the method.
        subject: the model.
        maps: at once.

    Raises:
        UnsupportedMethodError: it can't explain this model.
        torch.OutOfMemoryError: so many maps don't fit.
    """
    height, width = subject.geometry.size
    noise = torch.randn(maps, len(subject.mean), height, width, generator=torch.Generator().manual_seed(0))
    targets = torch.zeros(maps, dtype=torch.long, device=subject.device)
    try:
        with suppress(BlankMapError):  # of noise; it may have maps of images
            explainer(noise.to(subject.device), targets)
    except (torch.OutOfMemoryError, UnsupportedMethodError):
        raise
    except (RuntimeError, AssertionError, TypeError) as error:  # Captum's methods raise any of these
        raise UnsupportedMethodError(str(error)) from error


def _built(spec: Spec, subject: Subject) -> tuple[Attribution, dict[str, Any]]:
    """The method, and the options that its ``attribute`` takes."""
    kind = _class_of(spec.name)
    options = {**_defaults(kind, subject), **spec.options}
    accepted = inspect.signature(kind.__init__).parameters
    for name, example in _REQUIRED.items():
        if name in accepted and name not in options:
            raise ValueError(f"{name} must be given, as in {spec.name}({name}={example}), got none.")
    if "layer" in options:
        options["layer"] = _layer(options["layer"], subject)
    if kind is NoiseTunnel:
        inner, arguments = _built(parse_spec(str(options.pop("method", "captum:saliency"))), subject)
        return NoiseTunnel(inner), arguments | options
    explained: Any = subject.model
    if issubclass(kind, MethodWrapper):
        explained, _ = _built(parse_spec(str(options.pop("method", "legrad"))), subject)
    construct = {name: options.pop(name) for name in list(options) if name in accepted}
    takes = inspect.signature(kind.attribute).parameters
    wrong = [name for name in options if issubclass(kind, ViTAttribution) or name not in takes]
    if wrong:
        raise ValueError(f"options of {spec.name} must be among {_names(accepted, takes, kind)}, got {wrong[0]!r}.")
    try:
        return kind(explained, **construct), options
    except OptionTypeError as error:
        raise ValueError(str(error)) from error
    except (TypeError, NotImplementedError) as error:
        raise UnsupportedMethodError(str(error)) from error


def _class_of(name: str) -> type[Attribution]:
    if name in METHODS or name in WRAPPERS:
        return METHODS[name] if name in METHODS else WRAPPERS[name]
    if name == RANDOM:
        raise ValueError(f"method inside another one must be an attribution method, got {name!r}.")
    if name.startswith(_CAPTUM):
        if name.removeprefix(_CAPTUM) not in _CAPTUM_METHODS:
            raise unknown("method of Captum", name.removeprefix(_CAPTUM), _CAPTUM_METHODS)
        return _CAPTUM_METHODS[name.removeprefix(_CAPTUM)]
    module, _, attribute = name.partition(":")
    if not attribute:
        raise unknown("method", name, [*METHODS, *WRAPPERS, RANDOM, *(_CAPTUM + each for each in _CAPTUM_METHODS)])
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"method must be importable as module:Class, got {name!r}: {error}.") from error
    if not (inspect.isclass(found) and issubclass(found, Attribution)):
        raise ValueError(f"method must be a captum.attr.Attribution, got {name!r}, which is {found!r}.")
    return found


def _defaults(kind: type[Attribution], subject: Subject) -> dict[str, Any]:
    """Options without which Captum's methods don't run, or not in bounded memory."""
    if kind is captum.attr.Occlusion:
        patch = subject.patch if isinstance(subject.model, Adapter) else (16, 16)
        window = (len(subject.mean), *patch)
        return {"sliding_window_shapes": window, "strides": window}
    if kind is captum.attr.GradientShap:
        height, width = subject.geometry.size
        return {"baselines": torch.zeros(1, len(subject.mean), height, width, device=subject.device)}
    return {"internal_batch_size": 32} if kind is captum.attr.IntegratedGradients else {}


def _layer(name: Any, subject: Subject) -> nn.Module:
    inner = subject.model.model if isinstance(subject.model, Adapter) else subject.model
    try:
        return inner.get_submodule(str(name))
    except AttributeError as error:
        raise ValueError(f"layer must be the name of a module of {subject.name}, got {name!r}: {error}.") from error


def _names(accepted: Any, takes: Any, kind: type[Attribution]) -> str:
    names = [*accepted, *([] if issubclass(kind, ViTAttribution) else takes)]
    hidden = {"self", "model", "forward_func", "inputs", "target", "args", "kwargs", "additional_forward_args"}
    return ", ".join(dict.fromkeys(name for name in names if name not in hidden)) or "none"


def _noise(subject: Subject) -> Callable[[Tensor, Tensor], Tensor]:
    grid = subject.model.grid(*subject.geometry.size) if isinstance(subject.model, Adapter) else (14, 14)

    def maps(images: Tensor, targets: Tensor) -> Tensor:
        noise = torch.rand(len(targets), 1, *grid, device=images.device)
        return upsample(noise, (images.shape[2], images.shape[3]))[:, 0]

    return maps


def _full_size(method: Attribution, arguments: dict[str, Any]) -> Callable[[Tensor, Tensor], Tensor]:
    """Maps of a method of Captum's: summed over channels, and a layer's brought to the image's size."""
    takes_target = "target" in inspect.signature(method.attribute).parameters or isinstance(method, NoiseTunnel)

    def maps(images: Tensor, targets: Tensor) -> Tensor:
        images = images.detach().requires_grad_()  # otherwise Captum does it, and warns
        target = {"target": targets} if takes_target else {}
        attribution = method.attribute(images, **target, **arguments)
        attribution = attribution[0] if isinstance(attribution, tuple) else attribution
        if attribution.ndim != 4:
            raise UnsupportedMethodError(
                f"{method.get_name()} must give maps (B, C, h, w), got {tuple(attribution.shape)}: choose another layer"
            )
        size = (images.shape[2], images.shape[3])
        summed = attribution.sum(1, keepdim=True)
        return (summed if summed.shape[2:] == size else upsample(summed, size))[:, 0]

    return maps
