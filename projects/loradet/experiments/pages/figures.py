"""What the plots of a report share: palette, label placement, files."""

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from matplotlib.transforms import Affine2D, Bbox

# Okabe and Ito's colours, told apart by colour-blind people (https://jfly.uni-koeln.de/color/); yellow is too pale.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
INK, GRID = "#333333", "#dddddd"
_STYLE = {"font.size": 9, "axes.edgecolor": INK, "axes.spines.top": False, "axes.spines.right": False}
# The same numbers give the same files: names inside an SVG come from this salt, and no date is written.
# A `$` in a title is a dollar.
_STYLE |= {"svg.hashsalt": "loradet", "text.parse_math": False}


def drawing_style() -> AbstractContextManager:
    """Within it everything is drawn in the style of the report, whatever the user's matplotlibrc says."""
    return matplotlib.rc_context({**matplotlib.rcParamsDefault, **_STYLE, "backend": "agg"})


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A drawn plot.

    Attributes:
        name: of its file, without extension.
        caption: what it shows, in a sentence or two.
        png, svg: contents of the image files.
        width, height: in CSS pixels.
        narrow: the same for screens of a phone's width, where there is one.
    """

    name: str
    caption: str
    png: bytes
    svg: bytes
    width: int
    height: int
    narrow: "Plot | None" = None


def style(index: int) -> dict[str, str]:
    """Colour and marker number `index`; 63 pairs differ."""
    return {"color": COLORS[index % len(COLORS)], "marker": MARKERS[index % len(MARKERS)]}


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, np.ndarray]:
    """A figure of some inches and its axes, (rows, columns)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for one in axes.flat:
        one.grid(color=GRID, linewidth=0.6)
        one.set_axisbelow(True)
    return figure, axes


def are_far_apart(values: Sequence[float]) -> bool:
    """Whether a logarithmic axis suits values: all are positive, and the greatest is over 100 times the least."""
    return min(values, default=0) > 0 and max(values) > 100 * min(values)


def set_log_y(axes: Axes) -> None:
    """Give the y axis a logarithmic scale."""
    axes.set_yscale("log")
    # matplotlib's own labels are mathtext, which is off.
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def finish(figure: Figure, name: str, caption: str) -> Plot:
    """Draw the figure."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # once is enough, and it is what takes the time
    files = {}
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        file = io.BytesIO()
        figure.savefig(file, format=kind, dpi=150, metadata=metadata)
        files[kind] = file.getvalue()
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    return Plot(name=name, caption=caption, width=width, height=height, **files)


def label_points(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    bars: Sequence[tuple[float, float, float]] = (),
) -> None:
    """Write a text beside each point where it covers no marker and no other text; a thin line leads to far ones.

    To be called last: the layout is fixed by it.

    Args:
        points: in data units.
        texts: one for each.
        bars: (x, low, high) of everything else that is drawn, markers too, in data units.
    """
    figure = axes.figure
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    to_points = axes.transData + Affine2D().scale(72 / figure.dpi)
    places = to_points.transform(np.asarray(points, dtype=float).reshape(-1, 2))
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in places]
    for x, low, high in bars:
        (left, bottom), (_, top) = to_points.transform([(x, low), (x, high)])
        taken.append(Bbox.from_extents(left - 4, bottom - 4, left + 4, top + 4))
    inside = axes.get_window_extent().transformed(Affine2D().scale(72 / figure.dpi))
    for index in np.argsort(places[:, 1], kind="stable")[::-1]:
        x, y = places[index]
        width, height = 5.2 * len(texts[index]) + 1, 9.0
        box, shift = _free_place(x, y, width, height, taken, inside)
        taken.append(box)
        far = np.hypot(*shift) > 24
        axes.annotate(
            texts[index],
            points[index],
            xytext=(box.x0 - x, box.y0 - y),
            textcoords="offset points",
            fontsize=8,
            color=INK,
            va="bottom",
            ha="left",
            annotation_clip=False,
            arrowprops=dict(arrowstyle="-", color="#999999", linewidth=0.6, shrinkA=0, shrinkB=3) if far else None,
        )


def _free_place(
    x: float, y: float, width: float, height: float, taken: Sequence[Bbox], inside: Bbox
) -> tuple[Bbox, tuple[float, float]]:
    """The nearest place around a point that overlaps least with what is there, all in points (1/72 inch)."""
    best = None
    for radius in (8, 13, 19, 26, 34, 44, 56, 70, 86):
        for angle in np.deg2rad((0, 45, 315, 90, 270, 135, 225, 180, 22, 338, 67, 293, 112, 248, 158, 202)):
            dx, dy = radius * np.cos(angle), radius * np.sin(angle)
            # The text lies outward of its anchor.
            left = x + dx - width * (1 - np.cos(angle)) / 2
            box = Bbox.from_bounds(left, y + dy - height * (1 - np.sin(angle)) / 2, width, height)
            outside = box.x0 < inside.x0 or box.x1 > inside.x1 or box.y0 < inside.y0 or box.y1 > inside.y1
            covered = sum(_area(Bbox.intersection(box, other)) for other in taken) + (1000 if outside else 0)
            if best is None or covered < best[0]:
                best = (covered, box, (dx, dy))
            if covered == 0:
                return box, (dx, dy)
    return best[1], best[2]


def _area(box: Bbox | None) -> float:
    return 0.0 if box is None else box.width * box.height
