import pytest
import torch
from cases import case
from oracle import exact, gradients, plain_parts, plain_pass, random_attention, random_gradient
from torch import Tensor

from captum_vit import BidirectionalAttention, BlankMapError
from captum_vit.attr import bidirectional_attention, head_importance


def importance_in_loops(attention: Tensor, gradient: Tensor) -> Tensor:
    """Mean over all j, k of |Σ_i A_ij ∇A_ik| of each head of one image (h, N, N), scaled to sum to one."""
    size = attention.shape[-1]
    found = []
    for a, g in zip(attention, gradient, strict=True):
        entries = [abs(sum(float(a[i, j] * g[i, k]) for i in range(len(a)))) for j in range(size) for k in range(size)]
        found.append(sum(entries) / size**2)
    return torch.tensor(found, dtype=torch.float64) / sum(found)


def perception_in_loops(attentions: list[Tensor], heads: list[Tensor], tokens: list[Tensor]) -> Tensor:
    """R ← R + (Σ_h I_h A_h) diag(θ) R from the identity, of one image, (N, N)."""
    r = torch.eye(attentions[0].shape[-1], dtype=torch.float64)
    for a, shares, theta in zip(attentions, heads, tokens, strict=True):
        mixed = sum(float(share) * head for share, head in zip(shares, a, strict=True))
        r = r + mixed @ torch.diag(theta) @ r
    return r


@pytest.fixture
def arguments() -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
    attentions = [random_attention(2, 3, 5, 5, seed=seed) for seed in range(3)]
    heads = [random_attention(2, 3, seed=10 + seed) for seed in range(3)]
    tokens = [random_gradient(2, 5, seed=20 + seed).abs() for seed in range(3)]
    return attentions, heads, tokens, random_gradient(2, 3, 5, 5, seed=7)


def maps_in_loops(attentions, heads, tokens, feedback: Tensor, start: Tensor) -> Tensor:
    """Σ_i π_i mean_h(F_ij⁺) R_ij with full matrices, (B, N)."""
    results = []
    for image in range(len(feedback)):
        r = perception_in_loops(*([each[image] for each in part] for part in (attentions, heads, tokens)))
        positive = sum(head.clamp(min=0) for head in feedback[image]) / feedback.shape[1]
        results.append(sum(start[i] * positive[i] * r[i] for i in range(len(start))))
    return torch.stack(results)


@pytest.mark.parametrize("start", [[1.0, 0, 0, 0, 0], [0, 0.25, 0.25, 0.25, 0.25], [0.5, 0, 0.5, 0, 0]])
def test_is_feedback_times_perception_of_the_pooled_tokens(arguments, start):
    attentions, heads, tokens, feedback = arguments
    shares = torch.tensor(start, dtype=torch.float64)
    rows = feedback[:, :, shares.nonzero().squeeze(1)]
    actual = bidirectional_attention(attentions, rows, head_weights=heads, token_weights=tokens, start=shares)
    exact(actual, maps_in_loops(attentions, heads, tokens, feedback, shares))
    mean, one = [torch.full_like(heads[0], 1 / 3)] * 3, [torch.ones_like(tokens[0])] * 3
    plain = bidirectional_attention(attentions, rows, start=shares)
    exact(plain, maps_in_loops(attentions, mean, one, feedback, shares))


def test_a_pooler_is_one_block_more_without_the_identity(arguments):
    attentions, heads, tokens, _ = arguments
    pooler, shares = random_attention(2, 2, 2, 4, seed=5), random_attention(2, 2, seed=6)
    feedback = random_gradient(2, 2, 2, 4, seed=8)
    start = torch.tensor([0.5, 0.5], dtype=torch.float64)
    actual = bidirectional_attention(
        attentions,
        feedback,
        head_weights=heads,
        token_weights=tokens,
        start=start,
        pooler=pooler,
        pooler_head_weights=shares,
    )
    for image in range(2):
        r = perception_in_loops(*([each[image] for each in part] for part in (attentions, heads, tokens)))
        mixed = sum(float(share) * head for share, head in zip(shares[image], pooler[image], strict=True))
        rows = torch.cat([torch.zeros(2, 1, dtype=torch.float64), mixed], 1) @ r  # it reads no prefix token
        positive = torch.cat([torch.zeros(2, 1, dtype=torch.float64), feedback[image].clamp(min=0).mean(0)], 1)
        exact(actual[image], (0.5 * positive * rows).sum(0))


