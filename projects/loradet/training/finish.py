"""The end of a run: best weights on every split, the adapter file, the last lines of the record."""

import logging
import math
from datetime import datetime, timezone
from typing import Any

from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from loradet.adapters import save_adapter
from loradet.config.licences import licence_metadata
from loradet.evaluation.operating_point import OperatingPoint
from loradet.evaluation.score_thresholds import KEY, write_operating_point
from loradet.evaluation.split import Split
from loradet.evaluation.throughput import measure_inference
from loradet.event_storage import DeferredStorage
from loradet.training.assemble import Assembled
from loradet.training.ending import final_summary
from loradet.training.hooks import EvaluateAndKeepBest

logger = logging.getLogger(__name__)

SMOKE_STEPS = 3  # batches that a smoke run measures the speed of inference on


def finish_run(run: Assembled) -> None:
    """Evaluate the best weights on `train.eval_splits`, write metrics files and the adapter.

    Without any evaluation split the weights of the last iteration make the adapter.
    """
    trainer, record = run.trainer, run.record
    record.update(
        iteration=trainer.iter,
        stopped_by=trainer.stop_reason,
        images_per_s=round(trainer.images_seen / trainer.step_seconds, 2) if trainer.step_seconds else None,
        train_seconds=round(trainer.step_seconds, 2),
        peak_memory_mb=round(trainer.memory.peak_mb(), 1),
    )
    metrics, point = ({}, None) if run.best is None else _evaluate_best(run, run.best)
    if comm.is_main_process():
        classes, intensity = run.checkpointer.classes, run.checkpointer.intensity
        save_adapter(
            trainer.module,
            run.prepared.folder.adapter,
            classes=[] if classes is None else classes.names,
            class_ids=[] if classes is None else classes.ids or None,
            intensity=None if intensity is None else intensity.to_value(),
            metadata=licence_metadata(run.prepared.cfg) | ({} if point is None else {KEY: point.to_dict()}),
        )
    record.update(status="finished", finished_at=datetime.now(timezone.utc).isoformat(timespec="seconds"))
    if comm.is_main_process():
        example = _example(run)
        words = final_summary(run.prepared.folder, record.values, metrics, point, example)
        logger.info("The end of the training.\n\n%s\n", words)


def _example(run: Assembled) -> str | None:
    """An image that the training has not seen, where there is one."""
    records = [record for split in run.prepared.splits.values() for record in (split.records or ())[:1]]
    return records[0]["file_name"] if records else None


def _evaluate_best(
    run: Assembled, best: EvaluateAndKeepBest
) -> tuple[dict[str, dict[str, Any]], OperatingPoint | None]:
    """Evaluate the best weights; returns metrics by split and the operating point, on the main process."""
    trainer, folder, splits = run.trainer, run.prepared.folder, run.prepared.splits
    if best.best_iteration is None:
        # A run that is resumed at its end may have been interrupted before its first evaluation.
        with DeferredStorage(trainer.iter) as trainer.storage:
            best.run()
    iteration = run.checkpointer.load_weights(str(folder.best), strict=True)["iteration"]
    first = next(iter(splits.values()))
    metrics = {}
    for split in splits.values():
        # The last periodic evaluation has left the predictions of the best weights, if it was the best one.
        if split is not first or best.evaluated_at != iteration:
            split.evaluate(trainer.module, folder.path)
        metrics[split.name] = split.write_metrics(
            folder.path, checkpoint=folder.best, iteration=iteration, fit=first.files(folder.path)
        )
    run.record.update(best={"metric": best.metric, "value": _or_none(best.best), "iteration": iteration})
    if run.prepared.cfg.train.efficiency.enabled:
        run.record.update(efficiency=measure_efficiency(run.prepared.cfg, trainer.module, first))
    if not comm.is_main_process() or (point := first.operating_point(folder.path)) is None:
        return metrics, None
    write_operating_point(folder.path, point, checkpoint=folder.best, iteration=iteration, **first.provenance)
    return metrics, point


def measure_efficiency(cfg: DictConfig, model: nn.Module, split: Split) -> dict[str, Any]:
    """Speed and memory of inference on a split, as `train.efficiency` says; the main process alone measures.

    Args:
        model: without a DDP wrapper, with the weights to measure.

    Returns:
        `Throughput.to_dict()` and `split`; {} on other processes.
    """
    found: dict[str, Any] = {}
    comm.synchronize()
    if comm.is_main_process():
        settings, name = cfg.train.efficiency, split.name
        # A smoke run shows that it works, and on a CPU it may be most of what one takes.
        steps, warmup = (min(n, SMOKE_STEPS) if cfg.train.smoke else n for n in (settings.steps, settings.warmup))
        logger.info("Measuring the speed of inference on %s: %d batches after %d.", name, steps, warmup)
        measured = measure_inference(model, split.loader, steps=steps, warmup=warmup)
        found = {"split": name, **measured.to_dict()}
        logger.info("Inference on %s: %.2f images/s at batch %d.", name, found["images/s"], found["batch"])
    comm.synchronize()
    return found


def _or_none(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
