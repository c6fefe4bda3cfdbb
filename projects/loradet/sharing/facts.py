"""What a model card says, gathered from an adapter file and from the folder of its run."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from loradet.adapters.files.adapter_file import read_adapter
from loradet.adapters.files.description import AdapterSizes, adapter_sizes
from loradet.config.description import Description, describe
from loradet.config.licences import BaseLicence, base_licences, of_name, read_licences
from loradet.errors import UserError
from loradet.evaluation.calibration.detections_files import BOOTSTRAP_FILE
from loradet.evaluation.coco_metrics import PREFIX, read_metrics
from loradet.files import FileError, read_json
from loradet.run_folder import RunFolder
from loradet.sharing.config_paths import data_roots, portable_command
from loradet.training.folder.record import read_config

SHOWN = {"AP": "mAP", "AP50": "mAP_50", "AP75": "mAP_75"}  # of a table, by the names of metrics files
_SAME = 1e-9  # between a metric and the value that its interval is around


@dataclass(frozen=True)
class SplitNumbers:
    """How good the weights are on a split.

    Attributes:
        name: of the split.
        metrics: fractions by the names of COCO's metrics without prefix, "mAP", "mAP_50", "mAP/ship"; finite ones.
        intervals: (low, high) by the same names, where a bootstrap of these very numbers lies in the run's folder.
        level: of the intervals.
        resamples: of the bootstrap.
        synthetic: whether the images are.
    """

    name: str
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    level: float = 0.0
    resamples: int = 0
    synthetic: bool = False


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """All that a card is written from.

    Attributes:
        info: what the adapter file says.
        sizes: of the adapter file.
        licences: of the base.
        description: of the run's config; None without one.
        record: the run's `run.json`; {} without a run.
        data_name: as the config calls the data set; None without a config.
        command: that has trained it; None where it is not known.
        smoke: whether the run was a smoke run.
        splits: numbers of the best weights.
    """

    info: dict[str, Any]
    sizes: AdapterSizes
    licences: list[BaseLicence]
    description: Description | None = None
    record: dict[str, Any] = field(default_factory=dict)
    data_name: str | None = None
    command: str | None = None
    smoke: bool = False
    splits: tuple[SplitNumbers, ...] = ()


def facts_of_file(path: Path) -> CardFacts:
    """What an adapter file tells by itself. Raises what `read_adapter` raises."""
    info = read_adapter(path)[0]
    return CardFacts(info=info, sizes=adapter_sizes(path), licences=read_licences(info["metadata"]) or _by_name(info))


def facts_of_run(folder: Path, adapter: Path) -> CardFacts:
    """What the folder of a finished run tells of the adapter that was exported from it.

    Raises:
        UserError: a file of the run is broken; it is named.
    """
    alone, run = facts_of_file(adapter), RunFolder(folder)
    record, cfg = run.read_record(), _config(run)
    licences = read_licences(alone.info["metadata"])
    description, data_name, smoke, roots = None, None, False, []
    if cfg is not None:
        licences = licences or base_licences(cfg)
        description = describe(cfg.model)
        data_name = OmegaConf.select(cfg, "data.name")
        smoke = bool(OmegaConf.select(cfg, "train.smoke"))
        roots = data_roots(OmegaConf.select(cfg, "data.root"), OmegaConf.select(cfg, "data.data_yaml"))
    return CardFacts(
        info=alone.info,
        sizes=alone.sizes,
        licences=licences or alone.licences,
        description=description,
        record=record,
        data_name=None if data_name is None else str(data_name),
        command=portable_command(record.get("command") or [], roots),
        smoke=smoke,
        splits=tuple(_splits(run, record)),
    )


def _config(run: RunFolder) -> DictConfig | None:
    """The run's config; None where it has none, or calls what only a trusted one may call."""
    try:
        return read_config(run.path) if run.config.is_file() else None
    except FileError:
        raise
    except UserError:
        return None


def _by_name(info: Mapping[str, Any]) -> list[BaseLicence]:
    """Of a file of before: what timm records of the names with a tag that are in its recipes."""
    names = [recipe["model_name"] for recipe in info["recipes"].values() if "." in (recipe["model_name"] or "")]
    return [BaseLicence(name, of_name(name)) for name in dict.fromkeys(names)]


def _splits(run: RunFolder, record: Mapping[str, Any]) -> Iterator[SplitNumbers]:
    """Of the run's metrics files, in the order of the record's data; those of a smoke run are no result."""
    order = list(record.get("data") or {})
    files = [file for file in run.path.glob(run.SPLIT_METRICS) if file.name != run.SMOKE_METRICS]
    found = []
    for file in sorted(files):
        content = read_metrics(file)
        split = content.get("split") or file.name.partition("_metrics")[0]
        metrics = {
            name.removeprefix(PREFIX): float(value)
            for name, value in content.items()
            if name.startswith(PREFIX) and not math.isnan(value)
        }
        if not metrics:
            continue
        bootstrap = _bootstrap(run, split, metrics)
        found.append(
            SplitNumbers(
                name=split,
                metrics=metrics,
                intervals={n: (one["low"], one["high"]) for n, one in bootstrap.get("metrics", {}).items()},
                level=bootstrap.get("level", 0.0),
                resamples=bootstrap.get("resamples", 0),
                synthetic=content.get("data") == "synthetic",
            )
        )
    yield from sorted(found, key=lambda one: (order.index(one.name) if one.name in order else len(order), one.name))


def _bootstrap(run: RunFolder, split: str, metrics: Mapping[str, float]) -> dict[str, Any]:
    """A `bootstrap.json` in the run's folder, or one below, that is of the very numbers; {} where there is none."""
    for file in sorted([*run.path.glob(BOOTSTRAP_FILE), *run.path.glob(f"*/{BOOTSTRAP_FILE}")]):
        content = read_json(file)
        intervals = content.get("metrics")
        if not isinstance(intervals, dict) or Path(str(content.get("predictions"))).parent.name != split:
            continue
        known = {name: one for name, one in intervals.items() if _is_of(one, metrics.get(name))}
        if "mAP" in known:
            return {**content, "metrics": known}
    return {}


def _is_of(interval: Any, value: float | None) -> bool:
    ends = [interval.get(key) for key in ("value", "low", "high")] if isinstance(interval, dict) else [None]
    if value is None or not all(isinstance(end, int | float) for end in ends):
        return False
    return abs(ends[0] - value) < _SAME
