"""ViT-CX: masks from clustered embeddings, scored by what the model answers behind them (Xie et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor, nn

from captum_vit.adapters import attention
from captum_vit.adapters.capture import checked_logits
from captum_vit.adapters.tokens import TokenPlace, trace_tokens
from captum_vit.attr.base import ViTAttribution, only_tensor, upsample
from captum_vit.attr.needs import Need
from captum_vit.attr.options import checked_block, checked_choice, checked_integer, checked_number
from captum_vit.attr.targets import Target, single_targets

__all__ = ["ViTCX", "cluster_masks", "coverage"]

Score = Literal["probability", "logit"]


def cluster_masks(features: Tensor, distance: float = 0.1) -> Tensor:
    """One mask for each cluster of maps that look alike.

    Every map is scaled to [0, 1]; those that are constant say nothing and are dropped. Complete linkage on one minus
    the cosine joins maps whose greatest distance within a cluster is at most ``distance``; a cluster's maps are added
    up and scaled again.

    Args:
        features: maps (D, …), one for each dimension of the tokens.
        distance: in [0, 1].

    Returns:
        Masks in [0, 1], (M, …), in the order of each cluster's first map.

    Example:
        >>> cluster_masks(torch.tensor([[0.0, 1.0, 2.0], [3.0, 1.0, 1.0], [0.0, 4.0, 9.0], [5.0, 5.0, 5.0]]))
        tensor([[0.0000, 0.4722, 1.0000],
                [1.0000, 0.0000, 0.0000]])

    References:
        arXiv:2211.03064, as the authors' code does it.
    """
    maps = _scaled(features.flatten(1))
    if len(maps) < 2:
        return maps.view(-1, *features.shape[1:])
    unit = F.normalize(maps.cpu().double(), dim=1)  # some devices have no float64
    apart = (1 - unit @ unit.T).clamp(min=0).numpy()
    clusters = fcluster(linkage(squareform(apart, checks=False), "complete"), distance, "distance").tolist()
    order = torch.tensor([list(dict.fromkeys(clusters)).index(each) for each in clusters], device=maps.device)
    summed = maps.new_zeros(int(order.max()) + 1, maps.shape[1]).index_add(0, order, maps)
    return _scaled(summed).view(-1, *features.shape[1:])


def _scaled(maps: Tensor) -> Tensor:
    """Each map (M, n) brought to [0, 1]; constant ones are left out."""
    low, high = maps.amin(1, keepdim=True), maps.amax(1, keepdim=True)
    varied = (high > low).squeeze(1)
    return ((maps - low) / (high - low))[varied]


def coverage(masks: Tensor, scores: Tensor) -> Tensor:
    """The scores of masks, shared out over what each mask shows: ``Σ_k s_k m_k / (M Σ_k m_k)``.

    Args:
        masks: (M, …).
        scores: (T, M).

    Returns:
        (T, …); zero where no mask shows anything.

    Example:
        >>> coverage(torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.5, 0.0]]), torch.tensor([[0.8, 0.2]]))
        tensor([[0.4000, 0.2500, 0.0000]])

    References:
        arXiv:2211.03064 (coverage bias). The division by the number of masks is that of the authors' code.
    """
    flat = masks.flatten(1)
    shown = flat.sum(0)
    shared = scores @ flat / shown.where(shown > 0, 1.0) / max(len(masks), 1)
    return shared.view(-1, *masks.shape[1:])


class ViTCX(ViTAttribution):
    """What the model still answers behind masks that its own embeddings draw: clusters of the dimensions of its tokens.

    The score of a mask is the causal effect ``p(masked, with noise where masked) - p(image with the same noise) +
    p(image)``; each pixel gets the scores of the masks that show it, by how much each does.

    A patch's relevance is the mean over its pixels; `attribute_pixels` returns the pixels themselves.

    Args:
        model: see `ViTAttribution`.
        block: index of the block whose tokens draw the masks, negative from the last.
        tokens: "norm" for the output of the block's first norm, "block" for the block's own output.
        distance: see `cluster_masks`. A larger one makes fewer masks.
        noise: standard deviation of the noise, in the units of preprocessed images; 0 adds none.
        score: "probability" (softmax over the outputs) or "logit".
        seed: of the noise. It is drawn anew for each image, so that no image's map depends on another's, and leaves
            PyTorch's own generator alone.
        masks_per_batch: how many masked images run at a time.

    Raises:
        TypeError: an option of another type, or probabilities of a model with one output, which are always 1.
        ValueError: an option outside its range.
    """

    name = "ViT-CX"
    class_specific = True
    signed = True
    passes = "1 forward + 2 forward for each of tens of masks"
    memory = "no graph; 64 masked images"
    needs = (Need.FIRST_NORM, Need.OUTPUTS)
    reference = "arXiv:2211.03064"

    def __init__(
        self,
        model: nn.Module,
        *,
        block: int = -1,
        tokens: TokenPlace = "norm",
        distance: float = 0.1,
        noise: float = 0.1,
        score: Score = "probability",
        seed: int = 0,
        masks_per_batch: int = 64,
    ) -> None:
        super().__init__(model)
        self.tokens: TokenPlace = checked_choice("tokens", tokens, get_args(TokenPlace))
        self.score: Score = checked_choice("score", score, get_args(Score))
        if score == "probability" and self.forward_func.num_outputs == 1:
            raise TypeError(
                f"{self.forward_func.family} has one output, whose softmax is 1 for every image; take score='logit'."
            )
        self.block = checked_block("block", block, len(self.forward_func.blocks))
        self.distance = checked_number("distance", distance, 0, 1)
        self.noise = checked_number("noise", noise, 0)
        self.seed = checked_integer("seed", seed, 0, 2**64 - 1)
        self.signed = self.noise > 0 or score == "logit"
        self.masks_per_batch = checked_integer("masks_per_batch", masks_per_batch, 1)

    def attribute_pixels(
        self, inputs: Tensor | tuple[Tensor, ...], target: Target = None, *, internal_batch_size: int | None = None
    ) -> Tensor:
        """Relevance of each pixel; its means over the patches are `attribute`'s raw map.

        Args:
            inputs: see `attribute`.
            target: see `attribute`.
            internal_batch_size: see `attribute`.

        Returns:
            (B, C, H, W): each of the C channels has 1/C of it, so that the sum over channels is the map.
        """
        images = only_tensor(inputs)
        pixels, _ = self._batched(
            images,
            lambda: single_targets(target, self.forward_func, len(images), optional=False),
            internal_batch_size,
            self._pixels,
        )
        self._refuse_blank(pixels)
        return pixels.expand(-1, images.shape[1], -1, -1) / images.shape[1]

    def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        grid = self.forward_func.grid(*images.shape[-2:])
        height, width = self.forward_func.covered(*images.shape[-2:])
        pixels = self._pixels(images, targets)[:, :, :height, :width]
        return F.avg_pool2d(pixels, (height // grid[0], width // grid[1])).flatten(2)

    def _pixels(self, images: Tensor, targets: Tensor) -> Tensor:
        """(B, T, H, W)."""
        adapter = self.forward_func
        logits, (record,) = trace_tokens(adapter, images, [self.block], place=self.tokens)
        patches = record.tokens[:, adapter.num_prefix_tokens :].mT  # (B, D, gh·gw)
        grid, covered = adapter.grid(*images.shape[-2:]), adapter.covered(*images.shape[-2:])
        features = patches.unflatten(-1, grid)
        relevance = []
        for image, maps, plain, target in zip(images, features, self._scores(logits), targets, strict=True):
            pixels = upsample(maps[:, None], (image.shape[-2], image.shape[-1]), covered)[:, 0]
            masks = cluster_masks(pixels, self.distance)
            scores = self._causal_scores(image, masks, plain)[:, target].T  # (T, M)
            moved = scores.ne(scores[:, :1]).any(1)  # where no mask matters, there is nothing to share out
            relevance.append(coverage(masks, scores) * moved[:, None, None])
        return torch.stack(relevance)

    def _causal_scores(self, image: Tensor, masks: Tensor, plain: Tensor) -> Tensor:
        """The effect of each mask on every output, (M, K), from the scores (K,) of the image itself."""
        noise = self._noise(image)
        effects = [plain.new_zeros(0, len(plain))]
        for part in masks.split(self.masks_per_batch):
            shown = part[:, None]  # (R, 1, H, W)
            if self.noise:
                added = self.noise * (1 - shown) * torch.stack([next(noise) for _ in part]).to(shown)
                effects.append(self._answers(image * shown + added) - self._answers(image + added) + plain)
            else:
                effects.append(self._answers(image * shown))
        return torch.cat(effects)

    def _answers(self, changed: Tensor) -> Tensor:
        """Scores (R, K) of changed images, cast to the model's dtype."""
        adapter = self.forward_func
        images = changed.to(next(adapter.model.parameters(), changed).dtype)
        return self._scores(checked_logits(adapter, adapter(images)))

    def _noise(self, image: Tensor) -> Iterator[Tensor]:
        """Standard normal noise (C, H, W) for one mask after another, the same on every device and in every dtype."""
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            yield torch.randn(image.shape, generator=generator)

    def _scores(self, logits: Tensor) -> Tensor:
        logits = attention.relevance_dtype(logits)
        return logits.softmax(-1) if self.score == "probability" else logits

    def _why_blank(self) -> str:
        return (
            f"no mask that the tokens of block {self.block} draw moves the target's {self.score}. A head whose weights "
            "are zero does that, an output that no pixel changes, and a distance so large that all masks are one"
        )
