"""torchvision: `vit_b_16` and its siblings."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from captum_vit.adapters.base import Adapter
from captum_vit.adapters.branch import AttentionBranch

__all__ = ["TorchvisionAdapter"]


class TorchvisionAdapter(Adapter):
    """`torchvision.models.VisionTransformer`: one class token, square images of one size."""

    family = "torchvision VisionTransformer"
    pooling = "class"
    num_prefix_tokens = 1
    first_norm, second_norm = "ln_1", "ln_2"
    takes_extra_tokens = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.in_channels = next(
            each for each in self.model.conv_proj.modules() if isinstance(each, nn.Conv2d)
        ).in_channels
        self.num_outputs = self.model.num_classes

    @property
    def blocks(self) -> Sequence[nn.Module]:
        blocks: Sequence[nn.Module] = self.model.encoder.layers
        return blocks

    @property
    def native_size(self) -> tuple[int, int]:
        return self.model.image_size, self.model.image_size

    def grid(self, height: int, width: int) -> tuple[int, int]:
        size, patch = self.model.image_size, self.model.patch_size
        remedy = "Resize the image to a square of that size, or create the model with another image_size."
        return self._fixed_grid((size, size), height, width, (size // patch, size // patch), remedy)

    def readout(self, tokens: Tensor, *, final_norm: bool = True) -> Tensor:
        normed = self.model.encoder.ln(tokens) if final_norm else tokens
        logits: Tensor = self.model.heads(normed[:, 0])
        return logits

    def attention_branch(self, index: int) -> AttentionBranch:
        block = self.model.encoder.layers[index]
        return AttentionBranch.of(block.ln_1, block.self_attention.out_proj)

    @property
    def final_norm(self) -> nn.Module:
        norm: nn.Module = self.model.encoder.ln
        return norm

    def pool_weights(self, num_tokens: int) -> Tensor:
        return self._token_weights(num_tokens, slice(0, 1))
