"""What a study is: its experiments, what was reported of them, and how a short trial of them looks."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loradet.config.library import find_config
from loradet.errors import MissingFileError, UserError
from loradet.experiments.study.checks import CHECKS

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
KINDS = ("training", "pictures")
MAIN_METRIC = "coco/bbox_mAP"
# What may be reported besides metrics.
REPORTED_COSTS = (
    *("parameters/total_millions", "parameters/trainable_millions"),
    *("cost/images_per_s", "cost/peak_memory_gb", "cost/train_seconds"),
)
# Keys that every run's command line sets itself.
_OURS = {"train.seed": "`seeds`", "train.eval_splits": "`splits`", "train.output_dir": "the run's name"}


@dataclass(frozen=True, kw_only=True)
class Reported:
    """Numbers that others have published for an entry.

    Attributes:
        split: as "val"; "smoke" for a short trial.
        metrics: names as in metrics files, fractions; and parameters and costs by the names of `REPORTED_COSTS`.
        seed: None where one run was reported without naming its seed.
    """

    split: str
    metrics: Mapping[str, float]
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One experiment.

    Attributes:
        id: letters, digits, `_`, `-`, `.`; it begins the names of the run folders.
        config: LazyConfig file, relative to the project's root.
        kind: "training", or "pictures" (paints what the runs of `sources` find).
        baselines: ids of the entries to compare with; the first one is what `show` compares the config with.
        overrides: `KEY=VALUE` words for the config.
        seeds: one run each.
        splits: evaluated at the end of a full run.
        metrics: names that every metrics file of a run must have.
        checks: name of a check (see `experiments.study.checks`) -> its argument; a run that fails one has failed.
        reported: published numbers.
        note: what a reader of the report should know of these numbers; it stands under the table of parameters.
        model, weights, method, targets, rank, alpha: what the report groups and draws by. Left out, they are read from
            the config (see `loradet.experiments.study.reading`); given, they have to be what the config says.
        factors: level of each factor here, as {"lr": 1e-3}; read likewise where the study says by which key.
        sources: of a "pictures" entry: ids of the entries whose runs are painted, on the same images.
        images: of a "pictures" entry: how many images of the first split, the same for every source.
        smoke_only: the full run is the smoke run.
    """

    id: str
    title: str
    objective: str
    config: str = ""
    kind: str = "training"
    baselines: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    splits: tuple[str, ...] = ("val",)
    metrics: tuple[str, ...] = (MAIN_METRIC,)
    checks: Mapping[str, Any] = field(default_factory=dict)
    reported: tuple[Reported, ...] = ()
    note: str = ""
    model: str = ""
    weights: str = ""
    method: str = ""
    targets: str = ""
    rank: int | None = None
    alpha: float | None = None
    factors: Mapping[str, str | float] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    images: int = 500
    smoke_only: bool = False


