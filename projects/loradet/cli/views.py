"""How an image is looked at, on the command lines of `predict` and `evaluate`."""

import argparse
from typing import Any

_OF_TILES = ("overlap", "whole")
_OF_MERGING = ("merge", "merge_iou")


def add_views(parser: argparse.ArgumentParser) -> None:
    """Tiles and test-time augmentation; see `views_of`."""
    group = parser.add_argument_group("views", "look at an image in parts and several times, and merge what is found")
    group.add_argument(
        "--tiles", type=int, metavar="N", help="tiles of N x N pixels of the image as given; smaller images go whole"
    )
    group.add_argument("--overlap", type=float, metavar="S", help="of tiles, a share of their side (0.2)")
    group.add_argument("--whole", action="store_true", default=None, help="with --tiles: the whole image besides")
    group.add_argument("--flip", action="store_true", default=None, help="each view also mirrored, left to right")
    group.add_argument(
        "--scales", type=_scales, metavar="S,S", help="each view in these sizes, as 0.8,1,1.25; 1: the test images'"
    )
    group.add_argument(
        "--merge", choices=["nms", "fusion"], help="keep the best of a class that overlap, or their weighted mean (nms)"
    )
    group.add_argument("--merge-iou", type=float, metavar="S", help="from which on they do (0.5; of fusion 0.55)")


def views_of(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> dict[str, Any] | None:
    """What `loradet.views.Views` takes; None without any such option. Ends by status 2 where an option has no use."""
    names = ("tiles", "flip", "scales", *_OF_TILES, *_OF_MERGING)
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    for name in _OF_TILES:
        if name in given and "tiles" not in given:
            parser.error(f"--{name} goes with --tiles")
    for name in _OF_MERGING:
        if name in given and not given.keys() & {"tiles", "flip", "scales"}:
            parser.error(f"--{name.replace('_', '-')} goes with --tiles, --flip or --scales: nothing else is merged")
    return given or None


def _scales(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: expected numbers, as 0.8,1,1.25") from error
