"""Metrics that ask a model, fed from a stream; run as a program, it is one of two processes.

    python model_streams.py RANK FOLDER

feeds every second image to each metric, and rank 0 writes to FOLDER what the metrics say of the images of both.
"""

import sys
from pathlib import Path

import torch
from perturbed import Linear, case

from captum_vit import metrics

METRICS = {
    "curve": lambda score: metrics.Deletion(score, steps=4),
    "accuracy": lambda score: metrics.PositivePerturbation(score),
    "value": lambda score: metrics.SaCo(score, groups=4),
    "drop": lambda score: metrics.AverageDrop(score),
    "road": lambda score: metrics.RoadCombined(score, fractions=(0.3, 0.6)),
    "random subsets": lambda score: metrics.FaithfulnessCorrelation(score, patch=(4, 2), subset=3, runs=5),
}


def result(name, batches):
    """The mean of a metric that takes the batches of image indices, the mean curve, and the images that count."""
    images, maps, targets = case(5)
    maps[3] = 1
    metric = METRICS[name](Linear(probabilities=True))
    for indices in batches:
        metric.update(images[indices], maps[indices], targets[indices])
    mean = metric.compute()
    with metric.sync_context(should_sync=torch.distributed.is_initialized()):
        curve = metric.mean_curve() if name in ("curve", "accuracy") else torch.zeros(())
        return torch.cat([mean.view(1), curve.view(-1), metric.images.view(1), metric.excluded.view(1)])


def main(rank, folder):
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    results = {name: result(name, torch.arange(rank, 5, 2).split(2)) for name in METRICS}
    if rank == 0:
        torch.save(results, folder / "results.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
