"""Measures the check of a large annotation file against `json.load` of the same file, in interleaved pairs.

python -m loradet.benchmarks.annotation_check --images 200000 --boxes 2000000 --pairs 5
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate

from loradet.benchmarks.turns import interleave, ratio_figures
from loradet.datasets.checks import check

_SIDE, _CLASSES = 640, 20


def write_annotations(path: Path, images: int, boxes: int) -> None:
    """A sound COCO file of random boxes, to two digits after the point."""
    rng = np.random.default_rng(0)
    corners, sides = rng.uniform(0, 500, (boxes, 2)).round(2), rng.uniform(10, 130, (boxes, 2)).round(2)
    owners, classes = np.sort(rng.integers(1, images + 1, boxes)), rng.integers(1, _CLASSES + 1, boxes)
    columns = zip(owners.tolist(), classes.tolist(), corners.tolist(), sides.tolist())
    content = {
        "images": [
            {"id": number, "file_name": f"{number:08d}.jpg", "width": _SIDE, "height": _SIDE}
            for number in range(1, images + 1)
        ],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": category,
                "bbox": [*corner, *side],
                "area": side[0] * side[1],
                "iscrowd": 0,
            }
            for number, (image, category, corner, side) in enumerate(columns, start=1)
        ],
        "categories": [{"id": number, "name": f"class {number}"} for number in range(1, _CLASSES + 1)],
    }
    path.write_text(json.dumps(content))


def benchmark_check(images: int, boxes: int, pairs: int) -> dict:
    """Median seconds of both sides, and their ratio by `ratio_figures`. Pictures are not opened."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "annotations.json"
        write_annotations(file, images, boxes)

        def ours(path: Path) -> None:
            report = check(path, None)
            if not report.ok or report.annotations != boxes:
                raise RuntimeError(report.text())

        def theirs(path: Path) -> None:
            with path.open() as opened:
                json.load(opened)

        seconds = interleave(ours, theirs, [file], pairs=pairs, warmup=0)
        size = file.stat().st_size
    return {
        "megabytes": size / 1e6,
        "check_s": statistics.median(seconds[0]),
        "json_load_s": statistics.median(seconds[1]),
        **ratio_figures(*seconds),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m loradet.benchmarks.annotation_check`; prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--boxes", type=int, default=2_000_000)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args(arguments)
    print(
        tabulate(
            benchmark_check(options.images, options.boxes, options.pairs).items(), tablefmt="plain", floatfmt=".4g"
        )
    )


if __name__ == "__main__":
    main()
