"""Measures reading a large annotation file against `json.load` of it, and what data processes add to its records."""

import contextlib
import gc
import json
import multiprocessing
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from loradet.benchmarks.annotation_check import write_annotations
from loradet.benchmarks.turns import ratio_figures
from loradet.datasets import coco_dataset
from loradet.datasets.loader import build_train_loader
from loradet.evaluation.process_memory import status_mb

_DRAWN = 20_000  # images that the data process has read when it is measured, or fewer where there are fewer


def benchmark_annotations(*, images: int, boxes: int, pairs: int = 5) -> dict[str, Any]:
    """Read a sound file of random boxes as dataset dicts and by `json.load`, in turn, a process a measurement.

    Args:
        images, boxes: in the file.
        pairs: measured pairs.

    Returns:
        medians of both sides: CPU seconds that reading took, and MiB that it added to its process at its peak; the
        median of the pairs' ratios (ours over theirs) with the quartiles of the seconds'. `worker_mb` and
        `list_worker_mb`: what a data process has for itself, not shared, in MiB, once it has read many records and
        looked for garbage: of our records, and of a list of the same dicts that the main process goes on holding.

    Raises:
        RuntimeError: the dicts are not what the file says.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_annotations(folder / "annotations.json", images, boxes)
        (folder / "00000001.jpg").touch()  # the reader looks whether there are images
        _in_a_process(_check, folder)
        read = [
            [_in_a_process(_read, folder, side) for side in (_SIDES if number % 2 else reversed(_SIDES))]
            for number in range(pairs)
        ]
        ours, theirs = ([next(one for one in pair if one["side"] == side) for pair in read] for side in _SIDES)
        workers = {kind: _in_a_process(_worker, folder, kind) for kind in ("records", "list")}
    ratios = ratio_figures([one["s"] for one in ours], [one["s"] for one in theirs])
    return {
        "images": images,
        "boxes": boxes,
        "our_cpu_s": _median(ours, "s"),
        "json_load_cpu_s": _median(theirs, "s"),
        **{name: value for name, value in ratios.items() if name != "threads"},
        "enough_pairs": pairs >= 5,  # a side takes seconds
        "our_peak_mb": _median(ours, "mb"),
        "json_load_peak_mb": _median(theirs, "mb"),
        "peak_ratio": statistics.median(a["mb"] / b["mb"] for a, b in zip(ours, theirs)),
        "worker_mb": workers["records"],
        "list_worker_mb": workers["list"],
    }


def _median(figures: Sequence[dict[str, Any]], name: str) -> float:
    return statistics.median(one[name] for one in figures)


def _in_a_process(run: Callable[..., Any], *arguments: Any) -> Any:
    # Not forked: a forked process would hold, and count, what this one does.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run, *arguments).result()


def _ours(folder: Path) -> Sequence[dict[str, Any]]:
    return coco_dataset(folder / "annotations.json", folder)


def _json_load(folder: Path) -> dict[str, Any]:
    with (folder / "annotations.json").open() as opened:
        return json.load(opened)


_SIDES = ("ours", "json.load")


def _read(folder: Path, side: str) -> dict[str, Any]:
    run = _ours if side == "ours" else _json_load
    before, begin = status_mb("VmRSS"), time.process_time()
    kept = run(folder)
    seconds = time.process_time() - begin
    assert kept
    return {"side": side, "s": seconds, "mb": max(status_mb("VmHWM") - before, 2**-10)}  # Linux counts KiB


def _check(folder: Path) -> None:
    """Compare every dict with what the file says."""
    records, content = _ours(folder), _json_load(folder)
    boxes = iter(content["annotations"])  # in the order of their images
    entry = next(boxes, None)
    for record, image in zip(records, content["images"], strict=True):
        expected = []
        while entry is not None and entry["image_id"] == image["id"]:
            expected.append((entry["bbox"], entry["category_id"] - 1, entry["iscrowd"]))
            entry = next(boxes, None)
        found = [(one["bbox"], one["category_id"], one["iscrowd"]) for one in record["annotations"]]
        same = (record["image_id"], record["height"], record["width"], record["file_name"]) == (
            *(image["id"], image["height"], image["width"]),
            str(folder / image["file_name"]),
        )
        if not same or found != expected:
            raise RuntimeError(f"The dict of image {image['id']} is not what the file says. No time is taken.")
    if entry is not None:
        raise RuntimeError(f"The dicts lack annotation {entry['id']}. No time is taken.")


def _worker(folder: Path, kind: str) -> float:
    records = _ours(folder)
    if kind == "list":
        records = list(records)
    drawn = min(len(records), _DRAWN)
    loader = build_train_loader(
        records, mapper=_Measure(drawn), total_batch_size=1, num_workers=1, aspect_ratio_grouping=False
    )
    with _forking():
        figures = (sample["mb"] for batch in loader for sample in batch)
        return next(figure for figure in figures if figure is not None)


@contextlib.contextmanager
def _forking() -> Iterator[None]:
    """On Linux data processes are forked, as in training; this process was spawned, and its own would be too."""
    before = multiprocessing.get_start_method(allow_none=True)
    if sys.platform == "linux":
        multiprocessing.set_start_method("fork", force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(before, force=True)


class _Measure:
    """A mapper that reads `count` records, then looks for garbage and says what its process has for itself, in MiB."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        self.left -= 1
        if self.left > 0:
            return {"mb": None}
        gc.collect()
        return {"mb": _private_mb()}


def _private_mb() -> float:
    """What this process shares with no other, in MiB, by Linux's `/proc/self/smaps_rollup`; elsewhere NaN."""
    rollup = Path("/proc/self/smaps_rollup")
    if not rollup.is_file():
        return float("nan")
    return sum(int(kib) for kib in re.findall(r"^Private_\w+:\s+(\d+) kB", rollup.read_text(), re.MULTILINE)) / 2**10
