"""Train what a config says: the order of events in one process of a run."""

import copy
import logging
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import create_ddp_model, hooks
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from omegaconf import DictConfig, OmegaConf
from torch import nn

from loradet.adapters import parameter_table
from loradet.datasets.loader import TrainLoader
from loradet.evaluation.splits import (
    dataset_metadata,
    evaluate_split,
    evaluation_splits,
    instantiate_loader,
    load_dataset,
)
from loradet.files import write_json
from loradet.training import record
from loradet.training.checkpoint import Checkpointer, last_checkpoint_name
from loradet.training.finish import finish_run
from loradet.training.hooks import (
    EvaluateAndKeepBest,
    KeepCheckpoints,
    LogMemory,
    ProgressBar,
    StopOnInterrupt,
    WriteMetrics,
)
from loradet.training.metrics_log import drop_lines_after
from loradet.training.settings import BatchPlan, iterations, plan_batch
from loradet.training.setup import setup_process
from loradet.training.trainer import Trainer

logger = logging.getLogger(__name__)


@dataclass
class Schedule:
    """Durations of a run in iterations, worked out of `cfg.train`."""

    max_iter: int
    eval_period: int
    checkpoint_period: int
    iterations_per_epoch: int | None


def train(cfg: DictConfig, *, resume: bool = False) -> str:
    """Run (or go on with) the training that `cfg` describes, then evaluate its best weights.

    Leaves the files of one run in `cfg.train.output_dir`.

    Args:
        cfg: complete (see `complete_train_settings`); made consistent in place.
        resume: go on from the folder's last checkpoint, or start where there is none.

    Returns:
        "finished" or "interrupted".

    Raises:
        ValueError: the config, the data or a checkpoint do not fit together.
        NonFiniteLossError: a loss became NaN or infinite.
    """
    output_dir = Path(cfg.train.output_dir)
    is_held = _refuse_other_run(output_dir, resume, cfg.train.overwrite)
    if resume and cfg.train.seed < 0:
        cfg.train.seed = record.read(output_dir).get("seed", cfg.train.seed)
    device = setup_process(cfg, output_dir)
    identity = record.config_hash(cfg)
    plan = plan_batch(
        cfg.dataloader.train.total_batch_size,
        comm.get_world_size(),
        cfg.train.accumulate,
        cfg.train.max_batch_per_gpu,
    )
    loader = build_loader(cfg, plan)
    schedule = _resolve_schedule(cfg, loader, plan.total)
    data = _describe_data(cfg)
    if resume and _is_finished(output_dir, identity, data):
        return "finished"
    resume = resume and last_checkpoint_name(output_dir) is not None
    model = build_model(cfg, device, initialize=not resume)
    trainer = build_trainer(cfg, model, loader, plan, output_dir)
    checkpointer = Checkpointer(model, output_dir, trainer=trainer)
    run = record.RunRecord(output_dir)
    best = _register_hooks(trainer, checkpointer, cfg, schedule, run)
    start_iter = _restore(checkpointer, trainer, identity, output_dir) if resume else 0
    # What was given fits together: only now are files of an earlier run replaced.
    if comm.is_main_process():
        config = _write_config(cfg, output_dir)
        if is_held:
            _clear_folder(output_dir, keep_before=start_iter)
        config.replace(output_dir / "config.yaml")
        _show_what_trains(model, output_dir)
        trainer.register_hooks([_writers(output_dir, schedule, cfg.train.log_period, start_iter)])
    comm.synchronize()
    run.start(
        cfg,
        device,
        config_sha256=identity,
        data=data,
        iterations_per_epoch=schedule.iterations_per_epoch,
        resumed_at=start_iter or None,
        parameters=parameter_table(trainer.module).to_dict(),
    )
    logger.info("Starting at iteration %d of %d.", start_iter, schedule.max_iter)
    try:
        if start_iter < schedule.max_iter:
            trainer.train(start_iter, schedule.max_iter)
        if trainer.stop_reason == "interrupted":
            run.update(status="interrupted", iteration=trainer.iter)
            return "interrupted"
        finish_run(cfg, trainer, checkpointer, best, run)
    except KeyboardInterrupt:
        run.update(status="interrupted")
        raise
    except BaseException as error:
        run.update(status="failed", error=f"{type(error).__name__}: {error}")
        raise
    return "finished"


def _refuse_other_run(folder: Path, resume: bool, overwrite: bool) -> bool:
    """Whether the folder holds a run; ValueError where that must not be touched.

    Every process looks before the main one writes anything.
    """
    held = [p.name for p in (folder / record.FILE, folder / "last_checkpoint") if p.exists()]
    if held and not resume and not overwrite:
        raise ValueError(
            f"{folder} holds a run ({', '.join(held)}). Go on with it by --resume, choose another "
            "train.output_dir, or start afresh in its place with train.overwrite=True."
        )
    comm.synchronize()
    return bool(held)


