"""``captum-vit doctor``: what was detected in a model, and whether its attention is captured right."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from captum_vit.cli.arguments import image_size, refuse

if TYPE_CHECKING:
    from captum_vit.adapters.examine import Examination
    from captum_vit.zoo import LoadedModel

__all__ = ["doctor"]


def doctor(
    model: Annotated[
        str, typer.Argument(help="timm:NAME, open_clip:ARCHITECTURE/TAG, hf:NAME or hf:FOLDER, torchvision:NAME.")
    ],
    untrained: Annotated[bool, typer.Option("--untrained", help="Take random weights; nothing is downloaded.")] = False,
    checkpoint: Annotated[Path | None, typer.Option(help="Local weights: .safetensors, .pth.")] = None,
    size: Annotated[str | None, typer.Option("--image-size", help="N or HxW; the model's own by default.")] = None,
) -> None:
    """Examine MODEL: what was detected, and whether the recomputed attention equals the model's own.

    Only the structure is examined, so random weights serve where pretrained ones can't be had. Exit code 1: the model
    is not supported, or a check fails.
    """
    side = image_size(size)
    import torch

    from captum_vit.adapters.examine import examine
    from captum_vit.zoo import WeightsUnavailableError, load_model

    try:
        loaded = load_model(model, weights="untrained" if untrained else "auto", checkpoint=checkpoint, image_size=side)
    except (ValueError, FileNotFoundError, WeightsUnavailableError) as error:
        refuse(str(error), "MODEL")
    if loaded.missing_weights is not None:
        typer.echo(f"Examined with random weights: {loaded.missing_weights}.", err=True)
    images = torch.randn(1, len(loaded.mean), *loaded.image_size, generator=torch.Generator().manual_seed(0))
    try:
        examination = examine(loaded.model, images)
    except (TypeError, ValueError, RuntimeError) as error:
        typer.echo(f"{model} can't be explained: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(report(loaded, examination))
    for problem in examination.problems:
        typer.echo(f"FAILED {problem} (at most {examination.tolerance:.0e})", err=True)
    if examination.problems:
        raise typer.Exit(1)


def report(loaded: LoadedModel, examination: Examination) -> str:
    """The examination as text."""
    blocks = examination.blocks
    facts = {
        "model": f"{loaded.name} ({'pretrained' if loaded.pretrained else 'UNTRAINED WEIGHTS'})",
        "family": f"{examination.family} ({examination.model_class})",
        "image": f"{examination.image_size[0]}×{examination.image_size[1]} pixels",
        "patch grid": f"{examination.grid[0]}×{examination.grid[1]}",
        "prefix tokens": str(examination.num_prefix_tokens),
        "blocks": str(len(blocks)),
        "heads": _range([check.heads for check in blocks]),
        "head dimension": _range([check.head_dimension for check in blocks]),
        "pooling": examination.pooling,
        "outputs": f"{examination.num_outputs} {_outputs(loaded, examination)}",
        "attention route": ", ".join(sorted({check.route for check in examination.checks})),
        "bias in softmax": "yes" if any(check.bias for check in blocks) else "no",
    }
    width = max(map(len, facts))
    lines = [f"{name.ljust(width)}  {fact}" for name, fact in facts.items()]
    column = max(22, *(len(check.name) for check in examination.checks)) + 2
    lines += ["", f"{'largest relative error'.ljust(column)}attention  output"]
    lines += [
        f"{check.name.ljust(column)}{check.attention_error:9.1e}  {check.output_error:.1e}"
        for check in examination.checks
    ]
    lines.append(f"{'readout'.ljust(column)}{'':9}  {examination.readout_error:.1e}")
    verdict = "FAILED" if examination.problems else f"all checks passed (at most {examination.tolerance:.0e})"
    return "\n".join([*lines, "", verdict])


def _range(values: list[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _outputs(loaded: LoadedModel, examination: Examination) -> str:
    if examination.two_towers:
        return "dimensions of the image embedding, to be compared with prompts"
    return "features (no classifier)" if loaded.outputs == "features" else "classes"
