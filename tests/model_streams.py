"""Metrics that ask a model, fed from a stream; run as a program, it is one of two processes.

    python model_streams.py RANK FOLDER

feeds every second image to each metric, and rank 0 writes to FOLDER what the metrics say of the images of both.
"""

import sys
from pathlib import Path

import torch
from perturbed import Linear, case
from torch import nn

from captum_vit import metrics
from captum_vit.metrics.functional import redraw, spearman


def mixing():
    """A model of two blocks, and its map of every target: what the model makes of each pixel."""
    model = nn.ModuleDict({"first": nn.Conv2d(3, 4, 1), "blocks": nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(2))})
    redraw(model, model.parameters(), seed=1, std=0.7)
    model.double()

    def explain(images, targets):
        values = model["first"](images)
        for block in model["blocks"]:
            values = block(values.tanh())
        return values.detach()[torch.arange(len(images)), targets]

    return model, explain


METRICS = {
    "curve": lambda score: metrics.Deletion(score, steps=4),
    "accuracy": lambda score: metrics.PositivePerturbation(score),
    "value": lambda score: metrics.SaCo(score, groups=4),
    "drop": lambda score: metrics.AverageDrop(score),
    "road": lambda score: metrics.RoadCombined(score, fractions=(0.3, 0.6)),
    "random subsets": lambda score: metrics.FaithfulnessCorrelation(score, patch=(4, 2), subset=3, runs=5),
    "inserted": lambda score: metrics.Insertion(score, steps=4),
    "fall": lambda score: metrics.AOPC(score, steps=4),
    "between": lambda score: metrics.ABPC(score, steps=4),
    "increase": lambda score: metrics.AverageIncrease(score, fill=0.9),
    "infidelity": lambda score: metrics.Infidelity(score, patch=(4, 2), share=0.3, samples=5),
}

EXPLAINING = {
    "noise": lambda _, explain: metrics.SensitivityMax(explain, radius=0.1, samples=3),
    "random weights": lambda model, explain: metrics.ModelRandomisation(model, explain),
    "random targets": lambda _, explain: metrics.RandomTargetSimilarity(explain, 4, similarity=spearman),
}
"""Metrics that take no maps: they ask for them."""

NAMES = [*METRICS, *EXPLAINING]


def result(name, batches):
    """The mean of a metric that takes the batches of image indices, the mean curve, and the images that count."""
    images, maps, targets = case(5)
    if name in EXPLAINING:
        images[3] = 1
        metric, given = EXPLAINING[name](*mixing()), (images, targets)
    else:
        maps[3] = 1
        metric, given = METRICS[name](Linear(probabilities=True)), (images, maps, targets)
    for indices in batches:
        metric.update(*(each[indices] for each in given))
    mean = metric.compute()
    with metric.sync_context(should_sync=torch.distributed.is_initialized()):
        curve = metric.mean_curve() if hasattr(metric, "mean_curve") else {}
        values = torch.tensor(list(curve.values())) if isinstance(curve, dict) else curve
        return torch.cat([each.double().view(-1) for each in (mean, values, metric.images, metric.excluded)])


def main(rank, folder):
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    results = {name: result(name, torch.arange(rank, 5, 2).split(2)) for name in NAMES}
    if rank == 0:
        torch.save(results, folder / "results.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
