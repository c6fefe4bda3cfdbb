"""A study whose runs were never trained: run folders as finished trainings leave them, with drawn numbers.

`status`, `collect` and `report` read them like any others. Weights are left out: none of the three opens them.
"""

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from detectron2.config import LazyConfig
from omegaconf import OmegaConf

from loradet.experiments.running.planning import plan
from loradet.experiments.running.run import Run
from loradet.experiments.study import load_study
from loradet.experiments.study.config_memo import ConfigMemo
from loradet.run_folder import RunFolder

CLASSES = ("ship", "aircraft", "car", "tank", "bridge", "harbor")
ITERATIONS, PER_EPOCH = 400, 50  # of the config `quickstart`


def write_study(folder: Path, *, entries: int, seeds: int) -> Path:
    """A study file: entries of the config `quickstart` with one of twelve choices of learning rate and rank.

    Loading a config takes longer than all the rest, and is measured by itself; so few are different.

    Args:
        folder: of `study.yaml`; made where there is none.
        entries: number of experiments; all but the first have it for a baseline.
        seeds: runs of each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plain = [
        {
            "id": f"s{number:04d}",
            "title": f"Stub {number}",
            "objective": "to be counted",
            "config": "quickstart",
            "overrides": [
                f"optimizer.lr={1.01e-4 * (1 + number % 4):.6g}",
                f"model.backbone.bottom_up.rank={3 << number % 3}",
            ],
            "baselines": ["s0000"] if number else [],
            "seeds": list(range(seeds)),
            "splits": ["val", "test"],
        }
        for number in range(entries)
    ]
    path = folder / "study.yaml"
    content = {"name": "stub", "title": "Runs that were never trained", "entries": plain}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def write_runs(study: Path, root: Path, *, log_lines: int) -> int:
    """Leave a finished run's folder for every run of the study, and what is known of its configs.

    Args:
        study: its file.
        root: folder of the run folders.
        log_lines: lines of each `metrics.json`; every tenth has an evaluation.

    Returns:
        The number of runs.
    """
    root.mkdir(parents=True)
    memo, count = ConfigMemo(root), 0
    for count, (run, text) in enumerate(_configs(plan(load_study(study), root=root, memo=memo)), start=1):
        run.folder.mkdir(parents=True)
        files = RunFolder(run.folder)
        rng = np.random.default_rng([count, run.seed])
        ap = float(0.3 + 0.3 * rng.random())
        files.config.write_text(text)
        files.metrics.write_text("".join(json.dumps(line) + "\n" for line in _log(ap, log_lines, rng)))
        files.record.write_text(json.dumps(_record(run, ap), indent=2))
        for split in run.splits:
            content = {"checkpoint": str(files.best), "iteration": ITERATIONS - 1, "split": split, **_metrics(ap, rng)}
            files.split_metrics(split).write_text(json.dumps(content, indent=2))
        files.lock.touch()
        files.log.write_text("what the console showed\n" * 100)
        attempt = {"command": ["train"], "began": 0.0, "ended": 1.0, "exit_code": 0, "log_tail": ["the end"] * 20}
        (run.folder / "attempts.json").write_text(json.dumps([attempt], indent=2))
    memo.save()
    return count


def _configs(runs: list[Run]) -> Iterator[tuple[Run, str]]:
    """Each run with its `config.yaml`; what a seed changes in that of its entry is written by hand, for speed."""
    first: dict[tuple[str, ...], tuple[Run, str]] = {}
    for run in runs:
        if run.entry.overrides not in first:
            file = run.root / "config.yaml"
            resolved = copy.deepcopy(run.config)
            OmegaConf.resolve(resolved)
            resolved.data.classes, resolved.data.num_classes = list(CLASSES), len(CLASSES)
            LazyConfig.save(resolved, str(file))
            first[run.entry.overrides] = run, file.read_text()
            file.unlink()
        of, text = first[run.entry.overrides]
        yield run, text.replace(f"seed: {of.seed}", f"seed: {run.seed}").replace(of.name, run.name)


def _record(run: Run, ap: float) -> dict[str, Any]:
    data = {
        split: {
            "source": f"/data/{split}.json",
            "fingerprint": "1b440e55f51e2d10",
            "num_images": 205,
            "num_annotations": 2804,
            "synthetic": False,
            "num_classes": len(CLASSES),
            "classes": list(CLASSES),
        }
        for split in ("train", *run.splits)
    }
    parts = {"backbone": (294_400, 3_668_280), "neck": (368_128, 368_128), "head": (200_000, 200_000)}
    parts["all"] = tuple(map(sum, zip(*parts.values())))
    return {
        "status": "finished",
        "seed": run.seed,
        "command": ["loradet", "train", *run.overrides],
        "git_revision": "0" * 40,
        "versions": {"loradet": "0.1.0", "python": "3.11.7", "torch": "2.14.1"},
        "device": "CPU, 2 threads",
        "processes": 1,
        "config_sha256": run.identity,
        "data": data,
        "iterations_per_epoch": PER_EPOCH,
        "resumed_at": None,
        "parameters": {part: {"trainable": n, "total": total} for part, (n, total) in parts.items()},
        "wall_time_s": 536.0,
        "iteration": ITERATIONS - 1,
        "stopped_by": None,
        "images_per_s": 30.0 + run.seed,
        "train_seconds": 185.26,
        "peak_memory_mb": 1411.1,
        "best": {"metric": "bbox/AP", "value": 100 * ap, "iteration": ITERATIONS - 1},
        "finished_at": "2026-11-30T16:50:23+00:00",
    }


def _metrics(ap: float, rng: np.random.Generator) -> dict[str, float]:
    names = ["mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l", "AR@1", "AR@10", "AR@100"]
    names += ["AR_s@100", "AR_m@100", "AR_l@100", *(f"{kind}/{name}" for kind in ("mAP", "AR@100") for name in CLASSES)]
    values = np.clip(ap + 0.1 * rng.standard_normal(len(names)), 0, 1)
    return {f"coco/bbox_{name}": float(value) for name, value in zip(names, [ap, *values[1:].tolist()])}


def _log(ap: float, lines: int, rng: np.random.Generator) -> Iterator[dict[str, float]]:
    noise = rng.random((lines, 4))
    for number in range(lines):
        iteration = (number + 1) * ITERATIONS // lines - 1
        loss = 0.4 + math.exp(-3 * number / lines) + 0.05 * noise[number, 0]
        line = {
            "data_time": 0.001 + 0.001 * noise[number, 1],
            "eta_seconds": 400.0 - iteration,
            "grad_norm": 5 + 5 * noise[number, 2],
            "iteration": iteration,
            "loss_box_reg": 0.4 * loss,
            "loss_cls": 0.6 * loss,
            "lr": 1e-3,
            "memory_mb": 1411.1171875,
            "num_pos_anchors": 110.1875,
            "time": 0.3 + 0.1 * noise[number, 3],
            "total_loss": loss,
        }
        if number % 10 == 9 or number == lines - 1:
            known = 100 * ap * (1 - 0.5**number)
            line |= {f"bbox/AP{name}": known for name in ("", "50", "75", "s", "m", "l", *(f"-{c}" for c in CLASSES))}
        yield line
