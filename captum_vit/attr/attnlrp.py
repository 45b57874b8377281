"""AttnLRP: layer-wise relevance propagation through attention (Achtibat et al. 2024)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from captum_vit.adapters import attention
from captum_vit.adapters.capture import trace
from captum_vit.attr.base import ViTAttribution
from captum_vit.attr.gradients import target_gradients
from captum_vit.attr.options import checked_choice, checked_number
from captum_vit.attr.rules import ATTN_LRP, LIBRA, BackwardRules
from captum_vit.attr.rules.linear import LinearRules

__all__ = ["AttnLRP"]

Variant = Literal["attnlrp", "cp-lrp"]
_VARIANTS: tuple[Variant, ...] = get_args(Variant)


class AttnLRP(ViTAttribution):
    """What every pixel adds to the target's logit, by rules that hand relevance back from layer to layer.

    Relevance is input times gradient, at the pixels, with the gradient of these rules (arXiv:2402.05602, section 3):

    - activation, norms: relevance passes unchanged: gate, deviation and length are constants.
    - product of two values that depend on the image (attention with values, query with key, gated MLPs): one half to
      each factor.
    - softmax: its own gradient (the paper's Taylor expansion).
    - linear layers: each input by its share of the sum, with γ and ε.

    ``resolution="input"`` gives relevance of each pixel and channel, ``resolution="patch"`` its sum over each patch.

    Args:
        model: see `ViTAttribution`.
        variant: "cp-lrp" takes attention probabilities for constants, so that no relevance passes through query and
            key: what the authors' package does on torchvision's ViT. With γ = ε = 0 that is `LibraGrad` on input times
            gradient.
        gamma: γ of the linear layers, except the projections of an attention: how much more a contribution counts that
            has the sign of its sum. Maps without it are noisy; above 0 each of these layers takes about twice the time.
            `captum_vit.evaluation.choose_gamma` finds this pair by how faithful maps of your own images are.
        patch_gamma: γ of the patch embedding.
        epsilon: ε of the same layers: relevance that a sum close to zero keeps for itself.

    Raises:
        TypeError: an option of another type.
        ValueError: an option outside its range.
    """

    name = "AttnLRP"
    class_specific = True
    signed = True
    pixel_level = True
    has_own_rules = True
    passes = "1 forward + 1 backward"
    memory = "the graph from the images on"
    reference = "arXiv:2402.05602, section 3"

    def __init__(
        self,
        model: nn.Module,
        *,
        variant: Variant = "attnlrp",
        gamma: float = 0.0,
        patch_gamma: float = 0.0,
        epsilon: float = 0.0,
    ) -> None:
        super().__init__(model)
        self.variant = checked_choice("variant", variant, _VARIANTS)
        self.gamma = checked_number("gamma", gamma, 0)
        self.patch_gamma = checked_number("patch_gamma", patch_gamma, 0)
        self.epsilon = checked_number("epsilon", epsilon, 0)

    @property
    def multiplies_by_inputs(self) -> bool:
        return True

    def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        """Input times gradient, (B, T, C, H, W)."""
        adapter = self.forward_func
        images = images.detach().requires_grad_()
        linear = LinearRules(gamma=self.gamma, patch_gamma=self.patch_gamma, epsilon=self.epsilon)
        rules = linear.rules(ATTN_LRP if self.variant == "attnlrp" else LIBRA)
        with linear.watch(adapter), BackwardRules(self.name, rules):
            traced = trace(adapter, images, gradients=True)
        relevance = [
            attention.relevance_dtype(gradient) * attention.relevance_dtype(images)
            for (gradient,) in target_gradients(traced.logits, targets, [images], "the images")
        ]
        return torch.stack(relevance, 1)

    def _why_blank(self) -> str:
        return (
            "no gradient of the target reaches a pixel that is not zero. A head whose weights are zero does that, an "
            "output that no pixel changes, and an image that is zero everywhere"
        )
