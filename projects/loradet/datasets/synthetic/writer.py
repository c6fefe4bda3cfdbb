"""Writes synthetic sets to disk, in one of the layouts of `layouts.LAYOUTS`."""

import json
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from loradet.datasets.files import expand, write_coco
from loradet.datasets.synthetic.compose import (
    MAX_OBJECTS,
    STYLE_CLASSES,
    check_max_objects,
    check_style,
    parse_size,
    scene,
)
from loradet.datasets.synthetic.layouts import LAYOUTS
from loradet.datasets.synthetic.yolo_files import write_yolo
from loradet.files import write_json

MANIFEST = "synthetic.json"
COUNTS = {"train": 600, "val": 100, "test": 100}
_COCO_STYLES = ("shapes",)
# Part of the manifest: raise it whenever the same seed gives other pixels.
VERSION = 1
_CHUNK = 32


def generate(
    root: str | Path,
    *,
    style: str = "sar",
    size: int | tuple[int, int] = 256,
    counts: Mapping[str, int] | None = None,
    seed: int = 0,
    layout: str | None = None,
    max_objects: int = MAX_OBJECTS,
    workers: int = 1,
    progress: bool = False,
) -> Path:
    """Write a synthetic detection set: images, and a COCO file for each split.

    Image i of a split depends on (seed, split, i) alone: a longer set starts with the images of a shorter
    one, and `workers` changes nothing. SAR scenes are 8-bit grey PNG, lossless because JPEG alters speckle;
    the others are JPEG of quality 95, a quarter of the size. A finished set of the same parameters is left
    as it is, an unfinished one is written again, a shorter one grows.

    Args:
        root: folder to fill; `~` and `$VARS` are expanded.
        style: "sar", "optical" or "shapes" (see `scene`).
        size: side in pixels, or (H, W).
        counts: images per split; `default_counts(layout)` by default.
        seed: any integer >= 0.
        layout: "sardet" (`Annotations/<split>.json`, `JPEGImages/<split>/`), "coco2017"
            (`annotations/instances_<split>2017.json`, `<split>2017/`, file names of 12 digits, the image's id),
            "roboflow" (`{train,valid,test}/_annotations.coco.json`, images beside it) or "yolo" (`data.yaml`,
            `images/<split>/`, `labels/<split>/`); `default_layout(style)` by default.
        max_objects: objects in an image at most, 1 to 100.
        workers: processes.
        progress: show a bar on a terminal.

    Returns:
        The folder.

    Raises:
        FileExistsError: the folder holds other files, or a set of other parameters.
        ValueError: a parameter is out of range.
    """
    root = expand(root)
    wanted = _parameters(style, size, counts, seed, layout, max_objects)
    if workers < 1:
        raise ValueError(f"workers={workers}: expected 1 or more.")
    if _is_finished(root, wanted):
        return root
    root.mkdir(parents=True, exist_ok=True)
    write_json(root / MANIFEST, {**_to_manifest(wanted), "complete": False})
    records: dict[str, list] = {split: [] for split in wanted["counts"]}
    for split, chunk in _paint_all(root, wanted, workers, progress):
        records[split] += chunk
    where = LAYOUTS[wanted["layout"]]
    if where.labels:
        write_yolo(root, where, records, tuple(wanted["size"]), STYLE_CLASSES[wanted["style"]])
    else:
        for split, images in records.items():
            write_coco(where.json_file(root, split), _to_coco(images, wanted, split))
    write_json(root / MANIFEST, {**_to_manifest(wanted), "complete": True})
    return root


def default_layout(style: str) -> str:
    """Name of a style's usual layout: "coco2017" for shapes, else "sardet". ValueError for an unknown style."""
    check_style(style)
    return "coco2017" if style in _COCO_STYLES else "sardet"


