"""Measures detection by onnxruntime against torch, one image at a time, in turns, on the CPU.

    python -m loradet.benchmarks.onnx_speed --config-file configs/quickstart.py --size 320 448 --pairs 50

The detector is as its training starts. Both sides run in one thread and are given the same array;
exporting it has found their detections equal first.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

from loradet.adapters import adapter_state
from loradet.benchmarks.arguments import refuse_below_one
from loradet.benchmarks.turns import interleave, ratio_figures
from loradet.config import load_config
from loradet.errors import errors_in_one_line
from loradet.inference.export import export_checkpoint
from loradet.inference.onnx_detector import OnnxDetector, Sample
from loradet.model import initial_model, load_detector

Image = np.ndarray  # (H, W, 3) uint8, RGB


def benchmark_onnx(
    config_file: str,
    size: tuple[int, int],
    overrides: Sequence[str] = (),
    *,
    pairs: int,
    warmup: int = 3,
    cpu_time: bool = False,
) -> dict[str, Any]:
    """Seconds an image of both sides, and how many times as many images onnxruntime does.

    Args:
        config_file: of a detector that can be exported, as its training starts.
        size: (height, width) of the image, random noise.
        overrides: of the config.
        cpu_time: count the seconds that this process computes, on a machine with other work.

    Raises:
        UserError: the detector cannot be exported.
    """
    cfg = load_config(config_file, ["train.device=cpu", *overrides], needs_data=False)
    torch.set_num_threads(1)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())
    with tempfile.TemporaryDirectory() as folder:
        file, checkpoint = Path(folder) / "model.onnx", Path(folder) / "model.pth"
        first = initial_model(cfg)
        torch.save({"model": first.state_dict(), "adapter_recipes": adapter_state(first)}, checkpoint)
        compared = export_checkpoint(cfg, str(checkpoint), str(file))["checked"]
        model = load_detector(cfg, checkpoint, merge=True)
        detector = OnnxDetector(file, threads=1)

        def by_torch(images: Image) -> None:
            del images
            with torch.no_grad():
                model([{"image": tensor, "height": size[0], "width": size[1]}])

        seconds = interleave(
            by_torch,
            lambda images: detector([Sample(images, *size)]),
            [image],
            pairs=pairs,
            warmup=warmup,
            clock=time.process_time if cpu_time else time.perf_counter,
        )
    return {
        "compared_detections": compared["detections"],
        "torch_ms": 1000 * statistics.median(seconds[0]),
        "onnx_ms": 1000 * statistics.median(seconds[1]),
        **ratio_figures(*seconds),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m loradet.benchmarks.onnx_speed`; prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="quickstart.py")
    parser.add_argument("--size", nargs=2, type=int, default=[320, 448], metavar=("H", "W"))
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--cpu-time", action="store_true", help="where other work runs too")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_intermixed_args(arguments)
    refuse_below_one(parser, {"pairs": options.pairs, "size": min(options.size)})
    words = (options.config_file, tuple(options.size), options.overrides)
    with errors_in_one_line():
        figures = benchmark_onnx(*words, pairs=options.pairs, cpu_time=options.cpu_time)
    print(tabulate(figures.items(), tablefmt="plain", floatfmt=".4g"))


if __name__ == "__main__":
    main()