# Files of a run that begins anew; log.txt is open already and goes on.
_REPLACED = (
    *("model_[0-9]*.pth", "model_best.pth", "model_final.pth", "last_checkpoint", "adapter.safetensors"),
    *("run.json", "parameters.json", "metrics.json", "*_metrics.json", "events.out.tfevents.*"),
)


def _clear_folder(folder: Path, keep_before: int) -> None:
    """Leave out what an earlier run, or the lost end of this one, has left: all from iteration `keep_before` on."""
    if keep_before:
        drop_lines_after(folder / "metrics.json", keep_before - 1)
        return
    for pattern in _REPLACED:
        for file in folder.glob(pattern):
            file.unlink()
    shutil.rmtree(folder / "predictions", ignore_errors=True)


_DATA_KEYS = ("source", "fingerprint", "num_images", "synthetic")


def _describe_data(cfg: DictConfig) -> dict[str, dict[str, Any]]:
    """By split: annotation file (`source`), its fingerprint, its number of images, and whether they are synthetic."""
    described = {}
    for split in ("train", *evaluation_splits(cfg)):
        metadata = dataset_metadata(cfg, split)
        if metadata.get("fingerprint") is not None:
            described[split] = {key: metadata.get(key) for key in _DATA_KEYS}
    return described


def _is_finished(folder: Path, identity: str, data: dict[str, dict[str, Any]]) -> bool:
    past = record.read(folder)
    if past.get("status") != "finished" or past.get("config_sha256") != identity:
        return False
    contents = [{split: d["fingerprint"] for split, d in x.items()} for x in (past.get("data", {}), data)]
    if contents[0] != contents[1]:
        raise ValueError(
            f"The run in {folder} was made on other data: their annotation files have changed since. Choose another "
            "train.output_dir, or start afresh in its place with train.overwrite=True."
        )
    logger.info("The run in %s is finished; nothing is left to do.", folder)
    return True


def build_loader(cfg: DictConfig, plan: BatchPlan) -> Any:
    """The config's training loader for `plan`; checks that all splits have the same classes."""
    node = copy.deepcopy(cfg.dataloader.train)
    node.total_batch_size = plan.per_forward * plan.world_size
    loader = instantiate_loader(node)
    _check_classes(cfg)
    logger.info(
        "%d images a step: %d processes x %d micro-batches x %d images.",
        plan.total,
        plan.world_size,
        plan.accumulate,
        plan.per_forward,
    )
    return loader


def _check_classes(cfg: DictConfig) -> None:
    """Every split that the run touches has the same classes; loads their data sets, so that what is missing shows."""
    classes = dataset_metadata(cfg, "train").get("thing_classes")
    for split in evaluation_splits(cfg):
        load_dataset(cfg, split)
        others = dataset_metadata(cfg, split).get("thing_classes")
        if None not in (classes, others) and list(others) != list(classes):
            raise ValueError(f"The classes of train and {split} differ: {classes} and {others}.")


def _resolve_schedule(cfg: DictConfig, loader: Any, total_batch_size: int) -> Schedule:
    train = cfg.train
    per_epoch = None
    if isinstance(loader, TrainLoader):
        per_epoch = math.ceil(loader.num_images / total_batch_size)
    elif any(isinstance(d, str) for d in (train.max_iter, train.eval_period, train.checkpointer.period)):
        images = load_dataset(cfg, "train")
        per_epoch = None if images is None else math.ceil(len(images) / total_batch_size)
    max_iter = iterations(train.max_iter, per_epoch, "train.max_iter")
    if max_iter < 1:
        raise ValueError(f"train.max_iter={train.max_iter!r}: expected at least one iteration.")
    schedule = Schedule(
        max_iter,
        iterations(train.eval_period, per_epoch, "train.eval_period"),
        iterations(train.checkpointer.period, per_epoch, "train.checkpointer.period"),
        per_epoch,
    )
    cfg.train.max_iter = max_iter
    logger.info("%s iterations an epoch, %d in all.", per_epoch or "An unknown number of", max_iter)
    return schedule


def _write_config(cfg: DictConfig, folder: Path) -> Path:
    """The resolved config, under a temporary name."""
    resolved = copy.deepcopy(cfg)
    OmegaConf.resolve(resolved)
    temporary = folder / ".config.yaml"
    LazyConfig.save(resolved, str(temporary))
    if not temporary.is_file():
        raise ValueError("The config holds an object that YAML cannot hold; use importable functions and plain values.")
    return temporary


