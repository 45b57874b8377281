"""Captum's calling convention, once for every method."""

from __future__ import annotations

import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from inspect import signature
from typing import Any, ClassVar, Literal, TypeAlias, get_args, overload

import torch
import torch.nn.functional as F
from captum.attr import Attribution
from captum.log import log_usage
from torch import Tensor, nn

from captum_vit.adapters.base import Adapter
from captum_vit.adapters.registry import adapt, check_state
from captum_vit.attr.needs import Need
from captum_vit.attr.options import checked_choice, checked_integer
from captum_vit.attr.targets import Target, Targets, shared_targets, single_targets

__all__ = ["BlankMapError", "Resolution", "ViTAttribution", "upsample"]

Resolution: TypeAlias = Literal["input", "patch"]


class BlankMapError(RuntimeError):
    """A map that would be zero everywhere, or not finite.

    Attributes:
        images: indices in the batch of the images concerned.
    """

    def __init__(self, message: str, images: list[int]) -> None:
        super().__init__(message)
        self.images = images


class ViTAttribution(Attribution, ABC):
    """A Captum `Attribution` for vision transformers: one relevance per patch.

    The model is left exactly as it came, other threads may use it meanwhile, image i's map does not depend on image j,
    and results are detached, on the device of the input, at least in float32.

    Args:
        model: a supported vision transformer (timm, Hugging Face, OpenCLIP through `PromptClassifier`, torchvision),
            the same inside ``DistributedDataParallel`` or ``DataParallel``, or an `Adapter`.

    Attributes:
        forward_func: the adapter, from images (B, C, H, W) to logits (B, K): what Captum's metrics call.

    Raises:
        TypeError: no adapter knows the model, or it is compiled, scripted or quantised.
    """

    name: ClassVar[str]
    """The paper's name of the method."""
    class_specific: bool
    """Whether the map depends on the target."""
    signed: bool
    """Whether relevance can be negative."""
    passes: ClassVar[str]
    """What one map costs."""
    memory: ClassVar[str] = "the graph of all blocks"
    """What is held at a time, with the default options."""
    needs: ClassVar[tuple[Need, ...]] = (Need.FUSED_ATTENTION, Need.SHARES)
    """What it needs of a model, with the default options; see `model_needs` for what follows from other facts."""
    reference: ClassVar[str]
    """Where the formula comes from."""
    pixel_level: bool = False
    """Whether relevance is computed for each value of each pixel, and a patch's is the sum over its own."""
    has_own_rules: ClassVar[bool] = False
    """Whether its backward pass goes by rules of its own, which can't be combined with others."""

    forward_func: Adapter

    def __init__(self, model: nn.Module) -> None:
        super().__init__(adapt(model))

    @classmethod
    def get_name(cls) -> str:
        return cls.name

    def __repr__(self) -> str:
        options = [f"{name}={_shown(value)}" for name, value in self._options().items()]
        return f"{type(self).__name__}({', '.join([repr(self._explained()), *options])})"

    def _explained(self) -> nn.Module | ViTAttribution:
        """What the constructor was given first: the model, or the method that is wrapped."""
        return self.forward_func

    def _options(self) -> dict[str, Any]:
        """The options that differ from their defaults, by their names in the constructor."""
        defaults = {each.name: each.default for each in signature(type(self)).parameters.values()}
        defaults |= self._resolved_defaults()
        own = {name: getattr(self, name) for name in list(defaults)[1:] if hasattr(self, name)}
        return {name: value for name, value in own.items() if not self._is_default(value, defaults[name])}

    def _resolved_defaults(self) -> dict[str, Any]:
        """What those defaults become on this model that are not kept as they were given."""
        return {}

    def _is_default(self, value: Any, default: Any) -> bool:
        if isinstance(value, Tensor):
            return value.ndim == 0 and value.item() == default
        counted_from_the_end = default == -1 and value == len(self.forward_func.blocks) - 1
        return bool(value == default) or counted_from_the_end

    @classmethod
    def model_needs(cls) -> tuple[Need, ...]:
        """What it needs of a model, beside an adapter; one that lacks any of it is refused.

        A method of pixels starts at the logit, so that the shares of tokens in the pooled vector do not matter to it.
        """
        needs = [each for each in cls.needs if not (cls.pixel_level and each is Need.SHARES)]
        return (*needs, Need.RULES) if cls.has_own_rules else tuple(needs)

    @classmethod
    def why_unsupported(cls, model: nn.Module) -> str | None:
        """Why this method, with its default options, can't explain a model; None where it can.

        Most methods explain every model that has an adapter. Those that do not raise TypeError in their constructor.
        """
        try:
            cls(model)
        except TypeError as error:
            return str(error)
        return None

    @abstractmethod
    def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        """Relevance of the key tokens, (B, T, N) or without the prefix (B, T, gh·gw); of pixels (B, T, C, H, W).

        Args:
            images: checked images (B, C, H, W).
            targets: output indices (B, T). Class-agnostic methods may return T = 1.
        """

    @overload
    def attribute(
        self,
        inputs: Tensor,
        target: Target = None,
        additional_forward_args: None = None,
        *,
        resolution: Resolution = "input",
        internal_batch_size: int | None = None,
    ) -> Tensor: ...

    @overload
    def attribute(
        self,
        inputs: tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: None = None,
        *,
        resolution: Resolution = "input",
        internal_batch_size: int | None = None,
    ) -> tuple[Tensor, ...]: ...

    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: None = None,
        *,
        resolution: Resolution = "input",
        internal_batch_size: int | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """Explains one target per image.

        Args:
            inputs: preprocessed images (B, C, H, W), floating point, in the model's dtype; or a 1-tuple of them.
            target: the output to explain, in Captum's forms: an int for all images, or a list or tensor with one per
                image. For a `PromptClassifier` also the prompt itself, or a list of prompts. None only where the model
                has one output or the method is class-agnostic.
            additional_forward_args: not taken; here so that Captum's tools can pass None.
            resolution: "input" upsamples the map bilinearly (``align_corners=False``) over the pixels that the patches
                cover and gives each of the C channels 1/C of it, so that the sum over channels is the map; "patch"
                returns the raw map (B, 1, gh, gw). Of a `pixel_level` method "input" is the relevance of each pixel
                and channel itself, and "patch" its sum over each patch.
            internal_batch_size: images explained at a time; all by default.

        Returns:
            The attribution: a tensor for a tensor, a 1-tuple for a 1-tuple; raw and signed, never normalised.

        Raises:
            TypeError: inputs that are no floating-point tensor, a target of the wrong kind.
            ValueError: a batch, size or target that the model can't take, NaN or infinity in the images.
            RuntimeError: training mode, or attention that can't be captured.
            BlankMapError: a map that would be zero everywhere, or not finite.
        """
        if additional_forward_args is not None:
            raise ValueError("additional_forward_args must be None: a vision transformer takes images only.")
        images = only_tensor(inputs)
        checked_choice("resolution", resolution, get_args(Resolution))
        attribution = self._maps(
            images,
            lambda: single_targets(target, self.forward_func, len(images), optional=not self.class_specific),
            internal_batch_size,
            folded=resolution == "patch" or not self.pixel_level,
        )[:, 0]  # (B, 1, gh, gw), or (B, C, H, W) of pixels
        if resolution == "input" and not self.pixel_level:
            with torch.inference_mode(False), torch.no_grad():
                channels, height, width = images.shape[1:]
                covered = self.forward_func.covered(height, width)
                attribution = upsample(attribution, (height, width), covered) / channels
                attribution = attribution.repeat(1, channels, 1, 1)
        return (attribution,) if isinstance(inputs, tuple) else attribution

    def attribute_targets(
        self, inputs: Tensor | tuple[Tensor, ...], targets: Targets, *, internal_batch_size: int | None = None
    ) -> Tensor:
        """Explains T targets per image with one forward pass for all of them.

        Args:
            inputs: as in `attribute`.
            targets: T targets for every image (a list or tensor of ints, or a list of prompts), or a tensor (B, T) with
                T for each image.
            internal_batch_size: as in `attribute`.

        Returns:
            Raw maps on the patch grid, (B, T, 1, gh, gw).

        Raises:
            TypeError: as `attribute`, or a single target instead of a list.
            ValueError: as `attribute`, or targets of another shape.
            RuntimeError: as `attribute`.
            BlankMapError: as `attribute`, for any of the targets.
        """
        images = only_tensor(inputs)
        return self._maps(images, lambda: shared_targets(targets, self.forward_func, len(images)), internal_batch_size)

    def _maps(
        self,
        images: Tensor,
        resolve: Callable[[], Tensor],
        internal_batch_size: int | None,
        relevance_of: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        folded: bool = True,
    ) -> Tensor:
        """Checks everything, runs ``relevance_of`` (`_relevance` by default) in batches, folds to (B, T, 1, gh, gw).

        Relevance of pixels is left as it is, (B, T, C, H, W), where it is not to be ``folded``.
        """
        relevance, targets = self._batched(images, resolve, internal_batch_size, relevance_of or self._relevance)
        adapter = self.forward_func
        gh, gw = adapter.grid(*images.shape[-2:])
        with torch.inference_mode(False), torch.no_grad():
            if self.pixel_level:
                maps = patch_sums(relevance, (gh, gw), adapter.covered(*images.shape[-2:])) if folded else relevance
            else:
                if relevance.shape[-1] != gh * gw:
                    relevance = relevance[..., adapter.num_prefix_tokens :]
                maps = relevance.unflatten(-1, (1, gh, gw))  # (B, T, 1, gh, gw)
            self._refuse_blank(maps)
            return maps.expand(-1, targets.shape[1], -1, -1, -1).contiguous() if maps.shape[1] == 1 else maps

    def _batched(
        self,
        images: Tensor,
        resolve: Callable[[], Tensor],
        internal_batch_size: int | None,
        relevance_of: Callable[[Tensor, Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Checks everything and runs ``relevance_of`` in batches; returns what it gives, (B, T, …), and the targets."""
        adapter = self.forward_func
        adapter.check_images(images)
        step = checked_batch_size(internal_batch_size, len(images))
        check_state(adapter)
        targets = resolve().to(images.device)
        with torch.inference_mode(False), torch.no_grad():
            images = images.clone() if images.is_inference() else images.detach()
            targets = targets.clone() if targets.is_inference() else targets
            parts = [relevance_of(*batch) for batch in zip(images.split(step), targets.split(step), strict=True)]
            return torch.cat(parts), targets

    def _refuse_blank(self, maps: Tensor) -> None:
        flat = maps.flatten(2)  # (B, T, …)
        broken = (flat.eq(0).all(-1) | ~flat.isfinite().all(-1)).any(1)
        if not broken.any():
            return
        images = broken.nonzero().squeeze(1).tolist()
        finite = bool(flat.isfinite().all())
        what = "zero everywhere" if finite else "not finite"
        why = (
            self._why_blank() if finite else "there is NaN or infinity in the model's weights, activations or gradients"
        )
        raise BlankMapError(
            f"{self.name} gives a map that is {what} for image {', '.join(map(str, images))}: {why}.", images
        )

    def _why_blank(self) -> str:
        """What makes this method's map vanish."""
        if self.class_specific:
            return (
                "no gradient of the target that counts for the method reaches an attention map. A head whose weights "
                "are zero does that (torchvision's untrained ViT), and so does an output that no token changes"
            )
        return "no relevance arrives at the patch tokens"


def checked_batch_size(internal_batch_size: int | None, batch: int) -> int:
    """How many of the images run at a time: all by default.

    Raises:
        TypeError: no integer.
        ValueError: below 1.
    """
    return batch if internal_batch_size is None else checked_integer("internal_batch_size", internal_batch_size, 1)


def _shown(value: Any) -> str:
    """An option as short text."""
    if isinstance(value, Tensor):
        return f"{value.item():g}" if value.ndim == 0 else f"Tensor{tuple(value.shape)}"
    return reprlib.repr(value)


def upsample(maps: Tensor, size: tuple[int, int], covered: tuple[int, int] | None = None) -> Tensor:
    """Maps at image size, bilinear with ``align_corners=False``.

    Args:
        maps: (B, 1, gh, gw).
        size: (H, W).
        covered: how many pixels from the top left the patches cover (`Adapter.covered`); all by default. Those beyond
            get no relevance.

    Returns:
        (B, 1, H, W).
    """
    height, width = covered or size
    upsampled = F.interpolate(maps, size=(height, width), mode="bilinear", align_corners=False)
    return F.pad(upsampled, (0, size[1] - width, 0, size[0] - height))


def patch_sums(pixels: Tensor, grid: tuple[int, int], covered: tuple[int, int]) -> Tensor:
    """The sum over the pixels and channels of each patch.

    Args:
        pixels: (B, T, C, H, W).
        grid: (gh, gw).
        covered: how many pixels from the top left the patches cover (`Adapter.covered`).

    Returns:
        (B, T, 1, gh, gw).
    """
    inside = pixels[..., : covered[0], : covered[1]].sum(2, keepdim=True)  # (B, T, 1, H, W)
    patches: Tensor = inside.unflatten(-1, (grid[1], -1)).unflatten(-3, (grid[0], -1))  # (B, T, 1, gh, ph, gw, pw)
    return patches.sum((-3, -1))


def only_tensor(inputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The images in a tensor or a 1-tuple.

    Raises:
        ValueError: a tuple of another length.
    """
    if isinstance(inputs, tuple):
        if len(inputs) != 1:
            raise ValueError(f"inputs must be one tensor of images, got a tuple of {len(inputs)}.")
        return inputs[0]
    return inputs
