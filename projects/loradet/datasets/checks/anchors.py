"""Which boxes the anchors of a detector reach: the best IoU of each box with any anchor."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loradet.datasets.checks.findings import Problem
from loradet.datasets.checks.split_content import SplitContent

# Square roots of areas in pixels of the picture as it is stored; 32 and 96 are COCO's.
SIZES = (("tiny", 0.0, 16.0), ("small", 16.0, 32.0), ("medium", 32.0, 96.0), ("large", 96.0, np.inf))
_CHUNK = 200_000  # boxes


@dataclass(frozen=True)
class AnchorLevel:
    """The anchors of one feature map.

    Attributes:
        stride: of its positions, in pixels.
        cell: (K, 4) XYXY of the anchors at its first position.
    """

    stride: tuple[float, float]
    cell: np.ndarray


@dataclass(frozen=True)
class Resize:
    """How training resizes pictures.

    Attributes:
        short_edges: pixels that the shorter edge becomes, several where training draws one.
        max_size: pixels that the longer edge has at most.
        shape: (height, width) in pixels that all pictures become; None: by their edges, and as they are where no
            `short_edges` are given either.
    """

    short_edges: tuple[int, ...] = ()
    max_size: float = np.inf
    shape: tuple[int, int] | None = None

    def factors(self, sizes: np.ndarray) -> np.ndarray:
        """(S, N, 2) factors of width and height of pictures of sizes (N, 2), for each of S short edges."""
        if self.shape is not None:
            return (np.array(self.shape[::-1], np.float64) / sizes)[None]
        if not self.short_edges:
            return np.ones((1, len(sizes), 2))
        edges = np.array(self.short_edges, np.float64)[:, None]
        factors = np.minimum(edges / sizes.min(axis=1), self.max_size / sizes.max(axis=1))
        return np.stack([factors, factors], axis=-1)

    def __str__(self) -> str:
        if self.shape is not None:
            return f"pictures resized to {self.shape[1]}x{self.shape[0]}"
        if not self.short_edges:
            return "pictures as they are stored"
        edges = " or ".join(map(str, self.short_edges))
        return f"pictures resized to a shorter edge of {edges}, a longer of at most {self.max_size:g}"


@dataclass(frozen=True)
class AnchorRule:
    """Anchors of a detector, and which boxes they are matched with.

    Attributes:
        levels: one a feature map.
        threshold: IoU from which an anchor is a positive example of a box.
        low_quality: a box that none reaches is learned from its best anchor all the same.
        resize: of the pictures before they meet the anchors.
    """

    levels: Sequence[AnchorLevel]
    threshold: float
    low_quality: bool
    resize: Resize = Resize()

    def best_iou(self, xywh: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """(B,) the best IoU of boxes (B, 4) with any anchor, at the best of the scales.

        Args:
            xywh: in pixels of the pictures as they are stored.
            sizes: (B, 2) width and height of each box's picture.
        """
        best = np.zeros(len(xywh))
        for start in range(0, len(xywh), _CHUNK):
            part = slice(start, start + _CHUNK)
            for factor in self.resize.factors(sizes[part]):
                found = self._best(xywh[part] * np.tile(factor, 2), sizes[part] * factor)
                best[part] = np.maximum(best[part], found)
        return best

    def _best(self, xywh: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        low, high = xywh[:, :2], xywh[:, :2] + xywh[:, 2:]
        area = xywh[:, 2] * xywh[:, 3]
        best = np.zeros(len(xywh))
        for level in self.levels:
            stride = np.array(level.stride)
            last = np.maximum(np.ceil(sizes / stride), 1) - 1
            for anchor in np.asarray(level.cell, np.float64):
                # IoU with an anchor of one shape falls with the distance of the centres, in x and in y: the nearest
                # position is the best.
                offset = ((low + high) - (anchor[:2] + anchor[2:])) / 2
                position = np.clip(np.round(offset / stride), 0, last) * stride
                inner = np.minimum(high, position + anchor[2:]) - np.maximum(low, position + anchor[:2])
                shared = np.maximum(inner, 0).prod(axis=1)
                union = area + (anchor[2:] - anchor[:2]).prod() - shared
                best = np.maximum(best, shared / union)
        return best


@dataclass(frozen=True)
class AnchorReport:
    """How the boxes of a split fare with the anchors of a detector.

    Attributes:
        rule: of the detector.
        best: (B,) best IoU of each box that is no crowd region.
        sizes: (B,) square roots of their areas.
        unmatched: warnings of boxes that no anchor reaches, the worst first.
    """

    rule: AnchorRule
    best: np.ndarray
    sizes: np.ndarray
    unmatched: tuple[Problem, ...]

    def rows(self) -> list[tuple[str, int, int, float | None]]:
        """(size in words, boxes, boxes that no anchor reaches, median best IoU) of each size, and of all."""
        rows = []
        for name, low, high in (*SIZES, ("all", 0.0, np.inf)):
            which = (self.sizes >= low) & (self.sizes < high)
            best = self.best[which]
            middle = float(np.median(best)) if len(best) else None
            edge = "" if name == "all" else f" ({low:g} to {high:g} px)" if np.isfinite(high) else f" (over {low:g} px)"
            rows.append((name + edge, len(best), int((best < self.rule.threshold).sum()), middle))
        return rows

    def text(self, limit: int = 20) -> str:
        """The report for people: a line a size, then at most `limit` of the boxes that no anchor reaches."""
        rule, missed = self.rule, len(self.unmatched)
        then = (
            "they are learned from their best anchor alone" if rule.low_quality else "no anchor is a positive of theirs"
        )
        lines = [
            f"  anchors: {missed} of {len(self.best)} boxes reach no anchor by IoU {rule.threshold:g}"
            + (f"; {then}" if missed else "")
            + f" ({rule.resize})"
        ]
        for name, count, under, middle in self.rows():
            if count:
                share = 100 * under / count
                lines.append(f"    {name}: {under} of {count} ({share:.3g} %), median best IoU {middle:.2f}")
        lines += [f"    {problem}" for problem in self.unmatched[:limit]]
        if missed > limit:
            lines.append(f"    … and {missed - limit} more")
        return "\n".join(lines)


def check_anchors(content: SplitContent, rule: AnchorRule) -> AnchorReport:
    """How the boxes of a split, without crowd regions, fare with anchors."""
    kept = np.flatnonzero(~content.boxes.crowd)
    xywh, images = content.boxes.xywh[kept], content.boxes.image[kept]
    best = rule.best_iou(xywh, content.sizes[images])
    factors = np.median(rule.resize.factors(content.sizes), axis=0)
    unmatched = []
    missed = np.flatnonzero(best < rule.threshold)
    for place in missed[np.argsort(best[missed], kind="stable")].tolist():
        box = int(kept[place])
        image, sides = content.image_of(box), content.boxes.xywh[box]
        width, height = sides[2:] * factors[images[place]]
        message = (
            f"annotation {content.boxes.ids[box]}: {width:.3g} x {height:.3g} pixels once resized, "
            f"best IoU {best[place]:.2f}"
        )
        unmatched.append(Problem("box without anchor", message, image["id"], image["file_name"], tuple(sides.tolist())))
    return AnchorReport(rule, best, np.sqrt(xywh[:, 2] * xywh[:, 3]), tuple(unmatched))
