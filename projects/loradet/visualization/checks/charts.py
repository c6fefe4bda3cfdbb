"""Histograms of a data set's splits as SVG that takes its colours from the page around it."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

_WIDTH, _HEIGHT = 400, 210
_LEFT, _RIGHT, _BOTTOM, _TOP = 38, 16, 34, 10
CLASSES = 30  # that a chart shows, those with most boxes first


def histogram(
    values: Mapping[str, np.ndarray], edges: Sequence[float], ticks: Mapping[str, float], label: str, title: str
) -> str:
    """Shares of the values of each split in bins, a line a split; bins are drawn equally wide.

    Args:
        values: by split; what is beyond the edges counts in the outer bins.
        edges: of the bins, positive, each by the same factor above the one before.
        ticks: values that the axis names, by their names.
        label: of the axis.
        title: what screen readers say.
    """
    edges = np.asarray(edges, np.float64)
    shares = {name: _shares(of_split, edges) for name, of_split in values.items()}
    top = _round_up(max((float(share.max(initial=0)) for share in shares.values()), default=0.0))
    step = (_WIDTH - _LEFT - _RIGHT) / (len(edges) - 1)
    parts = [_grid(top, label)]
    for name, tick in ticks.items():
        x = _LEFT + step * float(np.interp(np.log(tick), np.log(edges), np.arange(len(edges))))
        parts.append(_text(x, _HEIGHT - _BOTTOM + 14, name, "middle"))
    for number, share in enumerate(shares.values()):
        heights = np.repeat(_y(share, top), 2)
        xs = _LEFT + step * np.repeat(np.arange(len(edges)), 2)[1:-1]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, heights))
        parts.append(f'<polyline class="line s{number % 6}" points="{points}"/>')
    return _svg(parts, _HEIGHT, title)


def class_bars(counts: Mapping[str, Mapping[str, int]], title: str) -> str:
    """Share of each class in the boxes of each split, a bar a split.

    Args:
        counts: boxes by class, by split.
        title: what screen readers say.
    """
    totals = {name: max(sum(of_split.values()), 1) for name, of_split in counts.items()}
    classes = dict.fromkeys(one for of_split in counts.values() for one in of_split)
    weight = {one: sum(of_split.get(one, 0) / totals[name] for name, of_split in counts.items()) for one in classes}
    shown = sorted(classes, key=weight.__getitem__, reverse=True)[:CLASSES]
    longest = max((counts[name].get(one, 0) / totals[name] for name in counts for one in shown), default=0) or 1
    bar, gap, left = 12, 12, 118
    row = bar * len(counts) + gap
    parts = []
    for place, one in enumerate(shown):
        y = place * row + 4
        parts.append(_text(left - 6, y + bar * len(counts) / 2 + 4, _cut(one), "end"))
        for number, (name, of_split) in enumerate(counts.items()):
            share = of_split.get(one, 0) / totals[name]
            width, top = (_WIDTH - left - 62) * share / longest, y + bar * number
            parts.append(
                f'<rect class="bar s{number % 6}" x="{left}" y="{top:.1f}" width="{width:.1f}" height="{bar - 2}">'
                f"<title>{escape(one)}, {escape(name)}: {of_split.get(one, 0)} boxes</title></rect>"
            )
            parts.append(_text(left + width + 4, top + bar - 3, f"{100 * share:.3g} %", "start", "small"))
    return _svg(parts, len(shown) * row + 4, title)


def _shares(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(bins,) of the values, in percent."""
    inside = np.clip(values, edges[0], np.nextafter(edges[-1], 0))
    return 100 * np.histogram(inside, edges)[0] / max(len(values), 1)


def _grid(top: float, label: str) -> str:
    parts = []
    for share in (0.0, top / 2, top):
        y = float(_y(np.array(share), top))
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(_LEFT - 5, y + 4, f"{share:g} %", "end", "small"))
    parts.append(_text((_LEFT + _WIDTH) / 2, _HEIGHT - 4, label, "middle"))
    return "".join(parts)


def _y(share: np.ndarray, top: float) -> np.ndarray:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * share / top


def _round_up(share: float) -> float:
    return next(step for step in (1, 2, 4, 6, 10, 20, 40, 60, 80, 100) if share <= step or step == 100)


def _cut(name: str, limit: int = 17) -> str:
    return name if len(name) <= limit else f"{name[: limit - 1]}…"


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(parts: Sequence[str], height: float, title: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
