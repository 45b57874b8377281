import cases
import pytest
import torch
import torch.nn.functional as F
from models import random_images
from oracle import exact, random_gradient
from torch import Tensor

from captum_vit import BlankMapError, GradECLIP, PromptClassifier
from captum_vit.attr import grad_eclip
from captum_vit.attr.grad_eclip import loosened_attention

IMAGES = random_images(2, (32, 32))
PROMPT = "a photo of the cat"


def likeness(query: Tensor, keys: Tensor) -> list[float]:
    """λ: cosines of one joined query with joined keys (N, h·d), brought to [0, 1]."""
    query, keys = query.detach(), keys.detach()
    cosines = [(query @ key / (query.norm() * key.norm())).item() for key in keys]
    low, high = min(cosines), max(cosines)
    return [(each - low) / (high - low) for each in cosines]


def channel_sum(weights: Tensor, value: Tensor) -> float:
    return float(sum(w * v for w, v in zip(weights.tolist(), value.tolist(), strict=True)))


def plain_vit(model, images: Tensor, target: Tensor, spatial: bool) -> Tensor:
    """The paper's map on a timm ViT, (B, N - 1): differentiated at the last attention output."""
    patches = F.conv2d(images, model.patch_embed.proj.weight, model.patch_embed.proj.bias, model.patch_embed.patch_size)
    z = torch.cat([model.cls_token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], 1)
    z = z + model.pos_embed
    for block in model.blocks:
        q, k, v = block.attn.qkv(block.norm1(z)).chunk(3, -1)
        split = [each.unflatten(-1, (block.attn.num_heads, -1)).transpose(1, 2) for each in (q, k, v)]
        a = torch.softmax(split[0] @ split[1].mT / split[0].shape[-1] ** 0.5, -1)
        out = (a @ split[2]).transpose(1, 2).flatten(2)  # (B, N, h·d)
        z = z + block.attn.proj(out)
        z = z + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(z))))
    score = model.head(model.norm(z)[:, 0]).gather(1, target[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, out)
    relevance = torch.zeros(len(images), z.shape[1] - 1, dtype=torch.float64)
    for image in range(len(images)):
        weights = likeness(q[image, 0], k[image, 1:]) if spatial else [1.0] * (z.shape[1] - 1)
        for token, weight in enumerate(weights):
            relevance[image, token] = weight * channel_sum(gradient[image, 0], v[image, token + 1])
    return relevance


@pytest.mark.parametrize("spatial", [True, False])
@pytest.mark.parametrize("relu", [True, False])
def test_is_the_papers_map(vit, images, target, spatial, relu):
    expected = plain_vit(vit, images, target, spatial)
    method = GradECLIP(vit, spatial_weight=spatial, relu=relu)
    ours = method.attribute(images, target=target, resolution="patch").flatten(1)
    exact(ours, expected.clamp(min=0) if relu else expected)
    assert method.signed != relu
    assert (expected < 0).any()


def test_several_tokens_that_are_read_are_summed_and_only_counted_keys_set_the_range():
    gradient = random_gradient(2, 3, 4, 5)
    query, key = random_gradient(2, 3, 4, 2, seed=1), random_gradient(2, 3, 5, 2, seed=2)
    read = torch.tensor([True, False, True, False])
    counted = torch.tensor([False, True, True, True, False])
    ours = grad_eclip(gradient, query, key, read=read, counted=counted)
    for image in range(2):
        expected = torch.zeros(5, dtype=torch.float64)
        for token in (0, 2):
            joined = key[image].transpose(0, 1).flatten(1)
            weights = [0.0, *likeness(query[image, :, token].flatten(), joined[1:4]), 0.0]
            for place, weight in enumerate(weights):
                expected[place] += weight * gradient[image, :, token, place].sum()
        exact(ours[image], expected)


def test_a_row_of_equal_cosines_is_zero():
    key = torch.ones(1, 2, 3, 4, dtype=torch.float64)
    assert torch.equal(loosened_attention(key, key).full(), torch.zeros(1, 1, 3, 3, dtype=torch.float64))


def plain_text(model, ids: Tensor, image: Tensor, count: int) -> Tensor:
    """Relevance of all tokens up to the mark of the end, (n,), on OpenCLIP's text tower."""
    end = int(ids.argmax())
    z = model.token_embedding(ids[None]) + model.positional_embedding
    calls = []
    for block in model.transformer.resblocks:
        attn = block.attn
        q, k, v = F.linear(block.ln_1(z), attn.in_proj_weight, attn.in_proj_bias).chunk(3, -1)
        split = [each.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for each in (q, k, v)]
        scores = split[0] @ split[1].mT / split[0].shape[-1] ** 0.5
        scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), float("-inf"))
        out = (torch.softmax(scores, -1) @ split[2]).transpose(1, 2).flatten(2)
        calls.append((q, k, v, out))
        z = z + attn.out_proj(out)
        z = z + block.mlp(block.ln_2(z))
    embedding = model.ln_final(z)[0, end] @ model.text_projection
    score = model.logit_scale.exp() * (image / image.norm()) @ (embedding / embedding.norm())
    relevance = torch.zeros(end + 1, dtype=torch.float64)
    for q, k, v, out in calls[-count:]:
        (gradient,) = torch.autograd.grad(score, out, retain_graph=True)
        for token, weight in enumerate(likeness(q[0, end], k[0, : end + 1])):
            relevance[token] += weight * channel_sum(gradient[0, end], v[0, token])
    return relevance


