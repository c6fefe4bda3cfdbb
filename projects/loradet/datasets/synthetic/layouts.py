"""Layouts of synthetic sets: SARDet-100K, COCO 2017, Roboflow's COCO export, YOLO."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Patterns of paths below a set's folder, with `{split}`, and of file names, with the number of an image."""

    annotations: str
    images: str
    stem: str
    first: int  # number of the first image
    splits: tuple[str, ...]  # made unless the caller says otherwise
    called: Mapping[str, str] = field(default_factory=dict)  # split -> its name in paths, where that differs
    labels: str = ""  # of YOLO's label files; `annotations` is the description of all splits then

    def json_file(self, root: Path, split: str) -> Path:
        return root / self.annotations.format(split=self.called.get(split, split))

    def image_folder(self, root: Path, split: str) -> Path:
        return root / self.images.format(split=self.called.get(split, split))

    def label_folder(self, root: Path, split: str) -> Path:
        return root / self.labels.format(split=self.called.get(split, split))

    def file_name(self, index: int, suffix: str) -> str:
        """Of the image at `index`, counted from 0; `suffix` with its dot."""
        return self.stem.format(index + self.first) + suffix

    def describe(self, splits: Sequence[str]) -> str:
        """One line for people: the paths of the given splits."""
        called = [self.called.get(split, split) for split in splits]
        names = called[0] if len(called) == 1 else f"{{{','.join(called)}}}"
        return f"{self.annotations.format(split=names)} and {self.images.format(split=names)}/"


LAYOUTS = {
    "sardet": Layout(
        annotations="Annotations/{split}.json",
        images="JPEGImages/{split}",
        stem="{:06d}",
        first=0,
        splits=("train", "val", "test"),
    ),
    "coco2017": Layout(
        annotations="annotations/instances_{split}2017.json",
        images="{split}2017",
        stem="{:012d}",
        first=1,
        splits=("train", "val"),
    ),
    "roboflow": Layout(
        annotations="{split}/_annotations.coco.json",
        images="{split}",
        stem="{:06d}",
        first=0,
        splits=("train", "val", "test"),
        called={"val": "valid"},
    ),
    "yolo": Layout(
        annotations="data.yaml",
        images="images/{split}",
        stem="{:06d}",
        first=0,
        splits=("train", "val"),
        labels="labels/{split}",
    ),
}