@dataclass(frozen=True, kw_only=True)
class Smoke:
    """A short trial of an entry: few images, one epoch.

    Attributes:
        train_images, val_images: drawn by seed 0 from the training and validation split (all, where it has fewer).
        epochs: of training.
        overrides: further `KEY=VALUE` words; by default detections of any score count.
        other_model: they make another, smaller model, so that the check of trainable parameters does not hold.
    """

    train_images: int = 200
    val_images: int = 50
    epochs: float = 1
    overrides: tuple[str, ...] = ("model.test_score_thresh=0.0",)
    other_model: bool = False


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Synthetic scenes, made when they are first needed; the fields are arguments of `datasets.synthetic.generate`.

    Attributes:
        size: side in pixels, or (H, W).
        layout: None for the style's own.
        max_objects: in an image; None for the generator's own.
    """

    root: str
    counts: Mapping[str, int]
    style: str = "sar"
    size: int | tuple[int, int] = 256
    seed: int = 0
    layout: str | None = None
    max_objects: int | None = None


@dataclass(frozen=True, kw_only=True)
class Study:
    """A list of entries and what they share.

    Attributes:
        name: of the study.
        path: how the command line names it; set where it is loaded from.
        source: where the reported numbers come from.
        scenes: the study's own data are synthetic: these.
        stand_in: what smoke runs use where the data are not on this machine.
        stand_in_overrides: further `KEY=VALUE` words of such a run.
        factors: in a study of factors: name of each -> the config's key, as {"lr": "optimizer.lr"}, or what is read of
            an entry, as {"rank": "rank"}.
        labels: what the configs say -> what the report calls it, as {"RMSprop": "RMSProp"}: of models, weights,
            methods, targets and levels.
    """

    name: str
    title: str
    entries: tuple[Entry, ...]
    source: str = ""
    factors: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    smoke: Smoke = Smoke()
    scenes: Scenes | None = None
    stand_in: Scenes | None = None
    stand_in_overrides: tuple[str, ...] = ()
    path: str = ""

    def __post_init__(self):
        twice = [name for name, count in Counter(entry.id for entry in self.entries).items() if count > 1]
        if twice:
            raise UserError(f"Study {self.name}: the id {twice[0]} is given to more than one entry.")
        for key in ("factors", "labels"):
            _check_texts(key, getattr(self, key), self)
        known = {entry.id for entry in self.entries}
        for entry in self.entries:
            _check_entry(entry, known, self)

    def entry(self, name: str) -> Entry:
        """The entry with an id. Raises ValueError, with the ids there are, where there is none."""
        for entry in self.entries:
            if entry.id == name:
                return entry
        raise UserError(f"Study {self.name} has no entry {name}; it has: {', '.join(e.id for e in self.entries)}.")


def _check_texts(key: str, given: Any, study: Study) -> None:
    expected = {"factors": "keys of the config by name", "labels": "texts by text"}[key]
    if not isinstance(given, Mapping):
        raise UserError(f"Study {study.name}: {key}={given!r}; expected {expected}.")
    for name, value in given.items():
        if not (isinstance(name, str) and isinstance(value, str) and value):
            raise UserError(f"Study {study.name}: {key} has {name!r}: {value!r}; expected {expected}.")


def _check_entry(entry: Entry, known: set[str], study: Study) -> None:
    where = f"Study {study.name}, entry {entry.id}"
    if not _ID.fullmatch(entry.id):
        raise UserError(f"{where}: an id is made of letters, digits, '_', '-' and '.'; it names folders.")
    if entry.kind not in KINDS:
        raise UserError(f"{where}: kind={entry.kind!r}; expected one of {', '.join(KINDS)}.")
    for key in ("baselines", "sources"):
        if absent := [name for name in getattr(entry, key) if name not in known]:
            raise UserError(f"{where}: {key} names {absent[0]}, which is no entry of the study.")
    if absent := [name for name in entry.checks if name not in CHECKS]:
        raise UserError(f"{where}: there is no check {absent[0]!r}; there are: {', '.join(CHECKS)}.")
    for name in entry.checks.get("metric_at_least", ()):
        if name.partition(" ")[0] not in (*entry.splits, "smoke"):
            raise UserError(
                f"{where}: the check of {name!r} begins with no split; expected one of "
                f"{', '.join([*entry.splits, 'smoke'])}."
            )
    for name in [name for reported in entry.reported for name in reported.metrics]:
        if name.startswith(("parameters/", "cost/")) and name not in REPORTED_COSTS:
            raise UserError(f"{where}: reported {name}; expected a metric, or one of {', '.join(REPORTED_COSTS)}.")
    if entry.kind == "pictures":
        if not entry.sources:
            raise UserError(f"{where}: pictures need `sources`: the entries whose runs are painted.")
        return
    try:
        find_config(entry.config or "(none)")
    except MissingFileError as error:
        raise MissingFileError(f"{where}: its config {entry.config or '(none)'} does not exist.") from error
    seeds = entry.seeds
    if not seeds or len(set(seeds)) < len(seeds) or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise UserError(f"{where}: seeds={list(seeds)}; expected one or more whole numbers from 0 on, each once.")
    for word in entry.overrides:
        if (key := word.partition("=")[0]) in _OURS:
            raise UserError(f"{where}: the override {word} has no effect; {key} is set by {_OURS[key]}.")
