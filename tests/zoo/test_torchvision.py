from __future__ import annotations

import pytest
import torch
import torchvision

from captum_vit.zoo import WeightsUnavailableError, load_image, load_model

IMAGE = load_image("skimage:coffee")


@pytest.fixture(scope="module")
def untrained():
    return load_model("torchvision:vit_b_32", weights="untrained")


def test_the_head_of_an_untrained_model_is_not_zero(untrained):
    assert torchvision.models.vit_b_32().heads.head.weight.abs().max() == 0  # what there would be otherwise
    assert 0.015 < untrained.model.heads.head.weight.std() < 0.025
    assert not any(module.training for module in untrained.model.modules())


def test_the_preprocessing_is_that_of_the_default_weights(untrained):
    own = torchvision.models.ViT_B_32_Weights.DEFAULT.transforms()
    torch.testing.assert_close(untrained.preprocess(IMAGE), own(IMAGE), rtol=0, atol=0)
    assert (untrained.image_size, untrained.mean, untrained.outputs) == ((224, 224), (0.485, 0.456, 0.406), "classes")


def test_a_checkpoint_brings_classes_and_is_interpolated_to_another_size(untrained, tmp_path):
    state = dict(untrained.model.state_dict())
    state["heads.head.weight"], state["heads.head.bias"] = torch.ones(4, 768), torch.arange(4.0)
    torch.save(state, tmp_path / "a.pth")
    loaded = load_model("torchvision:vit_b_32", checkpoint=tmp_path / "a.pth", image_size=96)
    assert (loaded.model.num_classes, loaded.class_names, loaded.pretrained) == (4, None, True)
    torch.testing.assert_close(loaded.model.heads.head.bias, torch.arange(4.0), rtol=0, atol=0)
    assert loaded.model.encoder.pos_embedding.shape == (1, 10, 768)
    assert loaded.preprocess(IMAGE).shape == (3, 96, 96)


def test_weights_that_cant_be_downloaded(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path))
    monkeypatch.setattr("captum_vit.zoo.torchvision.answers", lambda url: False)
    with pytest.raises(WeightsUnavailableError, match=r"vit_b_32-d86f8d99\.pth does not answer \(no network\?\)"):
        load_model("torchvision:vit_b_32")


def test_names_and_sizes_that_do_not_exist():
    with pytest.raises(ValueError, match=r"no vision transformer 'vit_b_61'\. The nearest names: vit_b_16"):
        load_model("torchvision:vit_b_61")
    with pytest.raises(ValueError, match=r"no weights 'V9' for vit_b_16\. It has IMAGENET1K_V1, "):
        load_model("torchvision:vit_b_16/V9")
    with pytest.raises(ValueError, match="image_size must be square for torchvision:vit_b_16, got 224×448"):
        load_model("torchvision:vit_b_16", weights="untrained", image_size=(224, 448))
    with pytest.raises(ValueError, match="multiple of the patch size of torchvision:vit_b_16, got 230"):
        load_model("torchvision:vit_b_16", weights="untrained", image_size=230)
