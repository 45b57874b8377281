import cases
import pytest
import torch
import torch.nn.functional as F
from oracle import exact, plain_pass, random_gradient
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from captum_vit import GEM
from captum_vit.attr import self_self_attention


def unit(vector: Tensor) -> Tensor:
    return vector / vector.square().sum().sqrt()


def grouped(p: Tensor, value: Tensor, tau: float, iterations: int) -> Tensor:
    """Self-self attention of one head, token by token: p (N, d), value (N, d)."""

    def attend(tokens: Tensor, read: Tensor) -> Tensor:
        weights = [(tokens @ one / tau).exp() for one in tokens]
        return torch.stack([each @ read / each.sum() for each in weights])

    tokens = torch.stack([unit(each) for each in p])
    for _ in range(iterations):
        tokens = torch.stack([unit(each) for each in attend(tokens, tokens)])
    return attend(tokens, value)


@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_self_self_attention_is_the_papers(iterations):
    query, key, value = (random_gradient(2, 3, 5, 4, seed=seed) for seed in range(3))
    tau = [0.3, 0.7]
    actual = self_self_attention(
        [query, key, value], value, torch.tensor(tau, dtype=torch.float64), iterations=iterations
    )
    for image in range(2):
        for head in range(3):
            read = value[image, head]
            each = [grouped(p[image, head], read, tau[image], iterations) for p in (query, key, value)]
            exact(actual[image, head], sum(each) / 3)


def test_the_length_of_the_projections_does_not_matter():
    query, value = random_gradient(1, 2, 5, 4, seed=0), random_gradient(1, 2, 5, 4, seed=1)
    scaled = query * torch.tensor([1.0, 10.0, 0.1, 5.0, 2.0])[:, None]
    exact(self_self_attention([scaled], value, 0.2), self_self_attention([query], value, 0.2))


def test_a_high_temperature_gives_the_mean_value_and_a_low_one_the_own():
    query, value = random_gradient(1, 2, 5, 4, seed=0), random_gradient(1, 2, 5, 4, seed=1)
    mean = value.mean(2, keepdim=True).expand_as(value)
    assert (self_self_attention([query], value, 1e12, iterations=0) - mean).abs().max() < 1e-10
    exact(self_self_attention([query], value, 1e-3, iterations=0), value)


def plain_gem(
    model, images: Tensor, count: int, iterations: int, temperature: float | None, parts: list[int]
) -> Tensor:
    """The second path on a timm ViT: (B, N, K), the head's bias left out."""
    plain = plain_pass(model, images)
    patches = F.conv2d(images, model.patch_embed.proj.weight, model.patch_embed.proj.bias, model.patch_embed.patch_size)
    classes = model.cls_token.expand(len(images), -1, -1)
    stream = [torch.cat([classes, patches.flatten(2).transpose(1, 2)], 1) + model.pos_embed, *plain.tokens]
    path = stream[len(model.blocks) - count]
    for index in range(len(model.blocks) - count, len(model.blocks)):
        block, added = model.blocks[index], []
        for image in range(len(images)):
            normed = block.norm1(stream[index][image])
            qkv = [each.unflatten(-1, (block.attn.num_heads, -1)) for each in block.attn.qkv(normed).chunk(3, -1)]
            tau = temperature or qkv[0].shape[-1] ** 0.5 * len(normed) / normed.square().sum(-1).sqrt().sum()
            heads = []
            for head in range(block.attn.num_heads):
                each = [grouped(qkv[part][:, head], qkv[2][:, head], tau, iterations) for part in parts]
                heads.append(sum(each) / len(each))
            added.append(block.attn.proj(torch.stack(heads, 1).flatten(1)))
        path = path + torch.stack(added)
    return model.norm(path) @ model.head.weight.T


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({}, (3, 1, None, [0, 1, 2])),
        ({"num_blocks": 1, "iterations": 0, "projections": ["value"]}, (1, 0, None, [2])),
        ({"num_blocks": 2, "iterations": 2, "temperature": 0.4, "projections": ["query", "key"]}, (2, 2, 0.4, [0, 1])),
    ],
)
def test_method_reads_the_second_path(vit, images, target, options, settings):
    with torch.no_grad():
        expected = plain_gem(vit, images, *settings)
    ours = GEM(vit, **options).attribute(images, target=target, resolution="patch").flatten(1)
    exact(ours, torch.stack([expected[i, 1:, t] for i, t in enumerate(target)]))


def test_prompts_are_compared_by_their_cosine_times_the_scale():
    case = cases.case("open_clip_siglip")  # with a logit bias
    method = GEM(case.model)
    tokens = method._path(case.images)
    embedding = case.model.tower.readout_of_each(tokens).detach()
    cosine = F.cosine_similarity(embedding[:, :, None], case.model.embeddings, dim=-1)  # (B, N, K)
    ours = method.attribute_targets(case.images, [0, 1, 2]).flatten(2)
    exact(ours, case.model.scale * cosine.transpose(1, 2).detach())
    assert case.model._number("model", "logit_bias", 0.0) == -10.0


def test_six_blocks_or_all_of_fewer_take_part(vit):
    assert list(GEM(vit).blocks) == [0, 1, 2]
    assert list(GEM(vit, num_blocks=2).blocks) == [1, 2]
    small = {"img_size": 32, "patch_size": 16, "embed_dim": 8, "num_heads": 2}
    assert list(GEM(VisionTransformer(**small, depth=8).eval()).blocks) == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_blocks": 4}, r"num_blocks must be in \[1, 3\], got 4"),
        ({"num_blocks": 0}, r"num_blocks must be in \[1, 3\], got 0"),
        ({"iterations": -1}, "iterations must be at least 0, got -1"),
        ({"temperature": 0.0}, r"temperature must be finite and above 0, got 0\.0"),
        ({"projections": []}, r"projections must be a list of some of 'query', 'key', 'value', got \[\]"),
        (
            {"projections": ["output"]},
            r"projections must be a list of some of 'query', 'key', 'value', got \['output'\]",
        ),
    ],
)
def test_options_out_of_range_are_refused_at_once(vit, options, message):
    with pytest.raises(ValueError, match=message):
        GEM(vit, **options)


def test_nothing_to_attend_with_is_refused():
    with pytest.raises(ValueError, match="projections must hold at least one tensor, got none"):
        self_self_attention([], random_gradient(1, 1, 2, 2), 1.0)
