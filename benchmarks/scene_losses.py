"""What the shipped models learn from: presence for the classifier, the ranking of prompts for the text models."""

from __future__ import annotations

import torch
from open_clip.tokenizer import SimpleTokenizer
from scene_batches import Batch
from torch import Tensor, nn
from torch.nn import functional as F

from captum_vit.data import CLASSES, COLOURS, with_article
from captum_vit.data.shapes import SHAPES
from captum_vit.zoo.scene_models import CONTEXT_LENGTH

TEMPLATES = ("a photo of {}.", "a photo of {}", "a picture of {}", "an image of {}", "{}")


class ClassifierLoss(nn.Module):
    """Binary cross-entropy of presence, and for a while cross-entropy of shape and colour on every patch.

    The shape and the colour of a patch are read from its token by two layers of their own.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.shape = nn.Linear(model.embed_dim, len(SHAPES) + 1)
        self.colour = nn.Linear(model.embed_dim, len(COLOURS) + 1)

    def forward(self, batch: Batch, progress: float) -> Tensor:
        tokens = self._tokens(batch)
        logits = self.model.forward_head(tokens)
        known = ~batch.labels.isnan()
        presence = F.binary_cross_entropy_with_logits(logits, batch.labels.nan_to_num(), reduction="none")
        loss = (presence * known).sum() / len(logits)
        weight = max(0.0, 1 - progress / 0.8)
        if weight == 0:
            return loss
        patches = tokens[:, 1:].flatten(0, 1)
        target = batch.patches.flatten()
        background, unclear = target == len(CLASSES), target < 0
        for layer, kinds, names in (
            (self.shape, target % len(SHAPES), SHAPES),
            (self.colour, target // len(SHAPES), COLOURS),
        ):
            kinds = kinds.masked_fill(background, len(names)).masked_fill(unclear, -100)
            loss = loss + 2 * weight * F.cross_entropy(layer(patches), kinds)
        return loss

    def _tokens(self, batch: Batch) -> Tensor:
        """(B, 1 + K, D): what timm's ``forward_features`` returns, from the patches that are seen."""
        model = self.model
        patches = model.patch_embed(batch.images) + model.pos_embed[:, 1:]
        patches = patches.gather(1, batch.positions[:, :, None].expand(-1, -1, model.embed_dim))
        first = (model.cls_token + model.pos_embed[:, :1]).expand(len(patches), -1, -1)
        return model.norm(model.blocks(torch.cat([first, patches], dim=1)))


class PromptLoss(nn.Module):
    """Ranks prompts by images and images by prompts, several of which may be right.

    CLIP: cross-entropy over the 64 prompts and over the images of the batch, shared among what is right. SigLIP
    (arXiv 2303.15343, section 3.2): binary cross-entropy of every pair. One prompt in a batch per class, its template
    drawn; and one text per image that names all its objects.

    A model with an attention pooler is asked after every block, as if that were the last (deep supervision,
    arXiv 1409.5185): LeGrad reads every block's tokens through the pooler, which would otherwise know the last one's
    only. The last block counts as much as all others together.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.sigmoid = getattr(model, "logit_bias", None) is not None
        self.tokenizer = SimpleTokenizer(context_length=CONTEXT_LENGTH)
        self.prompts = torch.stack([self.tokenizer([t.format(with_article(c)) for c in CLASSES]) for t in TEMPLATES])
        table = model.state_dict()["token_embedding.weight" if not self.sigmoid else "text.token_embedding.weight"]
        words = torch.zeros(len(table), dtype=torch.bool)
        words[self.prompts.unique()] = True
        words[self.tokenizer(["a, b and c"]).unique()] = True
        with torch.no_grad():
            table[~words] = 0  # what no text holds stays zero, and is not stored

    def forward(self, batch: Batch, progress: float) -> Tensor:
        del progress
        templates = torch.randint(len(TEMPLATES), (len(CLASSES),))
        single = self.prompts[templates, torch.arange(len(CLASSES))]
        several = self.tokenizer([caption(labels) for labels in batch.labels])
        texts = F.normalize(self.model.encode_text(torch.cat([single, several])), dim=-1)
        holds = batch.labels @ batch.labels.T >= batch.labels.sum(1)  # image i has all that text j names
        right = torch.cat([batch.labels, holds.float()], dim=1)
        *early, last = (self._ranked(images, texts, right) for images in self._embeddings(batch.images))
        return torch.stack([last, torch.stack(early).mean()]).mean() if early else last

    def _embeddings(self, images: Tensor) -> list[Tensor]:
        """(B, D) of the images; with a pooler, one after every block."""
        if not self.sigmoid:
            return [self.model.encode_image(images)]
        trunk = self.model.visual.trunk
        blocks = trunk.forward_intermediates(images, norm=True, output_fmt="NLC", intermediates_only=True)
        return [trunk.forward_head(tokens) for tokens in blocks]

    def _ranked(self, images: Tensor, texts: Tensor, right: Tensor) -> Tensor:
        logits = self.model.logit_scale.exp() * F.normalize(images, dim=-1) @ texts.T
        if self.sigmoid:
            biased = logits + self.model.logit_bias
            return F.binary_cross_entropy_with_logits(biased, right, reduction="sum") / len(images)
        classes = len(CLASSES)
        parts = [_shared(logits[:, :classes], right[:, :classes]), _shared(logits[:, classes:], right[:, classes:])]
        parts += [_shared(logits.T, right.T)]
        return torch.stack(parts).mean()


def _shared(logits: Tensor, right: Tensor) -> Tensor:
    """Cross-entropy with all that is right in equal parts; rows without any are left out."""
    right = right[(rows := right.any(1))]
    return F.cross_entropy(logits[rows], right / right.sum(1, keepdim=True))


def caption(labels: Tensor) -> str:
    """A text that names all classes of one image, in a random order."""
    present = labels.nonzero()[:, 0]
    names = [with_article(CLASSES[k]) for k in present[torch.randperm(len(present))]]
    text = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return TEMPLATES[int(torch.randint(len(TEMPLATES), ()))].format(text)


def warm_start(model: nn.Module, classifier: dict[str, Tensor]) -> None:
    """Gives a model the classifier's weights; a text model those of its image tower, up to the last norm."""
    state = model.state_dict()
    if state.keys() == classifier.keys():
        model.load_state_dict(classifier)
        return
    if "visual.conv1.weight" in state:
        rename = {"norm1": "ln_1", "norm2": "ln_2", "attn.qkv.": "attn.in_proj_", "attn.proj": "attn.out_proj"}
        rename |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "blocks.": "visual.transformer.resblocks."}
        for name, weight in classifier.items():
            if name.startswith("blocks."):
                for ours, theirs in rename.items():
                    name = name.replace(ours, theirs)
                state[name].copy_(weight)
        positions = classifier["pos_embed"][0].clone()
        positions[1:] += classifier["patch_embed.proj.bias"]  # their convolution has no bias
        state["visual.positional_embedding"].copy_(positions)
        state["visual.class_embedding"].copy_(classifier["cls_token"][0, 0])
        state["visual.conv1.weight"].copy_(classifier["patch_embed.proj.weight"])
        state["visual.ln_post.weight"].copy_(classifier["norm.weight"])
        state["visual.ln_post.bias"].copy_(classifier["norm.bias"])
        return
    for name, weight in classifier.items():
        if name.startswith(("blocks.", "patch_embed.", "norm.")):
            state[f"visual.trunk.{name}"].copy_(weight)
    state["visual.trunk.pos_embed"].copy_(classifier["pos_embed"][:, 1:])
