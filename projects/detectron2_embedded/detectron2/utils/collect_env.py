"""What a bug report or a run's log says about the machine and its software."""

import importlib
import importlib.metadata
import os
import platform
import sys
from pathlib import Path

import torch
from detectron2._subset import missing_names
from tabulate import tabulate

__all__ = ["collect_env_info"]

_PACKAGES = ("torchvision", "fvcore", "iopath", "omegaconf", "hydra-core", "pycocotools", "pillow", "timm")


def collect_env_info() -> str:
    """Table of platform, versions and GPUs."""
    import numpy as np

    rows = [
        ("platform", platform.platform()),
        ("Python", sys.version.replace("\n", "")),
        ("numpy", np.__version__),
        ("detectron2", _detectron2_version()),
        ("PyTorch", f"{torch.__version__} @ {Path(torch.__file__).parent}"),
        ("PyTorch debug build", torch.version.debug),
        ("CUDA of PyTorch", torch.version.cuda),
        ("GPU available", torch.cuda.is_available()),
        *_gpu_rows(),
        *((name, _version(name)) for name in _PACKAGES),
        ("cv2", _opencv_version()),
        ("CPU threads", torch.get_num_threads()),
    ]
    which = ("DETECTRON2_EMBEDDED", "LORADET_DETECTRON2")
    for variable in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "DETECTRON2_DATASETS", *which):
        if variable in os.environ:
            rows.append((variable, os.environ[variable]))
    return tabulate([(name, str(value)) for name, value in rows], disable_numparse=True)


def _gpu_rows() -> list[tuple[str, object]]:
    if not torch.cuda.is_available():
        return []
    rows: list[tuple[str, object]] = []
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        arch = f"{properties.major}.{properties.minor}"
        rows.append((f"GPU {i}", f"{properties.name} (arch={arch}, {properties.total_memory / 2**30:.0f} GiB)"))
    rows.append(("cuDNN", torch.backends.cudnn.version()))
    return rows


def _detectron2_version() -> str:
    package = importlib.import_module("detectron2")
    return f"{package.__version__} @ {Path(package.__file__).parent}"


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not found"


def _opencv_version() -> str:
    try:
        return importlib.import_module("cv2").__version__
    except ImportError:
        return "not found"


__getattr__ = missing_names(
    __name__, ["collect_torch_env", "detect_compute_compatibility", "get_env_module", "main", "test_nccl_ops"]
)


if __name__ == "__main__":
    print(collect_env_info())
