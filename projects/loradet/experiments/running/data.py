"""The data of a run: few images for a smoke run, synthetic ones where a study says so."""

import copy
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from loradet.datasets.files import expand
from loradet.errors import MissingFileError, UserError
from loradet.experiments.running.lock import run_lock
from loradet.experiments.running.program import program
from loradet.experiments.study.definition import Entry, Scenes, Study
from loradet.files import FileError, read_json, write_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Subset:
    """Some images of an annotation file."""

    source: Path
    path: Path
    count: int


@dataclass(frozen=True, kw_only=True)
class RunData:
    """What a run needs, and the `KEY=VALUE` words that point its config there.

    Attributes:
        annotations: files (or folders of YOLO data) that must be there before subsets are drawn or training begins.
        scenes: synthetic ones to make.
    """

    overrides: tuple[str, ...] = ()
    annotations: tuple[Path, ...] = ()
    scenes: Scenes | None = None
    subsets: tuple[Subset, ...] = ()

    @property
    def commands(self) -> list[list[str]]:
        """Command lines (without the interpreter) that do the same as `prepare`."""
        lines, tool = [], program("data", "datasets")
        if self.scenes is not None:
            lines.append([*tool, "synthetic", self.scenes.root, *_words(self.scenes)])
        for subset in self.subsets:
            lines.append([*tool, "subset", str(subset.source), str(subset.path), f"--count={_size(subset)}"])
        return lines

    def prepare(self, entry: Entry) -> None:
        """Make what can be made and is not there yet.

        Raises:
            FileNotFoundError: the entry's data are not on this machine.
        """
        if self.scenes is not None:
            _make(self.scenes)
        for path in self.annotations:
            if not path.exists():
                raise MissingFileError(
                    f"Entry {entry.id}: no annotations at {path}; datasets/README.md says where data are expected."
                )
        for subset in self.subsets:
            _draw(subset)


def run_data(study: Study, entry: Entry, config: DictConfig, *, short: bool, root: Path) -> RunData:
    """The data of an entry's runs.

    Args:
        config: the entry's, with its overrides; it stays as it is.
        short: a smoke run.
        root: folder of the run folders; subsets go into `<root>/smoke_data/<data.name>/`.
    """
    data = config.get("data") or {}
    if "data_yaml" in data:
        return _yolo_data(study, data, short=short)
    splits = ("train", *(["val"] if short else entry.splits))
    if absent := [split for split in splits if f"{split}_json" not in data]:
        raise UserError(f"{entry.config} has no data.{absent[0]}_json, which says where the split {absent[0]} is.")
    annotations = {split: data[f"{split}_json"] for split in splits}
    if not short:
        paths = tuple(expand(path) for path in annotations.values())
        return RunData(annotations=paths, scenes=study.scenes)
    counts = {"train": study.smoke.train_images, "val": study.smoke.val_images}
    words, scenes = [], study.scenes
    if scenes is None and study.stand_in is not None and not expand(data.train_json).is_file():
        scenes = _at_least(study.stand_in, counts)
        data = copy.deepcopy(config).data
        data.name, data.root = f"{data.name}_synthetic", scenes.root
        words = [f"data.name={data.name}", f"data.root={data.root}", *study.stand_in_overrides]
    subsets = tuple(
        Subset(
            source=expand(data[f"{split}_json"]),
            path=root / "smoke_data" / data.name / f"{split}_{count}.json",
            count=count,
        )
        for split, count in counts.items()
    )
    words += [f"data.{split}_json={subset.path}" for split, subset in zip(counts, subsets)]
    return RunData(
        overrides=tuple(words), annotations=tuple(subset.source for subset in subsets), scenes=scenes, subsets=subsets
    )


def _yolo_data(study: Study, data: DictConfig, *, short: bool) -> RunData:
    """Data by a YOLO description, whose reader draws subsets by itself."""
    description, scenes, words = expand(data.data_yaml), study.scenes, []
    if short:
        counts = {"train": study.smoke.train_images, "val": study.smoke.val_images}
        if scenes is None and study.stand_in is not None and not description.exists():
            scenes = _at_least(study.stand_in, counts)
            description = Path(scenes.root)
            words = [f"data.name={data.name}_synthetic", f"data.data_yaml={description}", *study.stand_in_overrides]
        words += [f"data.max_images.{split}={count}" for split, count in counts.items()]
    return RunData(overrides=tuple(words), annotations=(description,), scenes=scenes)


def _at_least(scenes: Scenes, counts: Mapping[str, int]) -> Scenes:
    """The scenes, or, where there are fewer than asked for, larger ones in a folder of their own."""
    larger = {split: max(count, counts.get(split, 0)) for split, count in scenes.counts.items()}
    if larger == dict(scenes.counts):
        return scenes
    return replace(scenes, counts=larger, root="_".join([scenes.root, *map(str, larger.values())]))


def _make(scenes: Scenes) -> None:
    from loradet.datasets.synthetic import generate

    root = Path(scenes.root)
    given = {key: value for key, value in asdict(scenes).items() if value is not None}
    with run_lock(root.parent / f".{root.name}"):
        if not root.is_dir():
            logger.info("Painting %d synthetic scenes into %s.", sum(scenes.counts.values()), root)
        generate(**given, progress=True)


def _words(scenes: Scenes) -> list[str]:
    """The scenes as options of the data tool."""
    from loradet.datasets.synthetic.layouts import LAYOUTS
    from loradet.datasets.synthetic.writer import default_layout

    sides = scenes.size if isinstance(scenes.size, tuple) else (scenes.size,)
    splits = LAYOUTS[scenes.layout or default_layout(scenes.style)].splits
    words = [f"--{split}={scenes.counts.get(split, 0)}" for split in dict.fromkeys((*splits, *scenes.counts))]
    words += [f"--style={scenes.style}", "--size", *map(str, sides), f"--seed={scenes.seed}"]
    words += [f"--layout={scenes.layout}"] if scenes.layout is not None else []
    words += [f"--max-objects={scenes.max_objects}"] if scenes.max_objects is not None else []
    return words


def _draw(subset: Subset) -> None:
    """Write a subset by seed 0 (of all images with boxes, where there are fewer than wanted)."""
    from loradet.datasets import make_subset

    found = subset.source.stat()
    # Reading the whole source again to compare its content would take as long as drawing.
    origin = {"source": str(subset.source.resolve()), "bytes": found.st_size, "mtime_ns": found.st_mtime_ns}
    note = subset.path.with_suffix(".source.json")
    with run_lock(subset.path.parent):
        if subset.path.is_file() and note.is_file() and _noted(note) == origin:
            return
        make_subset(subset.source, subset.path, _size(subset), seed=0)
        write_json(note, origin)


def _noted(path: Path) -> dict[str, Any] | None:
    """What an earlier drawing noted; a broken note is as good as none."""
    try:
        return read_json(path)
    except FileError:
        return None


def _size(subset: Subset) -> int:
    """How many images it will have, as far as its source is there to tell."""
    from loradet.datasets.annotations import read_annotations
    from loradet.datasets.subset import images_with_boxes

    if not subset.source.is_file():
        return subset.count
    return min(subset.count, int(images_with_boxes(read_annotations(subset.source)).sum()))
