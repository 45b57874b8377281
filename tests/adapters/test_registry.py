from __future__ import annotations

import copy

import pytest
import timm
import torch
import torchvision
import transformers
from adapter_checks import assert_same
from models import random_images, tiny_models
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from captum_vit import Adapter, adapt, register_adapter
from captum_vit.adapters import find_adapter, known_families, registry, trace
from captum_vit.adapters.timm import TimmAdapter

TWO_TOWERS = ["hf_clip", "hf_siglip", *(name for name in tiny_models() if name.startswith("open_clip_"))]


@pytest.fixture
def vit():
    return tiny_models()["timm_vit"]()[0]


@pytest.fixture
def empty_register(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})


@pytest.mark.parametrize("name", tiny_models())
def test_model_finds_the_adapter_of_its_library(name):
    model, _ = tiny_models()[name]()
    adapter = find_adapter(model)
    library = name.partition("_")[0].replace("hf", "huggingface").replace("open", "open_clip")
    assert type(adapter).__module__ == f"captum_vit.adapters.{library}"
    assert adapter.model is model
    assert not adapter.training
    if name not in TWO_TOWERS:
        assert type(adapt(model)) is type(adapter)


def test_subclass_of_a_known_model_is_known(vit):
    class Own(VisionTransformer):
        pass

    vit.__class__ = Own
    assert isinstance(adapt(vit), TimmAdapter)


def test_adapter_is_its_own_adapter(vit):
    adapter = adapt(vit)
    assert adapt(adapter) is adapter


def test_data_parallel_is_unwrapped(vit):
    assert adapt(nn.DataParallel(vit)).model is vit


