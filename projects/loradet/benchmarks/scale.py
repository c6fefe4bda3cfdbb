"""Measures what grows with images, boxes and runs: CPU seconds and peak memory, a process for each measurement.

python -m loradet.benchmarks.scale data --images 25000 50000 100000 200000
python -m loradet.benchmarks.scale runs --entries 50 100 200 --seeds 5
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tabulate import tabulate

from loradet.benchmarks.arguments import refuse_below_one
from loradet.evaluation.process_memory import status_mb

BOXES, DETECTIONS, CLASSES = 10, 10, 20  # an image; classes of the evaluation's files
STUDY_PARTS = ("status", "collect", "report")


def measure_data(images: int, folder: Path) -> dict[str, dict[str, float]]:
    """Figures of what is done with annotations of so many images and ten times as many boxes.

    Args:
        images: in the file.
        folder: an empty one, for the files.

    Returns:
        part -> `cpu_s`, `wall_s`, `peak_mb` (the most that its process held, Python and libraries included) and
        `before_mb` (held before it began).
    """
    _in_a_process(_write_annotations, folder, images)
    found = {part: _in_a_process(_measured, part, folder, images) for part in DATA_PARTS}
    _in_a_process(_write_detections, folder, images)
    return found | {"evaluation": _in_a_process(_measured, "evaluation", folder, images)}


def measure_runs(entries: int, seeds: int, folder: Path, *, log_lines: int = 200) -> dict[str, dict[str, float]]:
    """`cpu_s`, `wall_s` and `peak_mb` of the study commands over finished runs whose configs are known.

    Args:
        entries, seeds: of the study; their product is the number of runs.
        folder: an empty one, for study and runs.
        log_lines: of each run.

    Raises:
        RuntimeError: a command does not count every run as finished.
    """
    _in_a_process(_write_study, folder, entries, seeds, log_lines)
    found = {part: _study(part, folder) for part in STUDY_PARTS}
    runs = json.loads((folder / "numbers.json").read_text())
    if [run["state"] for run in runs] != ["finished"] * (entries * seeds):
        raise RuntimeError(f"{folder}: not all of {entries * seeds} runs count as finished.")
    return found


def _in_a_process(run: Callable[..., Any], *arguments: Any) -> Any:
    # Not forked: a forked process would hold, and count, what this one does.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run, *arguments).result()


def _measured(part: str, folder: Path, size: int) -> dict[str, float]:
    run = _evaluate if part == "evaluation" else DATA_PARTS[part]
    before, wall, cpu = status_mb("VmRSS"), time.perf_counter(), time.process_time()
    run(folder, size)
    return {
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - wall,
        "peak_mb": status_mb("VmHWM"),
        "before_mb": before,
    }


def _write_annotations(folder: Path, images: int) -> None:
    from loradet.benchmarks.annotation_check import write_annotations

    write_annotations(folder / "annotations.json", images, BOXES * images)
    (folder / "00000001.jpg").touch()  # the reader looks whether there are images


def _write_detections(folder: Path, images: int) -> None:
    from loradet.benchmarks.metrics_sides import write_files

    (folder / "annotations.json").unlink()
    write_files(folder, images, DETECTIONS, CLASSES)


def _write_study(folder: Path, entries: int, seeds: int, log_lines: int) -> None:
    from loradet.benchmarks.stub_study import write_runs, write_study

    write_runs(write_study(folder, entries=entries, seeds=seeds), folder / "work_dirs", log_lines=log_lines)


def _read(folder: Path, images: int) -> None:
    from loradet.datasets import coco_dataset

    assert len(coco_dataset(folder / "annotations.json", folder)) == images


def _check(folder: Path, images: int) -> None:
    from loradet.datasets.checks import check

    assert check(folder / "annotations.json", None).annotations == BOXES * images


def _summary(folder: Path, images: int) -> None:
    from loradet.datasets.summary import summarize

    assert f"{images} images" in summarize(folder / "annotations.json", folder / "summary.png")


def _sampler(folder: Path, images: int) -> None:  # noqa: ARG001
    import itertools

    from detectron2.data.samplers import TrainingSampler

    assert len(set(itertools.islice(TrainingSampler(images, seed=0), images))) == images


def _loader(folder: Path, images: int) -> None:
    """To the first batch, reading the file included, with one data process; images are not opened."""
    from loradet.datasets import coco_dataset
    from loradet.datasets.loader import build_train_loader

    records = coco_dataset(folder / "annotations.json", folder)
    loader = build_train_loader(records, mapper=dict, total_batch_size=8, num_workers=1, aspect_ratio_grouping=False)
    assert len(next(iter(loader))) == min(8, images)


def _evaluate(folder: Path, images: int) -> None:  # noqa: ARG001
    from loradet.evaluation.coco_metrics import coco_metrics

    assert coco_metrics(folder / "annotations.json", folder / "coco_instances_results.json")["coco/bbox_mAP"] > 0


def _study(command: str, folder: Path) -> dict[str, float]:
    """Figures of a command as it is typed, the start of Python and all imports included."""
    output = {"status": "status.txt", "collect": "numbers.json", "report": "report"}[command]
    words = ["--study", str(folder / "study.yaml"), "--work-dirs", str(folder / "work_dirs")]
    words = [sys.executable, "-m", "loradet.cli", "study", *words, command, "--output", str(folder / output)]
    began = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(words)} ended with status {os.waitstatus_to_exitcode(status)}.")
    return {
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "wall_s": time.perf_counter() - began,
        "peak_mb": usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10),
    }


DATA_PARTS: dict[str, Callable[[Path, int], None]] = {
    "reading": _read,
    "check": _check,
    "summary": _summary,
    "sampler": _sampler,
    "loader": _loader,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m loradet.benchmarks.scale`; prints a table for each size, and leaves nothing behind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    data = parts.add_parser("data", help="annotations and their evaluation")
    data.add_argument("--images", type=int, nargs="+", metavar="N", default=[200_000], help="sizes (200000)")
    runs = parts.add_parser("runs", help="status, collect and report of a study")
    runs.add_argument("--entries", type=int, nargs="+", metavar="N", default=[200], help="sizes (200)")
    runs.add_argument("--seeds", type=int, metavar="N", default=5, help="runs of an entry (5)")
    runs.add_argument("--log-lines", type=int, metavar="N", default=200, help="of each run's metrics.json (200)")
    options = parser.parse_args(arguments)
    sizes = options.images if options.part == "data" else options.entries
    refuse_below_one(parser, {"images" if options.part == "data" else "entries": min(sizes)})
    if options.part == "runs":
        refuse_below_one(parser, {"seeds": options.seeds, "log_lines": options.log_lines})
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            if options.part == "data":
                found = measure_data(size, Path(name))
            else:
                found = measure_runs(size, options.seeds, Path(name), log_lines=options.log_lines)
        title = f"{size} images" if options.part == "data" else f"{size * options.seeds} runs"
        print(
            tabulate([{title: part, **one} for part, one in found.items()], headers="keys", floatfmt=".3g"), flush=True
        )


if __name__ == "__main__":
    main()