def default_counts(layout: str) -> dict[str, int]:
    """Images per split: 600 / 100 / 100 for train / val / test; COCO 2017 has no annotated test split."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r}: expected one of {', '.join(LAYOUTS)}.")
    return {split: COUNTS[split] for split in LAYOUTS[layout].splits}


def _parameters(
    style: str,
    size: int | tuple[int, int],
    counts: Mapping[str, int] | None,
    seed: int,
    layout: str | None,
    max_objects: int,
) -> dict:
    layout = default_layout(style) if layout is None else layout
    usual = default_counts(layout)
    counts = usual if counts is None else counts
    check_style(style)
    check_max_objects(max_objects)
    if seed < 0:
        raise ValueError(f"seed={seed}: expected 0 or more.")
    for split, count in counts.items():
        if count < 0 or not split or Path(split).name != split:
            raise ValueError(f"counts has {split!r}: {count}: expected a plain split name and a count >= 0.")
    return {
        "generator": "loradet.datasets.synthetic",
        "version": VERSION,
        "style": style,
        "size": list(parse_size(size)),
        "seed": int(seed),
        "counts": {split: int(count) for split, count in counts.items()},
        "layout": layout,
        "max_objects": int(max_objects),
    }


def _usual(style: str) -> dict:
    return {"layout": default_layout(style), "max_objects": MAX_OBJECTS}


def _to_manifest(parameters: dict) -> dict:
    """Without what is as usual: sets from before there was a choice have the same manifest."""
    usual = _usual(parameters["style"])
    return {key: value for key, value in parameters.items() if key not in usual or value != usual[key]}


def _is_finished(root: Path, wanted: dict) -> bool:
    """Whether the set is there already; raises FileExistsError where the folder is not ours to write into."""
    if not root.exists():
        return False
    if not root.is_dir():
        raise FileExistsError(f"{root} is a file: give a folder for the synthetic set.")
    if not any(root.iterdir()):
        return False
    manifest = root / MANIFEST
    if not manifest.is_file():
        raise FileExistsError(f"{root} holds files but no {MANIFEST}: give an empty or new folder.")
    try:
        found = json.loads(manifest.read_text(encoding="utf-8"))
        complete, counts = found.pop("complete"), found["counts"]
        found = {**_usual(found["style"]), **found}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise FileExistsError(f"{manifest} is not a manifest of a synthetic set: give another folder.") from error
    differing = {key: found.get(key) for key in wanted if key != "counts" and found.get(key) != wanted[key]}
    shrunk = {split: count for split, count in counts.items() if wanted["counts"].get(split, 0) < count}
    if differing or (shrunk and complete):
        asked = {key: wanted[key] for key in differing or ("counts",)}
        raise FileExistsError(
            f"{root} holds a synthetic set with {differing or {'counts': counts}}, asked for is {asked}: "
            "give another folder, or delete this one first."
        )
    return complete and counts == wanted["counts"] and _all_there(root, wanted)


def _all_there(root: Path, wanted: dict) -> bool:
    layout = LAYOUTS[wanted["layout"]]
    for split, count in wanted["counts"].items():
        folder = layout.image_folder(root, split)
        if not layout.json_file(root, split).is_file() or not folder.is_dir():
            return False
        if sum(file.suffix != ".json" for file in folder.iterdir()) < count:
            return False
    return True


def _paint_all(root: Path, wanted: dict, workers: int, progress: bool) -> Iterator[tuple[str, list]]:
    tasks = []
    for split, count in wanted["counts"].items():
        LAYOUTS[wanted["layout"]].image_folder(root, split).mkdir(parents=True, exist_ok=True)
        tasks += [(root, wanted, split, start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    with _Progress(sum(wanted["counts"].values()), progress) as bar:
        if workers == 1 or len(tasks) < 2:
            results = map(_paint_chunk, tasks)
            for task, chunk in zip(tasks, results):
                bar.update(len(chunk))
                yield task[2], chunk
            return
        # Spawned, since forking a process that has run threads (torch, OpenCV) may hang.
        with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=get_context("spawn")) as pool:
            for task, chunk in zip(tasks, pool.map(_paint_chunk, tasks)):
                bar.update(len(chunk))
                yield task[2], chunk


class _Progress:
    def __init__(self, total: int, wanted: bool) -> None:
        self._bar = None
        if wanted:
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit="image", disable=None)

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, count: int) -> None:
        if self._bar is not None:
            self._bar.update(count)


def _paint_chunk(task: tuple[Path, dict, str, int, int]) -> list[tuple[str, list, list]]:
    """Paint and write images start..stop of a split; returns their names, boxes and classes."""
    root, wanted, split, start, stop = task
    grey = wanted["style"] == "sar"
    layout = LAYOUTS[wanted["layout"]]
    folder = layout.image_folder(root, split)
    suffix, flags = (".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]) if grey else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 95])
    done = []
    for index in range(start, stop):
        seeds = np.random.SeedSequence([wanted["seed"], zlib.crc32(split.encode()), index])
        rng = np.random.Generator(np.random.PCG64(seeds))
        size = tuple(wanted["size"])
        image, boxes, classes = scene(wanted["style"], size, rng, max_objects=wanted["max_objects"])
        name = layout.file_name(index, suffix)
        ok, data = cv2.imencode(suffix, image[..., 0] if grey else image[..., ::-1], flags)
        if not ok:
            raise RuntimeError(f"OpenCV could not encode {name} ({image.shape}).")
        (folder / name).write_bytes(data.tobytes())
        done.append((name, boxes.tolist(), classes.tolist()))
    return done


def _to_coco(records: list[tuple[str, list, list]], wanted: dict, split: str) -> dict:
    height, width = wanted["size"]
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id, (name, boxes, classes) in enumerate(records, start=1):
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for (x0, y0, x1, y1), label in zip(boxes, classes):
            box_width, box_height = round(x1 - x0, 2), round(y1 - y0, 2)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": [x0, y0, box_width, box_height],
                    "area": round(box_width * box_height, 2),
                    "iscrowd": 0,
                }
            )
    return {
        "info": {
            "description": f"synthetic {wanted['style']} scenes, {split} split, seed {wanted['seed']}",
            "synthetic": True,
        },
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name} for number, name in enumerate(STYLE_CLASSES[wanted["style"]], start=1)
        ],
    }
