"""What `loradet benchmark gpu` measures, in its order, and how long each section may take."""

import math
from dataclasses import dataclass

from loradet.benchmarks.gpu.sizes import Sizes


@dataclass(frozen=True)
class Bench:
    """What every section is told.

    Attributes:
        sizes: of models and batches.
        device: as `train.device`.
    """

    sizes: Sizes
    device: str


@dataclass(frozen=True)
class Section:
    """Attributes:
    name: for `--sections`.
    run: "module:function", which takes a `Bench` and yields rows: {"case": …, figure: value}.
    cap: seconds, after which it is cut.
    """

    name: str
    run: str
    cap: float


_ROOM = "loradet.benchmarks.gpu"
SECTIONS = (
    Section("machine", f"{_ROOM}.machine:machine", 30),
    Section("rates", f"{_ROOM}.rates:rates", 25),
    Section("training", f"{_ROOM}.training:training", 130),
    Section("stock", f"{_ROOM}.stock:stock", 50),
    Section("detr", f"{_ROOM}.training:detr", 45),
    Section("scan", f"{_ROOM}.scanning:scan", 25),
    Section("loader", f"{_ROOM}.loading:loader", 45),
    Section("inference", f"{_ROOM}.inference:inference", 30),
    Section("compile", f"{_ROOM}.compiling:compiled", math.inf),  # all that is left
)