@pytest.mark.parametrize("count", [1, 2, None])
def test_words_of_a_prompt_are_the_papers_on_the_text_tower(clip, count):
    classifier = PromptClassifier(clip.model, clip.tokenizer, ["a cat"], template="not read: {}")
    ours = GradECLIP(classifier).attribute_text(IMAGES, PROMPT, num_blocks=count)
    assert ours.tokens == ("a", "photo", "of", "the", "cat")
    for image in range(2):
        embedding = clip.model.encode_image(IMAGES[image : image + 1])[0].detach()
        expected = plain_text(clip.model, clip.tokenizer([PROMPT])[0], embedding, count or 2)
        exact(ours.relevance[image], expected[1:6])
    some = (ours.relevance > 0).any(1)
    positive = GradECLIP(classifier, relu=True).attribute_text(IMAGES[some], PROMPT, num_blocks=count)
    exact(positive.relevance, ours.relevance[some].clamp(min=0))
    assert some.any()


def test_every_text_tower_tells_its_words(towers):
    classifier = PromptClassifier(towers.model, towers.tokenizer, ["a cat", "the dog"])
    method = GradECLIP(classifier)
    before = {name: each.clone() for name, each in towers.model.state_dict().items()}
    ours = method.attribute_text((IMAGES,), PROMPT)
    assert "".join(ours.tokens) == "aphotoofthecat"
    assert ours.tokens[-1] == "cat"
    assert ours.relevance.shape == (2, len(ours.tokens))
    assert not ours.relevance.requires_grad
    with torch.inference_mode():
        exact(method.attribute_text(IMAGES.clone()[1:], PROMPT).relevance, ours.relevance[1:])
    other = method.attribute_text(IMAGES, "the dog of a cat")
    assert other.relevance.abs().min() > 0
    for name, each in towers.model.state_dict().items():
        assert torch.equal(each, before[name])
    assert all(each.grad is None for each in towers.model.parameters())


def test_tokens_are_merged_to_words(towers):
    """Whatever a tokenizer makes of a text, its words are those between spaces."""
    method = GradECLIP(PromptClassifier(towers.model, towers.tokenizer, ["a cat"]))
    ours = method.attribute_text(IMAGES, "a cat  of controlling the dog")
    assert ours.words == ("a", "cat", "of", "controlling", "the", "dog")
    assert "".join(ours.tokens) == "acatofcontrollingthedog"
    expected = torch.zeros(2, 6, dtype=torch.float64)
    word, read = 0, ""
    for place, token in enumerate(ours.tokens):  # letter by letter
        expected[:, word] += ours.relevance[:, place]
        read += token
        if read == ours.words[word]:
            word, read = word + 1, ""
    assert (word, read) == (6, "")
    exact(ours.word_relevance, expected)
    lists = ours.by_word()
    assert [[word for word, _ in each] for each in lists] == [list(ours.words)] * 2
    exact(torch.tensor([[value for _, value in each] for each in lists], dtype=torch.float64), expected)


def test_a_word_of_several_tokens_in_every_library(built):
    """A long word that no vocabulary holds."""
    for towers in built.values():
        method = GradECLIP(PromptClassifier(towers.model, towers.tokenizer, ["a cat"]))
        ours = method.attribute_text(IMAGES, "the zxqvk cat")
        assert ours.words == ("the", "zxqvk", "cat")
        assert len(ours.tokens) > 3
        assert ours.pieces[0].tokens[-1] + 1 == ours.pieces[1].tokens[0]


def test_punctuation_is_apart_where_the_tokenizer_sets_it_apart(clip):
    ours = GradECLIP(PromptClassifier(clip.model, clip.tokenizer, ["a cat"])).attribute_text(IMAGES, "A Cat, the dog's")
    assert ours.words == ("a", "cat", ",", "the", "dog", "'s")


