import copy

import pytest
import torch
from models import tiny_models
from torch import nn

from captum_vit.metrics.functional import block_groups, redraw
from captum_vit.metrics.functional.parameter_groups import kept, named_groups

MODELS = tiny_models()
FAMILIES = ["timm_vit", "timm_siglip", "timm_beit", "hf_dinov2_registers", "open_clip_vit", "torchvision_vit"]


WHOLE_CLIPS = [name for name in MODELS if name in ("hf_clip", "hf_siglip") or name.startswith("open_clip")]


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_is_in_one_group(name):
    model, _ = MODELS[name]()
    if name in WHOLE_CLIPS:
        model = model.vision_model if name.startswith("hf") else model.visual
    groups = block_groups(model)
    assert next(iter(groups)) == "embedding"
    assert list(groups)[-1] == "head"
    assert len(groups) == 5  # three blocks
    found = sorted(id(each) for parameters in groups.values() for each in parameters)
    assert found == sorted(id(each) for each in model.parameters())


@pytest.mark.parametrize(
    ("name", "blocks", "embedding", "head"),
    [
        (
            "timm_vit",
            ["blocks.0", "blocks.1", "blocks.2"],
            {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"},
            {"norm.weight", "norm.bias", "head.weight", "head.bias"},
        ),
        (
            "torchvision_vit",
            [f"encoder.layers.encoder_layer_{index}" for index in range(3)],
            {"class_token", "encoder.pos_embedding", "conv_proj.weight", "conv_proj.bias"},
            {"encoder.ln.weight", "encoder.ln.bias", "heads.head.weight", "heads.head.bias"},
        ),
    ],
)
def test_groups_follow_the_model_from_its_input_to_its_output(name, blocks, embedding, head):
    model, _ = MODELS[name]()
    names = {id(each): name for name, each in model.named_parameters()}
    groups = {group: {names[id(each)] for each in parameters} for group, parameters in block_groups(model).items()}
    assert list(groups) == ["embedding", *blocks, "head"]
    assert (groups["embedding"], groups["head"]) == (embedding, head)
    for block in blocks:
        assert all(each.startswith(f"{block}.") for each in groups[block])


@pytest.mark.parametrize("name", WHOLE_CLIPS)
def test_a_model_of_two_towers_is_refused(name):
    model, _ = MODELS[name]()
    with pytest.raises(ValueError, match=r"one list of blocks, got '.+' and '.+'\. Pass the image tower"):
        block_groups(model)


@pytest.mark.parametrize("wrap", [lambda tower: tower, lambda tower: nn.ModuleDict({"tower": tower})])
def test_what_is_registered_early_and_used_late_is_the_head(wrap):
    """As OpenCLIP registers its final projection; the projection inside the patch embedding stays."""
    tower = nn.Module()
    tower.proj = nn.Parameter(torch.ones(2))
    tower.proj_norm = nn.LayerNorm(2)
    tower.fc_norm = nn.LayerNorm(2)
    tower.visual_projection = nn.Linear(2, 2)
    tower.heads = nn.ModuleDict({"last": nn.Linear(2, 2)})
    tower.embed = nn.ModuleDict({"proj": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
    tower.encoder = nn.ModuleDict({"head_norm": nn.LayerNorm(2), "blocks": blocks})
    model = wrap(tower)
    names = {id(each): name.removeprefix("tower.") for name, each in model.named_parameters()}
    groups = block_groups(model)
    assert {names[id(each)].partition(".")[0] for each in groups["embedding"]} == {"proj_norm", "embed"}
    late = {"proj", "fc_norm", "visual_projection", "heads", "encoder"}
    assert {names[id(each)].partition(".")[0] for each in groups["head"]} == late


def test_the_projection_of_an_open_clip_tower_is_in_its_head():
    model, _ = MODELS["open_clip_vit"]()
    tower = model.visual
    head = {id(each) for each in block_groups(tower)["head"]}
    assert head == {id(tower.proj), id(tower.ln_post.weight), id(tower.ln_post.bias)}


def test_of_lists_of_one_length_the_larger_is_taken():
    model = nn.ModuleDict(
        {
            "words": nn.ModuleList(nn.Linear(2, 2) for _ in range(3)),
            "pixels": nn.ModuleList(nn.Linear(4, 4) for _ in range(3)),
            "mixed": nn.Sequential(nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU()),
        }
    )
    assert list(block_groups(model)) == ["embedding", "pixels.0", "pixels.1", "pixels.2", "head"]


@pytest.mark.parametrize("name", FAMILIES)
def test_redraw_changes_every_number(name):
    model, _ = MODELS[name]()
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    redraw(model, model.parameters(), seed=0)
    norms = {
        name: float(part.endswith("weight"))
        for module_name, module in model.named_modules()
        if isinstance(module, nn.LayerNorm)
        for part, _ in module.named_parameters()
        for name in [f"{module_name}.{part}"]
    }
    assert norms
    for each, parameter in model.named_parameters():
        if each in norms:
            assert (parameter == norms[each]).all()
        else:
            assert (parameter != before[each]).all()


def test_redraw_reaches_what_reset_parameters_does_not():
    model, _ = MODELS["torchvision_vit"]()
    before = copy.deepcopy(model)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    pairs = zip(model.named_parameters(), before.parameters(), strict=True)
    untouched = {name.rpartition(".")[2] for (name, new), old in pairs if torch.equal(new, old)}
    assert {"class_token", "pos_embedding", "in_proj_weight"} <= untouched
    redraw(model, model.parameters(), seed=0)
    assert not any(torch.equal(new, old) for new, old in zip(model.parameters(), before.parameters(), strict=True))


def test_redraw_draws_normal_numbers_of_its_own_from_the_seed():
    model = nn.Sequential(nn.Linear(100, 200), nn.Linear(100, 200))
    state = torch.get_rng_state()
    redraw(model, model.parameters(), seed=3, std=0.5)
    assert torch.equal(torch.get_rng_state(), state)
    first, second = (each.weight.detach().clone() for each in model)
    torch.testing.assert_close(first.std().item(), 0.5, rtol=0.02, atol=0)
    assert abs(first.mean()) < 0.02
    assert (first != second).all()
    redraw(model, model.parameters(), seed=3, std=0.5)
    assert torch.equal(model[0].weight, first)
    redraw(model, model.parameters(), seed=4, std=0.5)
    assert (model[0].weight != first).all()


def test_redraw_leaves_buffers_and_the_rest_of_the_model():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3))
    with torch.no_grad():
        model[0].running_mean += 2
    before = copy.deepcopy(model.state_dict())
    redraw(model, model[0].parameters(), seed=0)
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())  # a norm as it was made
    redraw(model, model[1].parameters(), seed=0)
    changed = {name for name, each in model.state_dict().items() if not torch.equal(each, before[name])}
    assert changed == {"1.weight", "1.bias"}


