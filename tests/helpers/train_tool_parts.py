"""Parts that tests put into a config by name."""

from pathlib import Path

import torch
from detectron2.utils import comm

from loradet.datasets.mapper import DetectionMapper


class ProbingMapper:
    """A DetectionMapper that notes which process maps which image, and plays tricks on one process.

    Args:
        folder: gets a file `<rank>` with a line for each image.
        boxless_rank: this process sees no boxes.
        nan_rank, nan_from: this process sees NaN pixels from its so many-th image on.
        **kwargs: of DetectionMapper.
    """

    def __init__(self, *, folder, boxless_rank=None, nan_rank=None, nan_from=0, **kwargs):
        self.mapper = DetectionMapper(**kwargs)
        self.folder = Path(folder)
        self.boxless_rank = boxless_rank
        self.nan_rank = nan_rank
        self.nan_from = nan_from
        self.seen = 0

    def __call__(self, record):
        rank = comm.get_rank()
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / str(rank)).open("a") as file:
            file.write(f"{record['image_id']}\n")
        if rank == self.boxless_rank:
            record["annotations"] = []
        sample = self.mapper(record)
        if rank == self.nan_rank and self.seen >= self.nan_from:
            sample["image"] = torch.full(sample["image"].shape, torch.nan)
        self.seen += 1
        return sample
