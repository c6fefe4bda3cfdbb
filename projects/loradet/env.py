"""Prints which Detectron2 is used and the versions of what results depend on: `python -m loradet.env`."""

import importlib.metadata
import os
import platform
import sys

import detectron2_embedded
import loradet

PACKAGES = (
    *("torch", "torchvision", "timm", "fvcore", "iopath", "omegaconf", "safetensors"),
    *("pycocotools", "numpy", "opencv-python-headless", "pillow"),
)


def collect() -> dict[str, str]:
    """What there is, by name. Imports torch, but not detectron2."""
    rows = {
        "loradet": f"{loradet.__version__} ({os.path.dirname(loradet.__file__)})",  # noqa: PTH120
        "detectron2": describe_detectron2(),
        "LORADET_DETECTRON2": os.environ.get("LORADET_DETECTRON2") or "auto (not set)",
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
    }
    rows.update({package: _version(package) for package in PACKAGES})
    rows.update(_accelerators())
    return rows


def describe_detectron2() -> str:
    """`embedded` or `installed` with its version, and its folder."""
    folder = detectron2_embedded.origin()
    if detectron2_embedded.is_embedded():
        return f"embedded ({folder})"
    return f"installed {_version('detectron2')} ({folder})"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _accelerators() -> dict[str, str]:
    import torch

    rows = {
        "torch": torch.__version__,  # with the build, which the package's metadata may lack
        "CUDA of torch": torch.version.cuda or "none (CPU build)",
        "CPU threads": f"{torch.get_num_threads()} of {os.cpu_count()} cores",
    }
    if not torch.cuda.is_available():
        return {**rows, "GPUs": "none in sight"}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        rows[f"GPU {index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return {**rows, "cuDNN": str(torch.backends.cudnn.version())}


def main() -> None:
    """Print the rows of `collect`."""
    rows = collect()
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")


if __name__ == "__main__":
    main()
