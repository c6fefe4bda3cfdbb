"""What was measured on."""

import importlib.metadata
import os
from collections.abc import Iterator
from typing import Any

import torch

import detectron2_embedded
from loradet.benchmarks.gpu.sections import Bench
from loradet.config.device import choose_device


def machine(bench: Bench) -> Iterator[dict[str, Any]]:
    """One row: device, cores, versions."""
    device = choose_device(bench.device)
    row: dict[str, Any] = {"case": device.type}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        row |= {"case": properties.name, "memory GiB": properties.total_memory / 2**30, "CUDA": torch.version.cuda}
        row["TF32"] = torch.get_float32_matmul_precision() != "highest"
    row |= {"cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()}
    row |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    row |= {"timm": importlib.metadata.version("timm"), "note": f"Detectron2: {detectron2_embedded.describe()}"}
    yield row