def test_redraw_refuses_what_is_not_of_floating_point():
    model = nn.ParameterList([nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False)])
    with pytest.raises(TypeError, match=r"floating point to be drawn anew, got torch\.int8"):
        redraw(model, model.parameters(), seed=0)


@pytest.mark.parametrize("fail", [False, True])
def test_kept_parameters_come_back_bit_for_bit(fail):
    model, _ = MODELS["torchvision_vit"]()
    model.heads.head.bias.requires_grad_(False)
    with torch.no_grad():
        model.class_token[0, 0, :2] = torch.tensor([torch.nan, -0.0], dtype=torch.float64)
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    identities = [id(each) for each in model.parameters()]
    groups = block_groups(model)
    try:
        with kept(groups):
            redraw(model, model.parameters(), seed=0)
            if fail:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fail
    assert [id(each) for each in model.parameters()] == identities
    for name, each in model.named_parameters():
        assert torch.equal(each.view(torch.int64), before[name].view(torch.int64))
        assert each.requires_grad == (name != "heads.head.bias")
        assert each.grad is None


def test_named_groups_take_modules_and_parameters():
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    groups = named_groups(model, [("first", [model["a"].bias, model["b"]]), ("then", [model["a"].weight])])
    assert list(groups) == ["first", "then"]
    assert [id(each) for each in groups["first"]] == [id(model["a"].bias), *(id(p) for p in model["b"].parameters())]


def test_groups_that_do_not_fit_are_refused():
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2), "c": nn.ReLU()})
    with pytest.raises(ValueError, match="at least one group, got none"):
        named_groups(model, [])
    with pytest.raises(ValueError, match="different names, got 'x' twice"):
        named_groups(model, [("x", [model["a"]]), ("x", [model["b"]])])
    with pytest.raises(ValueError, match="got none in 'x'"):
        named_groups(model, [("x", [model["c"]])])
    with pytest.raises(ValueError, match="own parameters, got one of others in 'x'"):
        named_groups(model, [("x", [nn.Linear(2, 2)])])
    with pytest.raises(ValueError, match=r"must not share parameters, got a\.bias in 'x' and in 'y'"):
        named_groups(model, [("x", [model["a"]]), ("y", [model["a"].bias])])
    with pytest.raises(TypeError, match="must hold modules and parameters, got str"):
        named_groups(model, [("x", ["a"])])
    with pytest.raises(ValueError, match=r"equal blocks, got ModuleDict without one\. Name the groups"):
        block_groups(model)