def test_head_importance_is_the_paper_in_loops():
    attention, gradient = random_attention(2, 3, 4, 5), random_gradient(2, 3, 4, 5)
    expected = torch.stack([importance_in_loops(*pair) for pair in zip(attention, gradient, strict=True)])
    exact(head_importance(attention, gradient), expected)
    exact(head_importance(attention, 0 * gradient), torch.zeros(2, 3, dtype=torch.float64))


@pytest.mark.parametrize("approximation", ["head", "token"])
@pytest.mark.parametrize(("options", "first"), [({}, None), ({"start_block": -1, "steps": 4}, 2)])
def test_method_is_the_authors_code_in_loops(vit, images, target, approximation, options, first):
    first = (0 if approximation == "head" else 1) if first is None else first  # 3 of 12 and 5 of 12 for three blocks
    steps = options.get("steps", 20)
    plain = plain_pass(vit, images)
    attentions = [each.detach() for each in plain.attentions][first:]
    if approximation == "head":
        grads = gradients(plain.logits.gather(1, target[:, None]).sum(), plain.attentions)[first:]
        pairs = zip(attentions, grads, strict=True)
        heads = [torch.stack([importance_in_loops(*each) for each in zip(*pair, strict=True)]) for pair in pairs]
        tokens = [torch.ones(3, 25, dtype=torch.float64)] * len(attentions)
    else:
        heads = [torch.full((3, 3), 1 / 3, dtype=torch.float64)] * len(attentions)
        with torch.no_grad():
            found = plain_parts(vit, images)[first:]
        tokens = [passed.norm(dim=-1) / entering.norm(dim=-1) for entering, passed, _, _ in found]
    feedback = torch.zeros_like(attentions[-1])
    for step in range(steps):
        scaled = plain_pass(vit, images * step / (steps - 1))
        feedback += gradients(scaled.logits.gather(1, target[:, None]).sum(), scaled.attentions[-1:])[0] / steps
    expected = maps_in_loops(attentions, heads, tokens, feedback, torch.eye(25, dtype=torch.float64)[0])[:, 1:]
    method = BidirectionalAttention(vit, approximation=approximation, **options)
    exact(method.attribute(images, target=target, resolution="patch").flatten(1), expected)


def test_the_number_of_steps_at_a_time_changes_nothing(vit, images, target):
    expected = BidirectionalAttention(vit, steps=7).attribute(images, target=target)
    for at_once in (1, 3, 50):
        method = BidirectionalAttention(vit, steps=7, steps_per_batch=at_once)
        exact(method.attribute(images, target=target), expected)


def test_a_pooler_whose_gradient_is_negative_throughout_is_blank():
    towers = case("timm_siglip")
    with pytest.raises(BlankMapError, match=r"for image 0: .* is negative for every patch in every head"):
        BidirectionalAttention(towers.model).attribute(towers.images, target=[0, 1, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"approximation": "heads"}, "approximation must be 'head' or 'token', got 'heads'"),
        ({"steps": 1}, "steps must be at least 2, got 1"),
        ({"steps_per_batch": 0}, "steps_per_batch must be at least 1, got 0"),
        ({"start_block": 3}, r"start_block must be in \[-3, 2\], got 3"),
    ],
)
def test_options_out_of_range_are_refused_at_once(vit, options, message):
    with pytest.raises(ValueError, match=message):
        BidirectionalAttention(vit, **options)
