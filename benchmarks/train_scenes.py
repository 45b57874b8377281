"""Trains the models that come with the package: ``python benchmarks/train_scenes.py windows`` (``vit, clip, siglip``).

The classifier learns in two runs: on windows of 6×6 patches around an object, which are four times cheaper than scenes,
then on windows and scenes. The two text models begin with the classifier's image tower and learn to rank prompts.
Everything random follows from the seed and the step, so that a run that was stopped goes on from its checkpoint as if
nothing had happened.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
from environments import commit, machine
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file, save, save_file
from scene_batches import Batch, SceneFile
from scene_losses import ClassifierLoss, PromptLoss, warm_start
from score_scenes import classifier_of, scores
from torch import Tensor, nn
from tqdm import tqdm

from captum_vit.zoo.scene_models import CONTEXT_LENGTH, SCENE_MODELS, compress, expand, weight_file

TRAINING_SCENES = 1_000_000
"""Scenes of this seed and beyond are for training; smaller seeds, the default 0 among them, are held out."""


@dataclass(frozen=True)
class Recipe:
    """One run of training.

    Attributes:
        model: name in `SCENE_MODELS`.
        start: the run whose weights it begins with.
        windows: sides, in patches, of what is cut from the scenes; one is drawn at every step. 12 is a whole scene.
        steps: number of steps.
        rate: highest learning rate.
        decay: steps after which the falling rate would reach zero; ``steps`` where it is 0.
        seed: of everything random.
        scenes: number of different scenes.
        batch: images per step.
        weight_decay: of matrices.
        warm_up: steps until the highest rate.
    """

    model: str
    start: str | None
    windows: tuple[int, ...]
    steps: int
    rate: float
    decay: int = 0
    seed: int = 0
    scenes: int = 60_000
    batch: int = 64
    weight_decay: float = 0.05
    warm_up: int = 300

    @property
    def horizon(self) -> int:
        """Steps of the whole schedule."""
        return self.decay or self.steps


RECIPES = {
    "windows": Recipe("vit", None, windows=(6,), steps=4500, rate=1e-3, decay=6000),
    "vit": Recipe("vit", "windows", windows=(6, 6, 8, 12), steps=2400, rate=7e-4, seed=1),
    "clip": Recipe("clip", "vit", windows=(12,), steps=400, rate=4e-4, seed=2, warm_up=60),
    "siglip": Recipe("siglip", "vit", windows=(12,), steps=400, rate=4e-4, seed=3, warm_up=60),
}
"""The runs by name, in the order in which they need each other."""


def optimiser(loss: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW, without decay for vectors and tables."""
    tables = ("pos_embed", "positional_embedding", "token_embedding", "cls_token", "class_embedding", "latent")
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for name, parameter in loss.named_parameters():
        groups[parameter.ndim > 1 and not any(table in name for table in tables)].append(parameter)
    decays = [
        {"params": groups[True], "weight_decay": recipe.weight_decay},
        {"params": groups[False], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(decays, lr=recipe.rate, betas=(0.9, 0.98), fused=True)


def rate_at(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a half cosine to zero."""
    if step < recipe.warm_up:
        return recipe.rate * (step + 1) / recipe.warm_up
    return recipe.rate * 0.5 * (1 + math.cos(math.pi * (step - recipe.warm_up) / (recipe.horizon - recipe.warm_up)))


def batches(file: SceneFile, recipe: Recipe, first: int) -> Iterator[tuple[int, Batch]]:
    """Step and batch; what is drawn at a step depends on the seed and the step only."""
    for step in range(first, recipe.steps):
        torch.manual_seed(recipe.seed * 1_000_003 + step)
        window = random.Random(step).choice(recipe.windows)  # noqa: S311 no secret
        yield step, file.batch(recipe.batch, window, torch.default_generator)


def train(name: str, recipe: Recipe, folder: Path, device: str, save_every: int = 200) -> tuple[nn.Module, float]:
    """Trains a model, or goes on from its checkpoint in the folder; returns it with the seconds it took."""
    torch.manual_seed(recipe.seed)
    model = SCENE_MODELS[recipe.model]()
    if recipe.start is not None:
        warm_start(model, load_file(folder / f"{recipe.start}.safetensors"))
    loss = (ClassifierLoss if recipe.model == "vit" else PromptLoss)(model).to(device).train()
    optimizer = optimiser(loss, recipe)
    checkpoint = folder / f"{name}.pt"
    first, seconds = 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        if saved["recipe"] != json.dumps(asdict(recipe)):
            raise SystemExit(f"{checkpoint} was made with another recipe: {saved['recipe']}.")
        loss.load_state_dict(saved["loss"])
        optimizer.load_state_dict(saved["optimizer"])
        first, seconds = saved["step"], saved["seconds"]
    file = SceneFile(folder, recipe.scenes, TRAINING_SCENES)
    began = time.perf_counter() - seconds

    def checkpoint_at(step: int) -> None:
        state = {"loss": loss.state_dict(), "optimizer": optimizer.state_dict()}
        state |= {"recipe": json.dumps(asdict(recipe)), "step": step, "seconds": time.perf_counter() - began}
        torch.save(state, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)

    with tqdm(total=recipe.steps, initial=first, desc=name, unit="step") as bar:
        average = None
        for step, batch in batches(file, recipe, first):
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step, recipe)
            value = loss(batch.to(device), step / recipe.horizon)
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(loss.parameters(), 1.0)
            optimizer.step()
            average = value.item() if average is None else 0.98 * average + 0.02 * value.item()
            bar.set_postfix(loss=f"{average:.3f}")
            bar.update()
            if (step + 1) % save_every == 0:
                checkpoint_at(step + 1)
    checkpoint_at(recipe.steps)
    save_file(model.state_dict(), folder / f"{name}.safetensors")
    return model.cpu().eval(), time.perf_counter() - began


def ship(name: str, model: nn.Module, recipe: Recipe, seconds: float, output: Path) -> None:
    """Writes the weights and the card: data, steps, seed, scores of the weights as they are stored, how to retrain."""
    output.mkdir(parents=True, exist_ok=True)
    path = output / weight_file(name).name
    small = compress(model.state_dict())
    path.write_bytes(save(small))
    model.load_state_dict(expand(small))
    tokenizer = None if name == "vit" else SimpleTokenizer(context_length=CONTEXT_LENGTH)
    card = {
        "model": f"scenes:{name}",
        "class": f"{type(model).__module__}.{type(model).__name__}",
        "parameters": sum(weight.numel() for weight in small.values()),
        "bytes": path.stat().st_size,
        "recipe": asdict(recipe),
        "minutes": round(seconds / 60, 1),
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "versions": {each: version(each) for each in ("torch", "timm", "open_clip_torch")},
        "commit": commit(),
        "scores": {what: round(value, 4) for what, value in scores(classifier_of(model, tokenizer)).items()},
    }
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(card["scores"], indent=2))


def main() -> None:
    """Reads the command line and trains, scores and writes one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--folder", type=Path, default=Path("runs/scenes"), help="drawn scenes and checkpoints")
    parser.add_argument("--output", type=Path, default=weight_file("vit").parent, help="where the weights go")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    for each, kind in (("scenes", int), ("steps", int), ("batch", int), ("rate", float), ("seed", int)):
        parser.add_argument(f"--{each}", type=kind)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    given = {each: getattr(options, each) for each in ("scenes", "steps", "batch", "rate", "seed")}
    recipe = replace(RECIPES[options.name], **{each: value for each, value in given.items() if value is not None})
    model, seconds = train(options.name, recipe, options.folder, options.device)
    if options.name in SCENE_MODELS:
        ship(options.name, model, recipe, seconds, options.output)


if __name__ == "__main__":
    main()
