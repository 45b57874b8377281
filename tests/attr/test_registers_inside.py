"""Methods that look into the model, on a model with test-time registers."""

import cases
import pytest
import torch
import torch.nn.functional as F
from oracle import exact, gradients, random_gradient
from plain_lrp import plain_lrp
from plain_registers import plain_registers, with_own_registers
from planted import NEURON, with_register_neuron
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from captum_vit import (
    CAAP,
    GEM,
    LRP,
    METHODS,
    PartialLRP,
    PromptClassifier,
    ReciproCAM,
    TestTimeRegisters,
    TextSpan,
    TransformerAttribution,
)
from captum_vit.adapters import adapt
from captum_vit.adapters.entries import watch_entries
from captum_vit.adapters.registers import RegisterAdapter, moved_activations
from captum_vit.attr.relevance.call import Call
from captum_vit.attr.relevance.rules import rule_of

NEURONS = [NEURON, (0, 3), (0, 40), (1, 7), (2, 11)]
BY_LOOPS = (LRP, PartialLRP, TransformerAttribution)
"""Their rules depend on how a move is computed: compared with plain loops below."""


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    scale = expected.abs().max()
    torch.testing.assert_close(actual / scale, expected / scale, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def planted(vit, images) -> VisionTransformer:
    return with_register_neuron(vit, images)


@pytest.mark.parametrize("options", [{}, {"registers": 3}, {"patches": "mean"}])
def test_a_model_with_registers_of_its_own_is_the_plain_one(planted, images, options):
    own = with_own_registers(planted, NEURONS, options.get("registers", 1), options.get("patches", "zero"))
    expected, _, _ = plain_registers(
        planted, images, NEURONS, options.get("registers", 1), options.get("patches", "zero")
    )
    exact(own(images), expected)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method not in BY_LOOPS])
def test_every_map_is_that_of_a_model_with_registers_of_its_own(planted, images, target, name):
    own = with_own_registers(planted, NEURONS, 2, "mean")
    wrapped = TestTimeRegisters(cases.built(METHODS[name], planted), NEURONS, registers=2, patches="mean")
    actual = wrapped.attribute(images, target=target)
    close(actual, cases.built(METHODS[name], own).attribute(images, target=target))


DEEP = {
    "caap from the first block": lambda model: CAAP(model, blocks=[0, 1, 2], radius=1),
    "caap, the other way": lambda model: CAAP(model, blocks=[1, 2], direction="remove", baseline=0.3),
    "recipro-cam from the first block": lambda model: ReciproCAM(model, block=0, keep_prefix=False),
    "gem of two blocks": lambda model: GEM(model, num_blocks=2, iterations=2),
}


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("pooling", ["token", "avg"])
def test_passes_over_some_of_the_blocks_move_activations_too(planted, images, target, name, pooling):
    planted.global_pool = pooling
    try:
        own = with_own_registers(planted, NEURONS, 2, "zero")
        actual = TestTimeRegisters(DEEP[name](planted), NEURONS, registers=2).attribute(images, target=target)
        close(actual, DEEP[name](own).attribute(images, target=target))
        assert (actual - DEEP[name](planted).attribute(images, target=target)).abs().max() > 1e-6
    finally:
        planted.global_pool = "token"


@pytest.mark.parametrize("name", ["open_clip_siglip", "hf_clip"])  # the first with a logit bias
def test_gem_compares_prompts_with_each_token_of_the_path_with_registers(name):
    case = cases.case(name)
    wrapped = TestTimeRegisters(GEM(case.model), [(0, 3), (1, 7)], registers=2)
    path = wrapped._inside()._path(case.images)
    patches = path[:, 2 + case.model.num_prefix_tokens :]
    assert patches.shape[1] == case.grid[0] * case.grid[1]
    embedding = case.model.tower.readout_of_each(patches).detach()
    cosine = F.cosine_similarity(embedding[:, :, None], case.model.embeddings, dim=-1)  # (B, n, K)
    ours = wrapped.attribute_targets(case.images, [0, 1, 2]).flatten(2)
    exact(ours, case.model.scale * cosine.transpose(1, 2).detach())
    assert (ours - GEM(case.model).attribute_targets(case.images, [0, 1, 2]).flatten(2)).abs().max() > 1e-6


RESUMED = ["timm_vit_reg_gap", "timm_siglip", "hf_dinov2", "hf_clip", "open_clip_vit_quickgelu", "torchvision_vit"]


@pytest.mark.parametrize("name", RESUMED)
def test_a_model_with_registers_can_be_resumed_at_every_block(name):
    case = cases.case(name)
    inner = adapt(case.model)
    adapter = RegisterAdapter(inner, {0: [3], 1: [7], 2: [11]}, 2, "zero")
    with torch.no_grad(), watch_entries(adapter, 0) as entries:
        logits = adapter(case.images)
    gh, gw = case.grid
    assert (logits - case.logits(case.images)).abs().max() > 1e-6
    with torch.no_grad():
        for block in range(len(adapter.blocks)):
            assert entries.tokens[block].shape[1] == adapter.num_prefix_tokens + gh * gw
            entries.check(block, logits)
            exact(entries.resume(entries.tokens[block][[2, 0]], block), logits[[2, 0]])
        exact(inner(case.images), case.logits(case.images))