def build_model(cfg: DictConfig, device: torch.device, *, initialize: bool = True) -> nn.Module:
    """The config's model on its device, checked against the data's classes.

    Args:
        initialize: load `train.init_checkpoint`, if there is one.

    Raises:
        ValueError: `num_classes` differs from the data's, nothing trains, or the checkpoint is of another model.
    """
    model = instantiate(cfg.model).to(device)
    check_num_classes(model, dataset_metadata(cfg, "train"))
    if initialize and cfg.train.init_checkpoint:
        Checkpointer(model).load_weights(cfg.train.init_checkpoint, strict=False)
    return model


def check_num_classes(model: nn.Module, metadata: Any) -> None:
    """Compare the model's `num_classes` with the data's. Raises ValueError where they differ."""
    expected, classes = getattr(model, "num_classes", None), metadata.get("thing_classes")
    if expected is not None and classes is not None and expected != len(classes):
        where = metadata.get("json_file") or metadata.get("name")
        raise ValueError(
            f"model.num_classes={expected}, but {where} has {len(classes)} categories: {', '.join(classes)}. "
            f"Set model.num_classes={len(classes)}, or choose classes by data.classes."
        )


def build_trainer(cfg: DictConfig, model: nn.Module, loader: Any, plan: BatchPlan, output_dir: Path) -> Trainer:
    """The trainer that `cfg.train` describes, without hooks; several processes wrap the model in DDP.

    Raises:
        ValueError: every parameter is frozen.
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("Nothing trains: every parameter of the model is frozen.")
    node = copy.deepcopy(cfg.optimizer)
    node.params.model = model
    train = cfg.train
    device = next(model.parameters()).device
    return Trainer(
        # The embedded and the installed function both choose a CUDA device where none is given.
        create_ddp_model(model, device_ids=[device] if device.type == "cuda" else None, **train.ddp),
        loader,
        instantiate(node),
        accumulate=plan.accumulate,
        amp_dtype={"bf16": torch.bfloat16, "fp16": torch.float16}[train.amp.dtype] if train.amp.enabled else None,
        clip_norm=train.clip_grad.max_norm,
        clip_norm_type=train.clip_grad.norm_type,
        ema_decay=train.ema.decay if train.ema.enabled else None,
        output_dir=output_dir,
    )


def _show_what_trains(model: nn.Module, output_dir: Path) -> None:
    table = parameter_table(model)
    logger.info("What trains:\n%s", table)
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    write_json(output_dir / "parameters.json", {**table.to_dict(), "trainable_names": trainable})


def _register_hooks(
    trainer: Trainer, checkpointer: Checkpointer, cfg: DictConfig, schedule: Schedule, run: record.RunRecord
) -> EvaluateAndKeepBest | None:
    train = cfg.train
    splits = evaluation_splits(cfg)
    best = None
    if splits:
        best = EvaluateAndKeepBest(
            schedule.eval_period,
            lambda: evaluate_split(cfg, trainer.module, splits[0], trainer.output_dir),
            checkpointer,
            metric=train.best.metric,
            mode=train.best.mode,
            patience=train.early_stopping.patience if train.early_stopping.enabled else None,
            min_delta=train.early_stopping.min_delta,
        )
    # Evaluation before the checkpoint, so that a checkpoint knows the best metric of its own iteration.
    trainer.register_hooks(
        [
            StopOnInterrupt(),
            hooks.IterationTimer(warmup_iter=0),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            best,
            KeepCheckpoints(
                checkpointer,
                schedule.checkpoint_period,
                train.checkpointer.max_to_keep,
                on_save=lambda: run.update(iteration=trainer.iter),
            ),
            LogMemory(train.log_period),
            ProgressBar(),
        ]
    )
    return best


def _writers(folder: Path, schedule: Schedule, period: int, start_iter: int) -> WriteMetrics:
    writers: list[EventWriter] = [
        CommonMetricPrinter(schedule.max_iter),
        JSONWriter(str(folder / "metrics.json")),
        # TensorBoard then forgets what a killed run wrote after its last checkpoint.
        TensorboardXWriter(str(folder), purge_step=start_iter or None),
    ]
    return WriteMetrics(writers, period=period)


def _restore(checkpointer: Checkpointer, trainer: Trainer, identity: str, folder: Path) -> int:
    """Load the last checkpoint; returns the iteration to go on with."""
    past = record.read(folder)
    if past.get("config_sha256") not in (None, identity):
        logger.warning("The config differs from the one that the run in %s began with.", folder)
    checkpointer.resume()
    logger.info("Resumed from %s.", folder / (last_checkpoint_name(folder) or ""))
    return trainer.iter + 1
