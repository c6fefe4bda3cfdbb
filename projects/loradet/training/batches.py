"""Batches on their way to the device."""

from typing import Any

import torch


def images_to_device(batch: list[dict[str, Any]], device: torch.device) -> list[dict[str, Any]]:
    """The batch with its images on a CUDA device; on others as it is.

    Of pinned images (`TrainLoader.pin_memory`) the copies run while the host goes on. Samples are not written to.
    """
    if device.type != "cuda":
        return batch
    return [
        sample | {"image": sample["image"].to(device, non_blocking=True)} if "image" in sample else sample
        for sample in batch
    ]