def test_distributed_data_parallel_is_unwrapped(vit, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(vit)
        images = random_images(1, (64, 64))
        assert adapt(wrapped).model is vit
        assert_same(trace(adapt(wrapped), images).logits, wrapped(images).detach())
    finally:
        torch.distributed.destroy_process_group()


class OwnViT(nn.Module):
    """A user's vision transformer: the mean of the tokens of one block of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 16, 16)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.block(self.embed(images).flatten(2).transpose(1, 2)).mean(1))


class OwnAdapter(Adapter):
    family = "own ViT"
    pooling = "mean"
    num_prefix_tokens = 0
    num_outputs = 4

    @property
    def blocks(self) -> list[nn.Module]:
        return [self.model.block]

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return self._divided_grid((16, 16), height, width)

    def readout(self, tokens: Tensor, *, final_norm: bool = True) -> Tensor:
        return self.model.head(tokens.mean(1))

    def pool_weights(self, num_tokens: int) -> Tensor:
        return self._token_weights(num_tokens, slice(None))


@pytest.mark.usefixtures("empty_register")
def test_registered_adapter_serves_a_class_and_its_subclasses():
    class Finer(OwnViT):
        pass

    assert register_adapter(OwnViT)(OwnAdapter) is OwnAdapter
    for model_class in (OwnViT, Finer):
        model = model_class().double().eval()
        adapter, images = adapt(model), random_images(2, (48, 32))
        assert isinstance(adapter, OwnAdapter)
        traced = trace(adapter, images)
        assert_same(traced.logits, model(images).detach())
        assert_same(adapter.readout(traced.tokens).detach(), traced.logits)
        assert traced.blocks[0].shape == (2, 2, 6, 6)
    assert f"{__name__.partition('.')[0]} OwnViT" in known_families()


@pytest.mark.usefixtures("empty_register")
def test_registered_adapter_goes_before_the_package_own(vit):
    class Replacement(TimmAdapter):
        pass

    class Later(TimmAdapter):
        pass

    register_adapter(VisionTransformer)(Replacement)
    assert type(adapt(vit)) is Replacement
    register_adapter(VisionTransformer)(Later)
    assert type(adapt(vit)) is Later


def test_known_families_name_library_and_class():
    families = known_families()
    assert families == sorted(families)
    for name in ("timm Eva", "torchvision VisionTransformer", "open_clip CoCa", "transformers SiglipModel"):
        assert name in families


WINDOWS = "it attends inside windows"
CONVOLUTIONS = "it is a convolutional network without attention"
REFUSED = {
    "ResNet": (lambda: timm.create_model("resnet18"), CONVOLUTIONS),
    "ConvNeXt": (lambda: timm.create_model("convnext_atto"), CONVOLUTIONS),
    "SwinTransformer": (lambda: timm.create_model("swin_tiny_patch4_window7_224"), WINDOWS),
    "SwinTransformerV2": (lambda: timm.create_model("swinv2_tiny_window8_256"), WINDOWS),
    "Cait": (lambda: timm.create_model("cait_xxs24_224"), "its patch blocks mix heads"),
    "Xcit": (lambda: timm.create_model("xcit_nano_12_p16_224"), "it attends between channels"),
    "MaxxVit": (lambda: timm.create_model("maxvit_rmlp_pico_rw_256"), WINDOWS),
    "VOLO": (lambda: timm.create_model("volo_d1_224"), "its outlook attention covers neighbourhoods"),
    "Levit": (lambda: timm.create_model("levit_128s", distilled=False), "its attention shrinks the patch grid"),
    "LevitDistilled": (lambda: timm.create_model("levit_128s"), "its attention shrinks the patch grid"),
    "torchvision ResNet": (torchvision.models.resnet18, CONVOLUTIONS),
    "torchvision SwinTransformer": (torchvision.models.swin_t, WINDOWS),
    "torchvision MaxVit": (torchvision.models.maxvit_t, WINDOWS),
    "SwinForImageClassification": (
        lambda: transformers.SwinForImageClassification(transformers.SwinConfig(depths=[1], num_heads=[2])),
        WINDOWS,
    ),
    "ResNetForImageClassification": (
        lambda: transformers.ResNetForImageClassification(
            transformers.ResNetConfig(depths=[1], hidden_sizes=[64], embedding_size=8)
        ),
        CONVOLUTIONS,
    ),
}


@pytest.mark.filterwarnings("ignore:torch.meshgrid")  # old torch idioms inside the libraries
@pytest.mark.parametrize("name", REFUSED)
def test_models_without_global_attention_are_refused_with_the_reason(name):
    build, reason = REFUSED[name]
    class_name = name.rpartition(" ")[2]
    with pytest.raises(TypeError, match=rf"no adapter knows \S+\.{class_name}: {reason}"):
        adapt(build())


def test_unknown_model_is_refused_with_the_way_to_add_it():
    with pytest.raises(
        TypeError, match=r"no adapter knows \S+\.OwnViT\. Known .* see docs/how-to/write-an-adapter\.md"
    ):
        adapt(OwnViT())
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got str"):
        adapt("vit_base_patch16_224")


@pytest.mark.parametrize("name", TWO_TOWERS)
def test_two_towers_without_prompts_are_refused(name):
    model, _ = tiny_models()[name]()
    with pytest.raises(TypeError, match=rf"{type(model).__name__} compares images with texts .*PromptClassifier\("):
        adapt(model)


def test_compiled_model_is_refused(vit):
    with pytest.raises(TypeError, match=r"the model is compiled; explain the eager model.*_orig_mod"):
        adapt(torch.compile(vit))
    part = copy.deepcopy(vit)
    part.blocks[1] = torch.compile(part.blocks[1])
    with pytest.raises(TypeError, match=r"module 'blocks\.1' is compiled"):
        adapt(part)
    vit.compile()
    with pytest.raises(TypeError, match=r"the model is compiled; .*\.compile\(\) was never called"):
        adapt(vit)


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore::torch.jit.TracerWarning")  # it says that it is old
def test_scripted_and_traced_models_are_refused(vit):
    with pytest.raises(TypeError, match=r"RecursiveScriptModule is scripted or traced; explain the eager model"):
        adapt(torch.jit.script(vit))
    with pytest.raises(TypeError, match=r"TopLevelTracedModule is scripted or traced"):
        adapt(torch.jit.trace(vit, random_images(1, (64, 64))))


@pytest.mark.filterwarnings("ignore:torch.ao.quantization", "ignore:torch.quantize_per_tensor")  # as above
def test_quantised_model_is_refused(vit):
    quantised = torch.ao.quantization.quantize_dynamic(vit.float(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(TypeError, match=r"module 'blocks\.0\.attn\.qkv' \(Linear\) is quantised; explain the floating"):
        adapt(quantised)


def test_quantised_parameter_is_refused(vit):
    class Packed(Tensor):
        """Stands for torchao's tensor subclasses, by which its quantised weights are known."""

    Packed.__module__ = "torchao.dtypes"
    vit.head.weight = nn.Parameter(vit.head.weight.detach().as_subclass(Packed))
    with pytest.raises(TypeError, match=r"parameter 'head\.weight' \(Packed\) is quantised"):
        adapt(vit)


def test_state_in_which_a_model_does_not_predict_is_refused(vit):
    registry.check_state(adapt(vit))
    vit.blocks[1].mlp.train()
    with pytest.raises(RuntimeError, match=r"training mode \(module 'blocks\.1\.mlp'\).*model\.eval\(\)"):
        registry.check_state(adapt(vit))
    vit.eval().set_grad_checkpointing()
    with pytest.raises(RuntimeError, match=r"module 'VisionTransformer' has gradient checkpointing on.*\(False\)"):
        registry.check_state(adapt(vit))
