"""The end of a run: best weights on every split, the adapter file, the last lines of the record."""

import logging
import math
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig
from torch import nn

from loradet.adapters import save_adapter
from loradet.checkpoint import Checkpointer
from loradet.config.initial_weights import initial_weights
from loradet.config.splits import evaluation_splits, split_config
from loradet.evaluation.coco_metrics import coco_metrics, write_metrics
from loradet.evaluation.numbering import record_numbering
from loradet.evaluation.split_calibration import SplitFiles, calibrate_split, calibration_metrics, calibration_node
from loradet.evaluation.splits import dataset_metadata, evaluate_split, instantiate_loader, load_dataset
from loradet.evaluation.throughput import measure_inference
from loradet.run_folder import RunFolder
from loradet.training.hooks import EvaluateAndKeepBest
from loradet.training.record import RunRecord
from loradet.training.trainer import Trainer

logger = logging.getLogger(__name__)

SMOKE_STEPS = 3  # batches that a smoke run measures the speed of inference on


def finish_run(
    cfg: DictConfig,
    trainer: Trainer,
    checkpointer: Checkpointer,
    best: EvaluateAndKeepBest | None,
    run: RunRecord,
) -> None:
    """Evaluate `model_best.pth` on `train.eval_splits`, write metrics files and `adapter.safetensors`.

    Without any evaluation split the weights of the last iteration make the adapter.
    """
    folder = trainer.output_dir
    splits = evaluation_splits(cfg)
    run.update(
        iteration=trainer.iter,
        stopped_by=trainer.stop_reason,
        images_per_s=round(trainer.images_seen / trainer.step_seconds, 2) if trainer.step_seconds else None,
        train_seconds=round(trainer.step_seconds, 2),
        peak_memory_mb=round(trainer.memory.peak_mb(), 1),
    )
    if best is not None:
        path = RunFolder(folder).best
        if best.best_iteration is None:
            # A run that is resumed at its end may have been interrupted before its first evaluation.
            with EventStorage(trainer.iter) as trainer.storage:
                best.run()
        iteration = checkpointer.load_weights(str(path), strict=True)["iteration"]
        for split in splits:
            # The last periodic evaluation has left the predictions of the best weights, if it was the best one.
            if split != splits[0] or best.evaluated_at != iteration:
                evaluate_split(cfg, trainer.module, split, folder)
            write_split_metrics(cfg, split, folder, path, iteration, fit_split=splits[0])
        run.update(best={"metric": best.metric, "value": _or_none(best.best), "iteration": iteration})
        if cfg.train.efficiency.enabled:
            run.update(efficiency=measure_efficiency(cfg, trainer.module, splits[0]))
    if comm.is_main_process():
        metadata = dataset_metadata(cfg, "train")
        ids = metadata.get("thing_dataset_id_to_contiguous_id") or {}
        save_adapter(
            trainer.module,
            RunFolder(folder).adapter,
            classes=list(metadata.get("thing_classes") or []),
            class_ids=sorted(ids, key=ids.get),
        )
    run.update(status="finished", finished_at=datetime.now(timezone.utc).isoformat(timespec="seconds"))


def write_split_metrics(
    cfg: DictConfig,
    split: str,
    folder: Path,
    checkpoint: Path,
    iteration: int | None,
    output: Path | None = None,
    *,
    fit_split: str | None = None,
    fit_folder: Path | None = None,
) -> dict[str, Any]:
    """Write `<split>_metrics.json` (`smoke_metrics.json`) from the predictions in a run's folder, main process only.

    Where the config's evaluator measures calibration, its numbers are in there too, before and after a temperature,
    and the whole of it is written beside the predictions.

    Args:
        output: another file to write to.
        fit_split: what a temperature is fitted on, for other splits; its predictions are of the same weights.
        fit_folder: holds them, if not `folder`.
    """
    if not comm.is_main_process():
        return {}
    files = _split_files(cfg, split, folder)
    if files is None:
        logger.warning(
            "No COCO metrics of %s: its evaluator leaves no %s for a COCO file.", split, RunFolder.PREDICTIONS
        )
        return {}
    record_numbering(files.predictions, files.annotations)
    metrics, more = coco_metrics(files.annotations, files.predictions), {"annotations": str(files.annotations)}
    if (node := calibration_node(cfg)) is not None:
        other = fit_split not in (None, split)
        report, source = calibrate_split(
            node, files, _split_files(cfg, fit_split, fit_folder or folder) if other else None
        )
        report.write(files.predictions.parent)
        metrics |= calibration_metrics(report)
        more["temperature_fitted_on"] = source
    path = output or RunFolder(folder).split_metrics(split, smoke=cfg.train.smoke)
    data = {"data": "synthetic"} if dataset_metadata(cfg, split).get("synthetic") else {}
    more |= initial_weights(cfg)
    write_metrics(path, metrics, checkpoint=str(checkpoint), iteration=iteration, split=split, **data, **more)
    logger.info("Metrics of %s%s written to %s.", split, " (synthetic images)" if data else "", path)
    return metrics


def _split_files(cfg: DictConfig, split: str, folder: Path) -> SplitFiles | None:
    """None where there is no COCO file or no detections."""
    if dataset_metadata(cfg, split).get("json_file") is None:
        load_dataset(cfg, split)  # registers where its annotations are
    truth, predictions = dataset_metadata(cfg, split).get("json_file"), RunFolder(folder).predictions(split)
    if truth is None or not predictions.is_file():
        return None
    return SplitFiles(split=split, annotations=Path(truth), predictions=predictions)


def measure_efficiency(cfg: DictConfig, model: nn.Module, split: str) -> dict[str, Any]:
    """Speed and memory of inference on a split, as `train.efficiency` says; the main process alone measures.

    Args:
        model: without a DDP wrapper, with the weights to measure.

    Returns:
        `Throughput.to_dict()` and `split`; {} on other processes.
    """
    found: dict[str, Any] = {}
    comm.synchronize()
    if comm.is_main_process():
        settings, loader = cfg.train.efficiency, instantiate_loader(split_config(cfg, split), f"dataloader.{split}")
        # A smoke run shows that it works, and on a CPU it may be most of what one takes.
        steps, warmup = (min(n, SMOKE_STEPS) if cfg.train.smoke else n for n in (settings.steps, settings.warmup))
        logger.info("Measuring the speed of inference on %s: %d batches after %d.", split, steps, warmup)
        measured = measure_inference(model, loader, steps=steps, warmup=warmup)
        found = {"split": split, **measured.to_dict()}
        logger.info("Inference on %s: %.2f images/s at batch %d.", split, found["images/s"], found["batch"])
    comm.synchronize()
    return found


def _or_none(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
