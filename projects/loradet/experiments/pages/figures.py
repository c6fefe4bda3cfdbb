"""What the plots of a report share: palette, label placement, files."""

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
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
        png, svg: contents of the image files; `png` is empty of a narrow one, which only pages show.
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


def finish(figure: Figure, name: str, caption: str, *, is_narrow: bool = False) -> Plot:
    """Draw the figure."""
    _lay_out(figure)
    # Not by savefig, which draws everything twice, for layouts that are still to be found.
    svg, png = io.BytesIO(), io.BytesIO()
    figure.set_dpi(150)  # of the images in it
    FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None})
    if not is_narrow:
        figure.set_dpi(150)  # which the SVG file has changed
        FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    return Plot(name=name, caption=caption, width=width, height=height, svg=svg.getvalue(), png=png.getvalue())


def _lay_out(figure: Figure) -> None:
    """Give everything its place, for good: once is enough, and it is what takes the time."""
    if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


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
    _lay_out(figure)
    to_points = axes.transData + Affine2D().scale(72 / figure.dpi)
    places = to_points.transform(np.asarray(points, dtype=float).reshape(-1, 2))
    ends = to_points.transform([end for x, low, high in bars for end in ((x, low), (x, high))]) if bars else places[:0]
    # Left, bottom, right, top.
    taken = np.vstack([np.hstack([places - 4, places + 4]), np.hstack([ends[::2] - 4, ends[1::2] + 4])])
    inside = axes.get_window_extent().transformed(Affine2D().scale(72 / figure.dpi))
    for index in np.argsort(places[:, 1], kind="stable")[::-1]:
        x, y = places[index]
        width, height = 5.2 * len(texts[index]) + 1, 9.0
        box, far = _free_place(x, y, width, height, taken, inside)
        taken = np.vstack([taken, box.extents])
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


def _free_place(x: float, y: float, width: float, height: float, taken: np.ndarray, inside: Bbox) -> tuple[Bbox, bool]:
    """The nearest place around a point that overlaps least with what is there, all in points (1/72 inch).

    Args:
        taken: (N, 4): left, bottom, right, top.

    Returns:
        the place, and whether it is far from the point.
    """
    cos, sin = np.cos(_ANGLES), np.sin(_ANGLES)
    # The text lies outward of its anchor.
    left, bottom = x + _RADII * cos - width * (1 - cos) / 2, y + _RADII * sin - height * (1 - sin) / 2
    boxes = np.column_stack([left, bottom, left + width, bottom + height])
    shared = np.minimum(boxes[:, None, 2:], taken[:, 2:]) - np.maximum(boxes[:, None, :2], taken[:, :2])
    covered = np.maximum(shared, 0).prod(axis=2).sum(axis=1)
    is_inside = (boxes[:, :2] >= inside.min).all(axis=1) & (boxes[:, 2:] <= inside.max).all(axis=1)
    best = int(np.argmin(covered + np.where(is_inside, 0.0, 1000.0)))
    return Bbox.from_extents(*boxes[best]), bool(_RADII[best] > 24)


_ANGLES = np.deg2rad((0, 45, 315, 90, 270, 135, 225, 180, 22, 338, 67, 293, 112, 248, 158, 202) * 9)
_RADII = np.repeat((8.0, 13.0, 19.0, 26.0, 34.0, 44.0, 56.0, 70.0, 86.0), 16)
