"""Summary of a COCO file: a table of classes, and histograms of classes and box sizes."""

from pathlib import Path
from typing import Any

import numpy as np

from loradet.datasets.annotations import AnnotationFile, read_annotations
from loradet.datasets.files import PathLike, expand

SMALL, MEDIUM = 32.0, 96.0  # COCO's limits, square roots of areas in pixels


def summarize(json_file: PathLike, png: PathLike | None = None) -> str:
    """Text table of a COCO file; with `png`, class and box-size histograms are drawn too.

    Sizes are square roots of box areas in pixels, with COCO's limits: small < 32, large >= 96. Crowd boxes
    (also those that say `ignore`) and boxes without area are counted apart.

    Raises:
        MissingFileError, UserError: missing or broken file (see `read_annotations`).
    """
    file = read_annotations(json_file)
    boxes = file.boxes
    counted = boxes.usable & ~boxes.crowd
    sizes = np.sqrt(np.maximum(boxes.xywh[:, 2] * boxes.xywh[:, 3], 0.0))
    places = {one.id: place for place, one in enumerate(file.categories)}
    rows: list[tuple[int | str, str, np.ndarray]] = [
        (one.id, one.name, counted & (boxes.category == places[one.id])) for one in file.classes
    ]
    if (unknown := counted & (boxes.category < 0)).any():
        rows.append(("?", "not listed", unknown))
    if png is not None:
        _draw({(number, name): sizes[which] for number, name, which in rows}, expand(json_file).name, expand(png))
    return "\n".join([_head(json_file, file, counted), "", _table(file, rows, sizes)])


def _head(json_file: PathLike, file: AnnotationFile, counted: np.ndarray) -> str:
    boxes = file.boxes
    filled = np.unique(boxes.image[counted & (boxes.image >= 0)])
    shapes = set(zip(file.images.widths.tolist(), file.images.heights.tolist()))
    widest = " / ".join(f"{width}x{height}" for width, height in sorted(shapes)[:3])
    crowds = int(boxes.crowd.sum())
    broken = int((~boxes.usable & ~boxes.crowd).sum())
    return (
        f"{json_file}: {len(file.images)} images ({len(file.images) - len(filled)} without boxes), "
        f"{int(counted.sum())} boxes, {crowds} crowd boxes, {broken} broken boxes\n"
        f"image sizes: {len(shapes)} ({widest}{' …' if len(shapes) > 3 else ''})"
    )


def _table(file: AnnotationFile, rows: list[tuple], sizes: np.ndarray) -> str:
    from tabulate import tabulate

    image = file.boxes.image
    counts = [len(np.unique(image[which])) for _, _, which in rows]
    lines = [[number, name, count, *_row(sizes[which])] for (number, name, which), count in zip(rows, counts)]
    everything = np.logical_or.reduce([which for *_, which in rows]) if rows else np.zeros(len(sizes), bool)
    lines.append(["", "all", len(np.unique(image[everything])), *_row(sizes[everything])])
    header = ["id", "class", "images", "boxes", "small", "medium", "large", "median size"]
    return tabulate(lines, header, floatfmt=".1f")


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
    from matplotlib.ticker import LogLocator, NullFormatter

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
        right.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        right.xaxis.set_major_formatter("{x:g}")
        right.xaxis.set_minor_formatter(NullFormatter())
    for limit in (SMALL, MEDIUM):
        right.axvline(limit, color="grey", linestyle="--", linewidth=1)
    right.set(xlabel="box size, square root of area (pixels)", ylabel="boxes", title="box sizes")
    png.parent.mkdir(parents=True, exist_ok=True)
    temporary = png.with_name(f".{png.name}.tmp.png")
    figure.savefig(temporary, dpi=110)
    temporary.replace(png)
