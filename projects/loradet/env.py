"""Prints which Detectron2 is used and the versions of what results depend on: `python -m loradet.env`."""

import importlib
import importlib.metadata
import os
import platform
import sys

import detectron2_embedded
import loradet

PACKAGES = (
    *("torch", "torchvision", "timm", "fvcore", "iopath", "omegaconf", "safetensors"),
    *("pycocotools", "ultrafast-pycocotools", "numpy", "opencv-python-headless", "pillow", "simplejpeg"),
)


def collect() -> dict[str, str]:
    """What there is, by name. Imports torch, and an installed detectron2, whose compiled part may not load."""
    rows = {
        "loradet": f"{loradet.__version__} ({os.path.dirname(loradet.__file__)})",  # noqa: PTH120
        **_detectron2(),
        **_variables(),
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
    }
    rows.update({package: _version(package) for package in PACKAGES})
    rows.update(_accelerators())
    return rows


def _detectron2() -> dict[str, str]:
    found = detectron2_embedded.describe()
    row = {"detectron2": f"{found}: {found.problem}" if found.problem else str(found)}
    if found.kind == "installed" and not found.problem:
        row["detectron2._C"] = _compiled_part()
    return row


def _compiled_part() -> str:
    try:
        importlib.import_module("detectron2._C")
    except ModuleNotFoundError as error:
        return "not built" if error.name == "detectron2._C" else str(error)
    except ImportError as error:
        return str(error)
    return "loads"


def _variables() -> dict[str, str]:
    names = ("DETECTRON2_EMBEDDED", "LORADET_DETECTRON2")
    given = {name: os.environ[name] for name in names if os.environ.get(name)}
    return given or {names[0]: "auto (not set)"}


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
