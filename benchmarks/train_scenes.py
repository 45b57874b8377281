"""Trains the models that come with the package: ``python benchmarks/train_scenes.py vit`` (``clip``, ``siglip``).

The classifier learns in two stages: windows of 6×6 patches around an object, which are four times cheaper, then whole
scenes. The two text models begin with the classifier's image tower and learn to rank prompts. Everything random follows
from the seed and the step, so that a run that was stopped goes on from its checkpoint as if nothing had happened.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
from environments import commit, machine
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file, save_file
from scene_batches import GRID, Batch, SceneFile
from scene_losses import ClassifierLoss, PromptLoss, warm_start
from score_scenes import classifier_of, scores
from torch import Tensor, nn
from tqdm import tqdm

from captum_vit.zoo.scene_models import CONTEXT_LENGTH, SCENE_MODELS, compress, expand, weight_file

WINDOW = 6
TRAINING_SCENES = 1_000_000
"""Scenes of this seed and beyond are for training; smaller seeds, the default 0 among them, are held out."""


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; ``steps`` are those on windows and those on whole scenes."""

    scenes: int
    steps: tuple[int, int]
    batch: int
    rate: float
    seed: int = 0
    weight_decay: float = 0.05
    warm_up: int = 300


RECIPES = {
    "vit": Recipe(scenes=60_000, steps=(4500, 1500), batch=64, rate=1e-3),
    "clip": Recipe(scenes=60_000, steps=(0, 1200), batch=64, rate=5e-4),
    "siglip": Recipe(scenes=60_000, steps=(0, 1200), batch=64, rate=5e-4),
}


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
    total = sum(recipe.steps)
    if step < recipe.warm_up:
        return recipe.rate * (step + 1) / recipe.warm_up
    return recipe.rate * 0.5 * (1 + math.cos(math.pi * (step - recipe.warm_up) / (total - recipe.warm_up)))


def batches(file: SceneFile, recipe: Recipe, first: int) -> Iterator[tuple[int, Batch]]:
    """Step and batch; what is drawn at a step depends on the seed and the step only."""
    for step in range(first, sum(recipe.steps)):
        torch.manual_seed(recipe.seed * 1_000_003 + step)
        window = WINDOW if step < recipe.steps[0] else GRID
        yield step, file.batch(recipe.batch, window, torch.default_generator)


def train(
    name: str, recipe: Recipe, folder: Path, start: Path | None, device: str, save_every: int = 200
) -> tuple[nn.Module, float]:
    """Trains a model, or goes on from its checkpoint in the folder; returns it with the seconds it took."""
    torch.manual_seed(recipe.seed)
    model = SCENE_MODELS[name]()
    if start is not None:
        warm_start(model, load_file(start))
    loss = (ClassifierLoss if name == "vit" else PromptLoss)(model).to(device).train()
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
    file = SceneFile(folder, recipe.scenes, TRAINING_SCENES + recipe.seed)
    began = time.perf_counter() - seconds

    def save(step: int) -> None:
        state = {"model": model.state_dict(), "loss": loss.state_dict(), "optimizer": optimizer.state_dict()}
        state |= {"recipe": json.dumps(asdict(recipe)), "step": step, "seconds": time.perf_counter() - began}
        torch.save(state, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)

    with tqdm(total=sum(recipe.steps), initial=first, desc=name, unit="step") as bar:
        average = None
        for step, batch in batches(file, recipe, first):
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step, recipe)
            value = loss(batch.to(device), step / sum(recipe.steps))
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(loss.parameters(), 1.0)
            optimizer.step()
            average = value.item() if average is None else 0.98 * average + 0.02 * value.item()
            bar.set_postfix(loss=f"{average:.3f}")
            bar.update()
            if (step + 1) % save_every == 0:
                save(step + 1)
            if step + 1 == recipe.steps[0]:
                save_file(model.state_dict(), folder / f"{name}-windows.safetensors")
    save(sum(recipe.steps))
    return model.cpu().eval(), time.perf_counter() - began


def ship(name: str, model: nn.Module, recipe: Recipe, seconds: float, output: Path) -> None:
    """Writes the weights and the card: data, steps, seed, scores of the weights as they are stored, how to retrain."""
    output.mkdir(parents=True, exist_ok=True)
    path = output / weight_file(name).name
    small = compress(model.state_dict())
    save_file(small, path)
    model.load_state_dict(expand(small))
    tokenizer = None if name == "vit" else SimpleTokenizer(context_length=CONTEXT_LENGTH)
    card = {
        "model": f"scenes:{name}",
        "class": f"{type(model).__module__}.{type(model).__name__}",
        "parameters": sum(weight.numel() for weight in small.values()),
        "bytes": path.stat().st_size,
        "recipe": asdict(recipe),
        "images": sum(recipe.steps) * recipe.batch,
        "minutes": round(seconds / 60, 1),
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "versions": {each: version(each) for each in ("torch", "timm", "open_clip_torch")},
        "commit": commit(),
        "retrain": f"python benchmarks/train_scenes.py {name}",
        "scores": {what: round(value, 4) for what, value in scores(classifier_of(model, tokenizer)).items()},
    }
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(card["scores"], indent=2))


def main() -> None:
    """Reads the command line and trains, scores and writes one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=SCENE_MODELS)
    parser.add_argument("--folder", type=Path, default=Path("runs/scenes"), help="drawn scenes and checkpoints")
    parser.add_argument("--output", type=Path, default=weight_file("vit").parent, help="where the weights go")
    parser.add_argument("--start", type=Path, help="the classifier's weights that a text model begins with")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    for each, kind in (("scenes", int), ("batch", int), ("rate", float), ("seed", int)):
        parser.add_argument(f"--{each}", type=kind)
    parser.add_argument("--steps", type=int, nargs=2, metavar=("WINDOWS", "SCENES"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    given = {each: getattr(options, each) for each in ("scenes", "batch", "rate", "seed", "steps")}
    recipe = replace(RECIPES[options.name], **{each: value for each, value in given.items() if value is not None})
    start = options.start or (None if options.name == "vit" else options.folder / "vit-windows.safetensors")
    model, seconds = train(options.name, recipe, options.folder, start, options.device)
    ship(options.name, model, recipe, seconds, options.output)


if __name__ == "__main__":
    main()
