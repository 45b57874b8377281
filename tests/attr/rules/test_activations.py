"""Every activation that a timm or Hugging Face model can name has a rule in both kinds of rules, or in none of them."""

import copy
from functools import cache

import pytest
import torch
from timm.layers import create_act
from torch import nn
from transformers.activations import ACT2CLS, ACT2FN

from captum_vit import LRP, AttnLRP

TIMM = sorted({*create_act._ACT_LAYER_DEFAULT, *create_act._ACT_LAYER_ME})
HUGGING_FACE = sorted(ACT2CLS)

REFUSED = {
    "timm hard_mish": r"the autograd\.Function timm\.layers\.activations_me\.HardMishAutoFn",
    "hf gelu_10": r"torch\.clip",
    "hf gelu_accurate": r"torch\.pow",
    "hf gelu_new": r"torch\.pow",
    "hf gelu_python": r"torch\.erf",
    "hf gelu_python_tanh": r"torch\.pow",
    "hf laplace": r"torch\.(erf|Tensor\.sub)",
    "hf relu2": r"torch\.square",
    "hf sqrtsoftplus": r"torch\.nn\.functional\.softplus",
    "hf xielu": r"torch\.(expm1|min)",
}
"""Name → what the error names."""


@cache
def activation(library: str, name: str) -> nn.Module:
    made = create_act.get_act_layer(name)() if library == "timm" else ACT2FN[name]
    return made.eval()


@pytest.mark.parametrize(
    ("library", "name"),
    [*(("timm", each) for each in TIMM), *(("hf", each) for each in HUGGING_FACE)],
    ids=str,
)
def test_both_kinds_of_rules_know_it_or_refuse_it_by_name(vit, images, library, name):
    model = copy.deepcopy(vit)
    model.blocks[1].mlp.act = activation(library, name).double()
    refused = REFUSED.get(f"{library} {name}")
    for method, lack in ((AttnLRP, "AttnLRP has no rule for"), (LRP, "no relevance rule is known for")):
        if refused is None:
            assert method(model).attribute(images[:1], target=1).isfinite().all()
        else:
            with pytest.raises(RuntimeError, match=rf"{lack} {refused}, which blocks\.1\.mlp\.act"):
                method(model).attribute(images[:1], target=1)


def test_names_were_found():
    assert {"gelu", "quick_gelu", "hard_mish", "selu"} <= set(TIMM)
    assert {"gelu", "quick_gelu", "gelu_new", "relu2"} <= set(HUGGING_FACE)
    assert torch.is_tensor(activation("hf", "gelu")(torch.ones(1)))
