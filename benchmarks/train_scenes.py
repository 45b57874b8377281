"""Trains the models that come with the package: ``torchrun --nproc-per-node 2 benchmarks/train_scenes.py vit``.

Then ``clip`` and ``siglip``, which begin with the classifier's image tower and learn to rank prompts. The classifier
sees a third of the patches in most of its steps: those that hold a part of an object, and some of the background.
Everything random follows from the seed, the step and the process, so that a run that was stopped goes on from its
checkpoint as if nothing had happened. Gradients are averaged over the processes; ``python`` in place of ``torchrun``
starts one. The scenes are drawn once into a file, 1.7 GB for 60,000. Weights and card go to ``--output``; only
``--output captum_vit/zoo/weights`` replaces what the package comes with.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
import torch.distributed as dist
from environments import commit, machine
from muon import Muon
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file, save, save_file
from scene_batches import Batch, SceneFile
from scene_losses import ClassifierLoss, PromptLoss, warm_start
from score_scenes import DEFINITIONS, classifier_of, scores
from torch import nn
from tqdm import tqdm

from captum_vit.zoo.scene_models import CONTEXT_LENGTH, SCENE_MODELS, compress, expand, weight_file

TRAINING_SCENES = 1_000_000
"""The seed of the scenes for training; all others, the default 0 among them, are held out."""

DATA = (
    "captum_vit.data.Scenes({scenes}, size=96, seed={seed}), labels and, for the classifier, the shape and the colour "
    "on every patch"
)


@dataclass(frozen=True)
class Recipe:
    """One run of training.

    Attributes:
        model: name in `SCENE_MODELS`.
        start: the run whose weights it begins with.
        seen: how many of the 144 patches of a scene the model sees; one of these numbers is drawn at every step.
        steps: number of steps.
        rate: highest learning rate.
        seed: of everything random.
        scenes: number of different scenes.
        batch: images per step.
        weight_decay: of matrices.
        warm_up: steps until the highest rate.
    """

    model: str
    start: str | None
    seen: tuple[int, ...]
    steps: int
    rate: float
    seed: int = 0
    scenes: int = 60_000
    batch: int = 64
    weight_decay: float = 0.05
    warm_up: int = 300


RECIPES = {
    "vit": Recipe("vit", None, seen=(48,) * 7 + (144,), steps=2300, rate=2.5e-3),
    "clip": Recipe("clip", "vit", seen=(144,), steps=400, rate=1e-3, seed=2, warm_up=60),
    "siglip": Recipe("siglip", "vit", seen=(144,), steps=1100, rate=1e-3, seed=3, warm_up=60),
}
"""The runs by name, in the order in which they need each other."""


def optimisers(loss: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest; both take the same learning rate."""
    rest, matrices = [], []
    for name, parameter in loss.named_parameters():
        (matrices if "blocks." in name and parameter.ndim == 2 else rest).append(parameter)
    return [
        Muon(matrices, lr=recipe.rate, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(rest, lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def rate_at(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a half cosine to zero."""
    if step < recipe.warm_up:
        return recipe.rate * (step + 1) / recipe.warm_up
    return recipe.rate * 0.5 * (1 + math.cos(math.pi * (step - recipe.warm_up) / (recipe.steps - recipe.warm_up)))


def batches(file: SceneFile, recipe: Recipe, first: int) -> Iterator[tuple[int, Batch]]:
    """Step and batch; what is drawn at a step depends on the seed, the step and the process only."""
    for step in range(first, recipe.steps):
        torch.manual_seed(recipe.seed * 1_000_003 + step)
        seen = recipe.seen[int(torch.randint(len(recipe.seen), ()))]  # the same in all processes
        torch.manual_seed(torch.initial_seed() + 500_009 * _rank())
        yield step, file.batch(recipe.batch, seen, torch.default_generator)


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _drawn(folder: Path, scenes: int) -> SceneFile:
    """The scenes, which the first process draws while the others wait."""
    if _rank() > 0:
        dist.barrier()
    file = SceneFile(folder, scenes, TRAINING_SCENES)
    if dist.is_initialized() and _rank() == 0:
        dist.barrier()
    return file


def _average(parameters: Iterable[nn.Parameter]) -> None:
    """Gives all processes the mean of their gradients."""
    if not dist.is_initialized():
        return
    gradients = [each.grad for each in parameters if each.grad is not None]
    together = torch.cat([each.flatten() for each in gradients])
    dist.all_reduce(together)
    together /= dist.get_world_size()
    for gradient, part in zip(gradients, together.split([each.numel() for each in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def train(name: str, recipe: Recipe, folder: Path, device: str, save_every: int = 200) -> tuple[nn.Module, float]:
    """Trains a model, or goes on from its checkpoint in the folder; returns it with the seconds it took."""
    begun = asdict(recipe) | {"processes": dist.get_world_size() if dist.is_initialized() else 1}
    torch.manual_seed(recipe.seed)
    model = SCENE_MODELS[recipe.model]()
    if recipe.start is not None:
        start = folder / f"{recipe.start}.safetensors"
        if not start.exists():
            raise SystemExit(f"{name} begins with {start}, which is not there: train {recipe.start} first.")
        warm_start(model, load_file(start))
        begun["start_sha256"] = _sha256(start.read_bytes())
    loss = (ClassifierLoss if recipe.model == "vit" else PromptLoss)(model).to(device).train()
    optimizers = optimisers(loss, recipe)
    checkpoint = folder / f"{name}.pt"
    first, seconds = 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True, map_location=device)
        for each in begun.keys() | saved["begun"].keys():
            if begun.get(each) != saved["begun"].get(each):
                raise SystemExit(
                    f"{checkpoint} was made with {each} {saved['begun'].get(each)}, not {begun.get(each)}: go on as it "
                    "began, or choose another --folder."
                )
        loss.load_state_dict(saved["loss"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        first, seconds = saved["step"], saved["seconds"]
    file = _drawn(folder, recipe.scenes)
    began = time.perf_counter() - seconds

    def checkpoint_at(step: int) -> None:
        if _rank() > 0:
            return
        state = {"loss": loss.state_dict(), "optimizers": [each.state_dict() for each in optimizers]}
        state |= {"begun": begun, "step": step, "seconds": time.perf_counter() - began}
        torch.save(state, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)

    with tqdm(total=recipe.steps, initial=first, desc=name, unit="step", disable=_rank() > 0) as bar:
        average = None
        for step, batch in batches(file, recipe, first):
            for group in (each for optimizer in optimizers for each in optimizer.param_groups):
                group["lr"] = rate_at(step, recipe)
            value = loss(batch.to(device), step / recipe.steps)
            if not value.isfinite():
                raise SystemExit(f"the loss is {value.item()} at step {step}; the last checkpoint is {checkpoint}.")
            loss.zero_grad()
            value.backward()
            _average(loss.parameters())
            nn.utils.clip_grad_norm_(loss.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
            average = value.item() if average is None else 0.98 * average + 0.02 * value.item()
            bar.set_postfix(loss=f"{average:.3f}", refresh=False)
            bar.update()
            if (step + 1) % save_every == 0:
                checkpoint_at(step + 1)
    checkpoint_at(recipe.steps)
    if _rank() == 0:
        save_file(model.state_dict(), folder / f"{name}.safetensors")
    return model.cpu().eval(), time.perf_counter() - began


def ship(name: str, model: nn.Module, recipe: Recipe, seconds: float, output: Path) -> None:
    """Writes the weights and the card: data, steps, seed, scores of the weights as they are stored, how to retrain."""
    small = compress(model.state_dict())
    stored = save(small)
    model.load_state_dict(expand(small))
    tokenizer = None if name == "vit" else SimpleTokenizer(context_length=CONTEXT_LENGTH)
    processes = dist.get_world_size() if dist.is_initialized() else 1
    card = {
        "model": f"scenes:{name}",
        "class": f"{type(model).__module__}.{type(model).__name__}",
        "parameters": sum(weight.numel() for weight in small.values()),
        "bytes": len(stored),
        "sha256": _sha256(stored),
        "data": DATA.format(scenes=recipe.scenes, seed=TRAINING_SCENES),
        "recipe": asdict(recipe),
        "retrain": f"torchrun --nproc-per-node {processes} benchmarks/train_scenes.py {name}",
        "minutes": round(seconds / 60, 1),
        "machine": machine(),
        "processes": processes,
        "versions": {each: version(each) for each in ("torch", "timm", "open_clip_torch")},
        "commit": commit(),
        "scores": {what: round(value, 4) for what, value in scores(classifier_of(model, tokenizer)).items()},
        "definitions": DEFINITIONS,
    }
    output.mkdir(parents=True, exist_ok=True)
    path = output / weight_file(name).name
    files = {path: stored, path.with_suffix(".json"): (json.dumps(card, indent=2) + "\n").encode()}
    for each, content in files.items():
        each.with_name(f"{each.name}.new").write_bytes(content)
    for each in files:  # what takes time is done: an interruption leaves the old pair
        each.with_name(f"{each.name}.new").replace(each)
    print(json.dumps(card["scores"], indent=2))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def main() -> None:
    """Reads the command line and trains, scores and writes one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--folder", type=Path, default=Path("runs/scenes"), help="drawn scenes and checkpoints")
    parser.add_argument("--output", type=Path, help="where weights and card go; FOLDER/out by default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=_at_least_one, default=torch.get_num_threads())
    for each in ("scenes", "steps", "batch"):
        parser.add_argument(f"--{each}", type=_at_least_one)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    given = {each: getattr(options, each) for each in ("scenes", "steps", "batch", "rate", "seed")}
    recipe = replace(RECIPES[options.name], **{each: value for each, value in given.items() if value is not None})
    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo")
    model, seconds = train(options.name, recipe, options.folder, options.device)
    if _rank() == 0:
        ship(options.name, model, recipe, seconds, options.output or options.folder / "out")


if __name__ == "__main__":
    main()
