"""What is in a COCO file: a table of classes and a picture of class and box-size histograms."""

from pathlib import Path
from typing import Any

import numpy as np

from loradet.datasets.boxes import is_usable
from loradet.datasets.classes import real_categories
from loradet.datasets.files import PathLike, expand, read_coco

SMALL, MEDIUM = 32.0, 96.0  # COCO's limits, square roots of areas in pixels


def summarize(json_file: PathLike, png: PathLike | None = None) -> str:
    """Text table of a COCO file; with `png`, class and box-size histograms are drawn too.

    Sizes are square roots of box areas in pixels, with COCO's limits: small < 32, large >= 96. Crowd boxes
    and boxes without area are counted apart.

    Raises:
        FileNotFoundError, ValueError: missing or broken file.
    """
    content = read_coco(json_file)
    boxes = [ann for ann in content["annotations"] if is_usable(ann.get("bbox")) and not ann.get("iscrowd", 0)]
    crowds = sum(bool(ann.get("iscrowd", 0)) for ann in content["annotations"])
    sizes = _sizes_by_class(content, boxes)
    if png is not None:
        _draw(sizes, expand(json_file).name, expand(png))
    return "\n".join([_head(json_file, content, boxes, crowds), "", _table(boxes, sizes)])


def _sizes_by_class(content: dict[str, Any], boxes: list[dict]) -> dict[Any, np.ndarray]:
    """Box sizes in pixels by category id, in the order of ids; ids without a category come last."""
    known = sorted((category.get("id") for category in real_categories(content)), key=str)
    known.sort(key=lambda number: (not isinstance(number, int), number if isinstance(number, int) else 0))
    found: dict[Any, list[float]] = {number: [] for number in known}
    for ann in boxes:
        found.setdefault(ann.get("category_id"), []).append(float(np.sqrt(ann["bbox"][2] * ann["bbox"][3])))
    names = {category.get("id"): str(category.get("name")) for category in content["categories"]}
    return {(number, names.get(number, "?")): np.array(values) for number, values in found.items()}


def _head(json_file: PathLike, content: dict[str, Any], boxes: list[dict], crowds: int) -> str:
    filled = {ann.get("image_id") for ann in boxes}
    empty = sum(image.get("id") not in filled for image in content["images"])
    shapes = {(image.get("width"), image.get("height")) for image in content["images"]}
    widest = " / ".join(f"{width}x{height}" for width, height in sorted(shapes, key=str)[:3])
    broken = len(content["annotations"]) - len(boxes) - crowds
    return (
        f"{json_file}: {len(content['images'])} images ({empty} without boxes), {len(boxes)} boxes, "
        f"{crowds} crowd boxes, {broken} broken boxes\n"
        f"image sizes: {len(shapes)} ({widest}{' …' if len(shapes) > 3 else ''})"
    )


def _table(boxes: list[dict], sizes: dict[Any, np.ndarray]) -> str:
    from tabulate import tabulate

    images: dict[Any, set] = {}
    for ann in boxes:
        images.setdefault(ann.get("category_id"), set()).add(ann.get("image_id"))
    everything = np.concatenate(list(sizes.values())) if sizes else np.array([])
    rows = [[number, name, len(images.get(number, ())), *_row(values)] for (number, name), values in sizes.items()]
    rows.append(["", "all", len(set().union(*images.values())), *_row(everything)])
    return tabulate(rows, ["id", "class", "images", "boxes", "small", "medium", "large", "median size"], floatfmt=".1f")


def _row(values: np.ndarray) -> list:
    small, large = int((values < SMALL).sum()), int((values >= MEDIUM).sum())
    return [
        len(values),
        small,
        len(values) - small - large,
        large,
        float(np.median(values)) if len(values) else None,
    ]


def _draw(sizes: dict[Any, np.ndarray], title: str, png: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, max(3.0, 1.2 + 0.28 * len(sizes))), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    names = [name for _, name in sizes]
    bars = left.barh(range(len(names)), [len(values) for values in sizes.values()])
    left.set_yticks(range(len(names)), names)
    left.bar_label(bars, padding=2, fontsize=8)
    left.invert_yaxis()
    left.set(xlabel="boxes", title=title)
    left.margins(x=0.12)
    everything = np.concatenate(list(sizes.values())) if sizes else np.array([])
    if len(everything):
        low, high = max(everything.min(), 0.5), max(everything.max(), 1.0) * 1.01
        right.hist(everything, bins=np.geomspace(low * 0.99, high, 40))
        right.set_xscale("log")
    for limit in (SMALL, MEDIUM):
        right.axvline(limit, color="grey", linestyle="--", linewidth=1)
    right.set(xlabel="box size, square root of area (pixels)", ylabel="boxes", title="box sizes")
    png.parent.mkdir(parents=True, exist_ok=True)
    temporary = png.with_name(f".{png.name}.tmp.png")
    figure.savefig(temporary, dpi=110)
    temporary.replace(png)
