import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor


@pytest.fixture(scope="session")
def vit() -> VisionTransformer:
    """A tiny classifier in float64: 4×6 patches, class token, three blocks, five classes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VisionTransformer(
            img_size=(32, 48), patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=5, qkv_bias=True
        )
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval().double()


@pytest.fixture(scope="session")
def images() -> Tensor:
    """Three images for it."""
    return torch.randn(3, 3, 32, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture(scope="session")
def target() -> Tensor:
    """A different class for each image."""
    return torch.tensor([4, 0, 2])
