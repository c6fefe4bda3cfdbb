"""How an image is looked at, and how what is found becomes one list."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from loradet.errors import UserError
from loradet.views.windows import Window, tile_windows

MERGES = {"nms": 0.5, "fusion": 0.55}  # and the overlap from which on each takes boxes for the same object
LEAST_TILE = 32
MOST_OVERLAP = 0.9
SCALES = (0.1, 4.0)


@dataclass(frozen=True)
class Views:
    """Tiles, and test-time augmentation by mirroring and by other sizes; each tile is mirrored and resized too.

    Attributes:
        tiles: side of the square tiles, in pixels of the image as given, before the model's resize; None: the whole.
        overlap: of neighbouring tiles, as a share of their side; they have at least as much.
        whole: with tiles: the whole image is looked at besides.
        flip: each view is looked at mirrored, left to right, besides.
        scales: sizes that each view is looked at in, relative to what the test mapper makes of it.
        merge: of boxes of one class that several views have found: "nms" keeps the best scored one, "fusion" is
            weighted boxes fusion.
        merge_iou: IoU from which on two boxes are of one object; None: 0.5 of nms, 0.55 of fusion.

    Raises:
        UserError: a value is out of range, or has no effect.
    """

    tiles: int | None = None
    overlap: float = 0.2
    whole: bool = False
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    merge: str = "nms"
    merge_iou: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(float(scale) for scale in self.scales))
        if self.tiles is not None and (type(self.tiles) is not int or self.tiles < LEAST_TILE):
            raise UserError(f"tiles={self.tiles!r}: expected a whole number of pixels from {LEAST_TILE} on.")
        if not 0 <= self.overlap <= MOST_OVERLAP:
            raise UserError(f"overlap={self.overlap!r}: expected a share of the tile from 0 to {MOST_OVERLAP}.")
        if self.whole and self.tiles is None:
            raise UserError("whole=True is for tiles: without them the whole image is the view anyhow.")
        least, most = SCALES
        if not self.scales or not all(least <= scale <= most for scale in self.scales):
            raise UserError(f"scales={list(self.scales)}: expected one or more numbers from {least} to {most}.")
        if len(set(self.scales)) < len(self.scales):
            raise UserError(f"scales={list(self.scales)}: expected each once.")
        if self.merge not in MERGES:
            raise UserError(f"merge={self.merge!r}: expected {' or '.join(MERGES)}.")
        if self.merge_iou is not None and not 0 < self.merge_iou < 1:
            raise UserError(f"merge_iou={self.merge_iou!r}: expected a number between 0 and 1.")
        if self.tiles is None and not self.flip and self.scales == (1.0,):
            raise UserError("These views are the image as it is: give tiles, flip or scales.")

    @property
    def iou(self) -> float:
        """`merge_iou`, or the default of `merge`."""
        return MERGES[self.merge] if self.merge_iou is None else self.merge_iou

    def looks(self, height: int, width: int) -> Iterator[tuple[Window, float, bool]]:
        """Windows into an image of a size in pixels, with the scale, and whether it is mirrored."""
        image = Window(0, 0, width, height)
        windows = [image] if self.tiles is None else tile_windows(height, width, self.tiles, self.overlap)
        if self.whole and windows != [image]:
            windows.append(image)
        for window in windows:
            for scale in self.scales:
                for flipped in (False, True)[: 1 + self.flip]:
                    yield window, scale, flipped

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `merge_iou` as it is used."""
        return {**dataclasses.asdict(self), "scales": list(self.scales), "merge_iou": self.iou}

    @property
    def tag(self) -> str:
        """What differs from a plain look, for names of folders: "tiles640_flip"."""
        words = [] if self.tiles is None else [f"tiles{self.tiles}"]
        words += [f"overlap{self.overlap:g}"] if self.tiles is not None and self.overlap != 0.2 else []
        words += ["whole"] * self.whole + ["flip"] * self.flip
        words += [] if self.scales == (1.0,) else ["scales" + "-".join(f"{scale:g}" for scale in self.scales)]
        words += [] if self.merge == "nms" else [self.merge]
        words += [] if math.isclose(self.iou, MERGES[self.merge]) else [f"iou{self.iou:g}"]
        return "_".join(words)
