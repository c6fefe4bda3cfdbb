"""Run folders of a study of factors, with logs of our choice: 12 epochs of 5 iterations, evaluated after each."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from helpers.report_runs import absent, entry, finished
from loradet.experiments.results.folders import Result
from loradet.experiments.study.definition import Entry, Study

EPOCHS, EPOCH = 12, 5
RISING = tuple(0.5 * (1 - 0.6**epoch) for epoch in range(1, EPOCHS + 1))
KEYS = {"lr": "optimizer.lr", "batch": "dataloader.train.total_batch_size"}


def ofat(**values) -> Study:
    """Baseline lr=0.001, batch=8, and one variation of each."""
    base = _entry("base", lr=0.001, batch=8, **values)
    others = [_entry(f"lr{lr}", lr=lr, batch=8, baselines=("base",), **values) for lr in (0.01, 0.005)]
    others.append(_entry("bs16", lr=0.001, batch=16, baselines=("base",), **values))
    return Study(name="trial/ofat", title="One at a time", entries=(base, *others))


def factorial(lrs: Sequence[float] = (0.001, 0.01), batches: Sequence[int] = (8, 16), **values) -> Study:
    cells = itertools.product(lrs, batches)
    entries = [_entry(f"lr{lr}_bs{batch}", lr=lr, batch=batch, **values) for lr, batch in cells]
    return Study(name="trial/factorial", title="All combinations", entries=tuple(entries))


def _entry(name: str, *, lr: float, batch: int, **values) -> Entry:
    # Each level is one override, but for those that the config has anyway: they would change nothing.
    words = [f"{KEYS[key]}={level}" for key, level in {"lr": lr, "batch": batch}.items() if level not in (0.001, 8)]
    return entry(
        name, **{"overrides": tuple(words), "factors": {"lr": lr, "batch": batch}, "splits": ("val", "test"), **values}
    )


def log(
    values: Sequence[float], losses: Sequence[float] | None = None, norms: Sequence[float] | None = None
) -> list[dict]:
    """Lines of `metrics.json`: a loss and a gradient norm an epoch, and AP50 where `values` has one (fractions)."""
    losses = [2 / (1 + epoch) for epoch in range(len(values))] if losses is None else losses
    lines = []
    for epoch, loss in enumerate(losses):
        line = {"iteration": EPOCH * (epoch + 1) - 1, "total_loss": loss, "grad_norm": norms[epoch] if norms else 1.0}
        if epoch < len(values):
            line |= {"bbox/AP50": 100 * values[epoch], "bbox/AP": 60 * values[epoch]}
        lines.append(line)
    return lines


def write_log(folder: Path, lines: Sequence[dict]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))


def trained(
    root: Path,
    of: Entry,
    seed: int = 0,
    values: Sequence[float] = RISING,
    *,
    losses: Sequence[float] | None = None,
    norms: Sequence[float] | None = None,
    mode: str = "full",
    test: float | None = None,
    **record,
) -> Result:
    """A finished run; `test` is its AP50 there, by default that of `val`."""
    run = finished(root, of, seed, mode=mode)
    write_log(run.folder, log(values, losses, norms))
    best = max(values)
    found = {split: {"coco/bbox_mAP_50": best, "coco/bbox_mAP": 0.6 * best} for split in run.metrics}
    if test is not None:
        found["test"]["coco/bbox_mAP_50"] = test
    more = {"best": {"metric": "bbox/AP50", "value": 100 * best}, "train_seconds": 300.0, **record}
    return replace(run, metrics=found, record=run.record | more)


def diverged(root: Path, of: Entry, seed: int = 0, *, iteration: int = 23, values: Sequence[float] = RISING[:4]):
    """A run that stopped with the trainer's error."""
    error = f"NonFiniteLossError: Loss or gradient is not finite at iteration {iteration} (process 0: loss_cls=nan)."
    run = absent(root, of, seed, state="failed", detail=error)
    write_log(run.folder, log(values))
    return replace(run, record={"iterations_per_epoch": EPOCH, "error": error})