def test_several_prompts_are_those_of_single_calls(towers):
    classifier = PromptClassifier(towers.model, towers.tokenizer, ["a cat", "the dog"], template="a photo of {}")
    method = GradECLIP(classifier)
    texts = [PROMPT, "the dog", 1]
    together = method.attribute_text(IMAGES, texts)
    assert [each.prompt for each in together] == [PROMPT, "the dog", "a photo of the dog"]
    for text, each in zip(texts, together, strict=True):
        alone = method.attribute_text(IMAGES, text)
        assert alone.tokens == each.tokens
        exact(each.relevance, alone.relevance)
    assert isinstance(method.attribute_text(IMAGES, (PROMPT,)), list)
    exact(method.attribute_text(IMAGES, torch.tensor(1)).relevance, together[2].relevance)
    assert together[1].relevance.shape != together[2].relevance.shape


def test_an_index_needs_a_prompt_that_is_one_text(clip):
    several = PromptClassifier(clip.model, clip.tokenizer, ["a cat"], template=["a {}", "the {}"])
    with pytest.raises(ValueError, match=r"prompt must be a text, got 0: .* because there are 2 templates"):
        GradECLIP(several).attribute_text(IMAGES, 0)
    given = PromptClassifier(clip.model, clip.tokenizer, ["a cat"], embeddings=torch.ones(1, 16, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"prompt must be a text, got 0: .* because embeddings were given"):
        GradECLIP(given).attribute_text(IMAGES, 0)
    given.prompts = ["the dog"]
    assert GradECLIP(given).attribute_text(IMAGES, 0).words == ("the", "dog")


def test_without_a_text_tower_words_are_refused(vit, images, clip):
    with pytest.raises(TypeError, match="timm VisionTransformer reads no text; wrap a model that does"):
        GradECLIP(vit).attribute_text(images, PROMPT)
    encoder = PromptClassifier(vit, embeddings=torch.eye(5, dtype=torch.float64))
    with pytest.raises(TypeError, match="timm VisionTransformer reads no text, so no words"):
        GradECLIP(encoder).attribute_text(images, PROMPT)
    silent = PromptClassifier(clip.model, embeddings=torch.eye(16, dtype=torch.float64))
    with pytest.raises(TypeError, match=r"tokenizer must be given to PromptClassifier .*, got None"):
        GradECLIP(silent).attribute_text(IMAGES, PROMPT)


@pytest.mark.parametrize(
    ("prompt", "options", "error", "message"),
    [
        (" ", {}, ValueError, "prompt must not be empty, got ' '"),
        (3.5, {}, TypeError, r"prompt must be a text or the index of a prompt, got 3\.5"),
        (True, {}, TypeError, "prompt must be a text or the index of a prompt, got True"),
        (None, {}, TypeError, "prompt must be a text or the index of a prompt, got None"),
        (["a cat", 2.0], {}, TypeError, r"prompt must be a text or the index of a prompt, got 2\.0"),
        ([], {}, ValueError, "prompt must hold at least one text, got none"),
        (["a cat", ""], {}, ValueError, "prompt must not be empty, got ''"),
        (1, {}, ValueError, r"prompt must be a text or in \[0, 0\], got 1"),
        (-1, {}, ValueError, r"prompt must be a text or in \[0, 0\], got -1"),
        (PROMPT, {"num_blocks": 1.0}, TypeError, r"num_blocks must be an integer, got 1\.0"),
        ("cat " * 40, {}, ValueError, r"prompts must fit the 32 tokens"),
        (PROMPT, {"num_blocks": 3}, ValueError, r"num_blocks must be in \[1, 2\], got 3"),
        (PROMPT, {"num_blocks": 0}, ValueError, r"num_blocks must be in \[1, 2\], got 0"),
    ],
)
def test_bad_prompts_are_refused(clip, prompt, options, error, message):
    method = GradECLIP(PromptClassifier(clip.model, clip.tokenizer, ["a cat"]))
    with pytest.raises(error, match=message):
        method.attribute_text(IMAGES, prompt, **options)


def test_words_that_a_relu_removes_are_an_error_and_not_a_row_of_zeros(clip):
    method = GradECLIP(PromptClassifier(clip.model, clip.tokenizer, ["a cat"]), relu=True)
    signed = GradECLIP(method.forward_func).attribute_text(IMAGES, "of")
    negative = (signed.relevance <= 0).all(1)
    assert negative.any()
    with pytest.raises(BlankMapError, match=r"zero everywhere .* everything that counts speaks against"):
        method.attribute_text(IMAGES[negative], "of")


def test_patches_beyond_the_pooled_token_do_not_move_its_map():
    """Registers and the class token take no part in bringing λ to [0, 1]: some patch has no relevance at all."""
    case = cases.case("timm_vit_reg")
    ours = GradECLIP(case.model).attribute(case.images, target=1, resolution="patch").flatten(1)
    assert (ours.abs().amin(1) == 0).all()