@pytest.mark.parametrize("name", ["timm_vit", "timm_vit_reg", "hf_clip", "open_clip_vit", "torchvision_vit"])
def test_contributions_sum_to_the_embedding_of_the_model_with_registers(name):
    case = cases.case(name)
    model, images = case.model, case.images
    if isinstance(model, PromptClassifier):
        identity = torch.eye(model.tower.num_outputs, dtype=torch.float64)
        model = PromptClassifier(model.tower, embeddings=identity, logit_scale=1.0, logit_bias=0.0)
    wrapped = TestTimeRegisters(TextSpan(model), [(0, 3), (1, 7), (2, 11)], registers=2)
    with torch.no_grad():
        expected = wrapped.forward_func(images)
    parts = wrapped.contributions(images)
    exact(parts.total(), expected)
    assert (expected - adapt(model)(images)).abs().max() > 1e-6
    prefix = adapt(model).num_prefix_tokens
    assert parts.heads.shape[3] == 2 + prefix + case.grid[0] * case.grid[1]
    ours = wrapped.attribute(images, target=1, resolution="patch").flatten(1)
    exact(ours, parts.heads.sum((1, 2))[:, 2 + prefix :, 1])


def test_contributions_are_those_of_a_model_with_registers_of_its_own(planted, images):
    own = TextSpan(with_own_registers(planted, NEURONS, 2, "zero")).contributions(images)
    ours = TestTimeRegisters(TextSpan(planted), NEURONS, registers=2).contributions(images, internal_batch_size=2)
    exact(ours.embedding, own.embedding)
    exact(ours.mlps, own.mlps)
    places = [1, 2, 0, *range(3, 27)]  # registers come first here, behind the class token there
    exact(ours.heads, own.heads[:, :, :, places])
    assert ours.heads[:, :, :, :2].abs().max() > 1e-3


TARGETS, SMALL = (2, 0), [(0, 3), (1, 7), (0, 5)]


@pytest.fixture(scope="module")
def small() -> VisionTransformer:
    """Two blocks of two heads on 2×3 patches, every parameter random."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = VisionTransformer(
            img_size=(8, 12), patch_size=4, embed_dim=8, depth=2, num_heads=2, num_classes=3, mlp_ratio=1.5
        )
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return model.eval().double()


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


@pytest.mark.parametrize("rules", ["ours", "original"])
def test_relevance_through_registers_is_the_plain_loop(small, pictures, rules):
    each = [
        plain_lrp(small, image.numpy(), target, rules == "ours", SMALL, 2)
        for image, target in zip(pictures, TARGETS, strict=True)
    ]
    pixels = torch.stack([torch.from_numpy(pixel) for pixel, _ in each])
    maps = [torch.stack([torch.from_numpy(own[block]) for _, own in each]) for block in range(2)]  # (B, h, N, N)

    def explained(method, **options: object) -> Tensor:
        wrapped = TestTimeRegisters(method(small, rules=rules), SMALL, registers=2)
        return wrapped.attribute(pictures, target=TARGETS, **options)

    close(explained(LRP), pixels, 1e-9)
    patches = F.avg_pool2d(pixels.sum(1, keepdim=True), 4, divisor_override=1)
    close(explained(LRP, resolution="patch"), patches, 1e-9)
    last = maps[-1].clamp(min=0).mean(1)[:, 2, 3:]
    close(explained(PartialLRP, resolution="patch"), last.reshape(2, 1, 2, 3), 1e-9)
    logits, attentions, _ = plain_registers(small, pictures, SMALL, 2, "zero")
    weights = gradients(logits.gather(1, torch.tensor(TARGETS)[:, None]).sum(), attentions)
    product = torch.eye(9, dtype=torch.float64).expand(2, 9, 9)
    for relevance, gradient in zip(maps, weights, strict=True):
        product = product + (relevance * gradient).clamp(min=0).mean(1) @ product
    close(explained(TransformerAttribution, resolution="patch"), product[:, 2, 3:].reshape(2, 1, 2, 3), 1e-9)
    plain = LRP(small, rules=rules).attribute(pictures, target=TARGETS)
    assert (explained(LRP) - plain).abs().max() > 1e-3 * plain.abs().max()


@pytest.mark.parametrize("patches", ["zero", "mean"])
def test_a_move_hands_relevance_back_to_where_activations_came_from(patches):
    """To the farthest patch what all registers have, to each patch its share of the mean; nothing is lost."""
    activations = random_gradient(2, 9, 6).requires_grad_()
    neurons = torch.tensor([True, False, True, False, False, True])
    rule = rule_of(moved_activations)
    assert rule is not None
    moved = rule(Call(moved_activations, (activations, neurons, 2, 1, patches), {}, "ours", activations))
    relevance = random_gradient(2, 9, 6, seed=1)
    if patches == "zero":  # a linear layer sends nothing to zeros
        relevance = relevance * moved.detach().ne(0)
    (arrived,) = torch.autograd.grad(moved, activations, relevance)
    expected = relevance.clone()
    for image in range(2):
        for neuron in neurons.nonzero().flatten().tolist():
            on_patches = activations[image, 3:, neuron].detach().tolist()
            share = float(relevance[image, 3:, neuron].sum())
            back = [share * each / sum(on_patches) for each in on_patches]
            back[on_patches.index(max(on_patches, key=abs))] += float(relevance[image, :2, neuron].sum())
            expected[image, :2, neuron] = 0
            expected[image, 3:, neuron] = torch.tensor(back)
    torch.testing.assert_close(arrived, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(arrived.sum(1), relevance.sum(1), rtol=0, atol=1e-6)
