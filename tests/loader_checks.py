"""What holds for every loader, and how its tests write images."""

import pickle
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from captum_vit.data import Sample


def colours(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8, different everywhere."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, values: np.ndarray, mode: str | None = None) -> None:
    """Writes an image; ``mode`` "P" gives it a palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if mode == "P":
        image = Image.fromarray(values).convert("L")
        image.putpalette(bytes((7 * k + channel) % 256 for k in range(256) for channel in range(3)))
    image.save(path)


def cut_short(path: Path) -> None:
    """Leaves half of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def check_loader(dataset: Dataset[Sample]) -> list[Sample]:
    """Every sample, after what a loader promises was looked at."""
    samples = [dataset[k] for k in range(len(dataset))]
    assert len({each.id for each in samples}) == len(samples) > 0
    for each in samples:
        assert each.image.mode == "RGB"
        assert each.regions
        for region in each.regions:
            for mask in filter(lambda mask: mask is not None, (region.mask, *region.parts.values())):
                assert mask.dtype == torch.int64
                assert mask.shape == each.image.size[::-1]
                assert set(mask.unique().tolist()) <= {-1, 0, 1}
            if region.boxes is not None:
                assert region.boxes.dtype == torch.float32
                assert region.boxes.shape[1:] == (4,)
            if region.label is not None and hasattr(dataset, "classes"):
                assert 0 <= region.label < len(dataset.classes)
    assert isinstance(getattr(dataset, "classes", ()), tuple)
    copies = {
        "pickled": pickle.loads(pickle.dumps(dataset)),
        "after the last came the first": [dataset[k] for k in range(-len(dataset), 0)],
        "workers": [each for batch in DataLoader(dataset, 2, num_workers=2, collate_fn=list) for each in batch],
    }
    for name, copy in copies.items():
        for expected, got in zip(samples, (copy[k] for k in range(len(samples))), strict=True):
            assert got.id == expected.id, name
            assert got.label == expected.label, name
            assert got.image.tobytes() == expected.image.tobytes(), name
            assert len(got.regions) == len(expected.regions), name
            assert all(same_region(a, b) for a, b in zip(got.regions, expected.regions, strict=True)), name
    return samples


def same_region(a, b) -> bool:
    """Whether two regions say the same."""
    return (
        (a.label, a.prompt, list(a.parts)) == (b.label, b.prompt, list(b.parts))
        and (a.mask is b.mask is None or torch.equal(a.mask, b.mask))
        and (a.boxes is b.boxes is None or torch.equal(a.boxes, b.boxes))
        and all(torch.equal(a.parts[name], b.parts[name]) for name in a.parts)
    )
