"""Train what a config says: the order of events in one process of a run."""

import copy
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from detectron2.engine import create_ddp_model, hooks
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventStorage, EventWriter, JSONWriter, TensorboardXWriter
from omegaconf import DictConfig, OmegaConf
from torch import nn

from loradet.adapters import parameter_table
from loradet.checkpoint import Checkpointer
from loradet.config.build import build
from loradet.config.initial_weights import check_start, initial_weights
from loradet.config.splits import evaluation_splits
from loradet.datasets.loader import TrainLoader
from loradet.errors import UserError
from loradet.evaluation.splits import dataset_metadata, evaluate_split, instantiate_loader, load_dataset
from loradet.files import write_json
from loradet.model import initial_model
from loradet.precision import amp_dtype
from loradet.run_folder import RunFolder
from loradet.training import record
from loradet.training.earlier_run import clear_folder, describe_data, is_finished, refuse_other_run
from loradet.training.finish import finish_run
from loradet.training.hooks import (
    EvaluateAndKeepBest,
    KeepCheckpoints,
    LogMemory,
    ProgressBar,
    StopOnInterrupt,
    WriteMetrics,
)
from loradet.training.hub import HubUpload
from loradet.training.plan import BatchPlan, iterations, plan_batch
from loradet.training.setup import setup_process
from loradet.training.trainer import Trainer
from loradet.training.writers import RunWriter, flat_config, run_writers

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
        FileNotFoundError: a file of weights is not there.
        ValueError: the config, the data or a checkpoint do not fit together.
        NonFiniteLossError: a loss became NaN or infinite.
    """
    output_dir = Path(cfg.train.output_dir)
    folder = RunFolder(output_dir)
    fresh = not resume or folder.last_checkpoint() is None
    check_start(cfg, fresh=fresh)
    is_held = refuse_other_run(output_dir, resume, cfg.train.overwrite)
    if resume and cfg.train.seed < 0:
        cfg.train.seed = record.read(output_dir).get("seed", cfg.train.seed)
    device = setup_process(cfg, output_dir)
    if fresh and initial_weights(cfg):
        logger.warning("Nothing of the model is pretrained: what is frozen of it stays random.")
    identity = record.run_identity(cfg, output_dir)
    plan = plan_batch(
        cfg.dataloader.train.total_batch_size,
        comm.get_world_size(),
        cfg.train.accumulate,
        cfg.train.max_batch_per_gpu,
    )
    loader = build_loader(cfg, plan)
    schedule = _resolve_schedule(cfg, loader, plan.total)
    data = describe_data(cfg)
    if resume and is_finished(output_dir, identity, data):
        return "finished"
    trackers = run_writers(cfg.train)
    upload = HubUpload(folder=output_dir, **cfg.train.hub) if cfg.train.hub.repo_id is not None else None
    resume = resume and folder.last_checkpoint() is not None
    model = initial_model(cfg, device=device, metadata=dataset_metadata(cfg, "train"), initialize=not resume)
    trainer = build_trainer(cfg, model, loader, plan, output_dir)
    checkpointer = Checkpointer(model, output_dir, trainer=trainer)
    run = record.RunRecord(output_dir)
    best = _register_hooks(trainer, checkpointer, cfg, schedule, run, upload)
    start_iter = _restore(checkpointer, trainer, identity, output_dir) if resume else 0
    # What was given fits together: only now are files of an earlier run replaced.
    past_ids = record.read(output_dir).get("run_ids", {}) if resume else {}
    if comm.is_main_process():
        if upload is not None:
            upload.create(identity, resume=resume)
        config = _write_config(cfg, output_dir)
        if is_held:
            clear_folder(output_dir, keep_before=start_iter)
        config.replace(folder.config)
        _show_what_trains(model, output_dir)
        writing = _writers(output_dir, schedule, cfg.train.log_period, start_iter, trackers)
        if best is not None:
            best.on_evaluated = writing.write_evaluation
        trainer.register_hooks([writing, upload])
    comm.synchronize()
    # Not lost where this part reports nowhere: a later one goes on with the same runs there.
    carried = {"run_ids": past_ids} if past_ids else {}
    run.start(
        cfg,
        device,
        config_sha256=identity,
        data=data,
        iterations_per_epoch=schedule.iterations_per_epoch,
        resumed_at=start_iter or None,
        parameters=parameter_table(trainer.module).to_dict(),
        **carried,
    )
    logger.info("Starting at iteration %d of %d.", start_iter, schedule.max_iter)
    try:
        if comm.is_main_process() and trackers:
            run.update(run_ids=past_ids | _start(trackers, cfg, output_dir, start_iter, past_ids))
        if schedule.max_iter == 0:
            _save_untrained(trainer, checkpointer)
        elif start_iter < schedule.max_iter:
            trainer.train(start_iter, schedule.max_iter)
        if trainer.stop_reason == "interrupted":
            run.update(status="interrupted", iteration=trainer.iter)
            return "interrupted"
        finish_run(cfg, trainer, checkpointer, best, run)
    except KeyboardInterrupt:
        run.update(status="interrupted")
        upload = None  # who asks twice wants the end at once
        raise
    except BaseException as error:
        run.update(status="failed", error=f"{type(error).__name__}: {error}")
        raise
    finally:
        for writer in trackers:
            writer.finish(run.values["status"], run.values.get("error"))
        if upload is not None and comm.is_main_process():
            upload.finish(run.values["status"])
    return "finished"


def _start(
    trackers: list[RunWriter], cfg: DictConfig, folder: Path, start_iter: int, past_ids: dict[str, str]
) -> dict[str, str | None]:
    """Open the run in every tracking service; returns its ids there, by the writers' keys."""
    config = flat_config(cfg)
    for writer in trackers:
        writer.start(config, folder, start_iter=start_iter, run_id=past_ids.get(writer.KEY))
    return {writer.KEY: writer.run_id for writer in trackers}


def _save_untrained(trainer: Trainer, checkpointer: Checkpointer) -> None:
    """The checkpoint of a run of no iteration, which shows that all but training works; -1 says that none was run."""
    logger.warning("train.max_iter is 0: nothing trains, the first weights are saved and evaluated.")
    trainer.iter = -1
    with EventStorage(0) as trainer.storage:
        checkpointer.save(Path(RunFolder.FINAL).stem, iteration=-1)


def build_loader(cfg: DictConfig, plan: BatchPlan) -> Any:
    """The config's training loader for `plan`; checks that all splits have the same classes."""
    node = copy.deepcopy(cfg.dataloader.train)
    node.total_batch_size = plan.per_forward * plan.world_size
    loader = instantiate_loader(node, "dataloader.train")
    _check_splits(cfg)
    logger.info(
        "%d images a step: %d processes x %d micro-batches x %d images.",
        plan.total,
        plan.world_size,
        plan.accumulate,
        plan.per_forward,
    )
    return loader


def _check_splits(cfg: DictConfig) -> None:
    """Every split that the run touches has the same classes, and the training data know all of them.

    Loads their data sets, so that what is missing shows.
    """
    metadata = dataset_metadata(cfg, "train")
    if absent := metadata.get("absent_classes"):
        raise UserError(f"There would be nothing to learn of a class: {absent}.")
    classes = metadata.get("thing_classes")
    for split in evaluation_splits(cfg):
        load_dataset(cfg, split)
        others = dataset_metadata(cfg, split).get("thing_classes")
        if None not in (classes, others) and list(others) != list(classes):
            raise UserError(f"The classes of train and {split} differ: {classes} and {others}.")


def _resolve_schedule(cfg: DictConfig, loader: Any, total_batch_size: int) -> Schedule:
    train = cfg.train
    per_epoch = None
    if isinstance(loader, TrainLoader):
        per_epoch = math.ceil(loader.num_images / total_batch_size)
    elif any(isinstance(d, str) for d in (train.max_iter, train.eval_period, train.checkpointer.period)):
        images = load_dataset(cfg, "train")
        per_epoch = None if images is None else math.ceil(len(images) / total_batch_size)
    max_iter = iterations(train.max_iter, per_epoch, "train.max_iter")
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
        raise UserError("The config holds an object that YAML cannot hold; use importable functions and plain values.")
    return temporary


def build_trainer(cfg: DictConfig, model: nn.Module, loader: Any, plan: BatchPlan, output_dir: Path) -> Trainer:
    """The trainer that `cfg.train` describes, without hooks; several processes wrap the model in DDP.

    Raises:
        ValueError: every parameter is frozen.
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise UserError("Nothing trains: every parameter of the model is frozen.")
    node = copy.deepcopy(cfg.optimizer)
    node.params.model = model
    train = cfg.train
    device = next(model.parameters()).device
    return Trainer(
        # The embedded and the installed function both choose a CUDA device where none is given.
        create_ddp_model(model, device_ids=[device] if device.type == "cuda" else None, **train.ddp),
        loader,
        build(node, "optimizer"),
        accumulate=plan.accumulate,
        amp_dtype=amp_dtype(train.amp.dtype, device) if train.amp.enabled else None,
        clip_norm=train.clip_grad.max_norm,
        clip_norm_type=train.clip_grad.norm_type,
        ema_decay=train.ema.decay if train.ema.enabled else None,
        output_dir=output_dir,
    )


def _show_what_trains(model: nn.Module, output_dir: Path) -> None:
    table = parameter_table(model)
    logger.info("What trains:\n%s", table)
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    write_json(RunFolder(output_dir).parameters, {**table.to_dict(), "trainable_names": trainable})


def _register_hooks(
    trainer: Trainer,
    checkpointer: Checkpointer,
    cfg: DictConfig,
    schedule: Schedule,
    run: record.RunRecord,
    upload: HubUpload | None,
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

    def on_save() -> None:
        run.update(iteration=trainer.iter)
        if upload is not None:
            upload.checkpoint_saved()

    # Evaluation before the checkpoint, so that a checkpoint knows the best metric of its own iteration; whatever puts
    # a number before the evaluation, which writes the iteration's line.
    trainer.register_hooks(
        [
            StopOnInterrupt(),
            hooks.IterationTimer(warmup_iter=0),
            hooks.LRScheduler(scheduler=build(cfg.lr_multiplier, "lr_multiplier")),
            LogMemory(train.log_period),
            best,
            KeepCheckpoints(
                checkpointer,
                schedule.checkpoint_period,
                train.checkpointer.max_to_keep,
                on_save=on_save,
            ),
            ProgressBar(),
        ]
    )
    return best


def _writers(folder: Path, schedule: Schedule, period: int, start_iter: int, trackers: list[RunWriter]) -> WriteMetrics:
    writers: list[EventWriter] = [
        CommonMetricPrinter(schedule.max_iter),
        JSONWriter(str(RunFolder(folder).metrics)),
        # TensorBoard then forgets what a killed run wrote after its last checkpoint.
        TensorboardXWriter(str(folder), purge_step=start_iter or None),
        *trackers,
    ]
    return WriteMetrics(writers, period=period)


def _restore(checkpointer: Checkpointer, trainer: Trainer, identity: str, folder: Path) -> int:
    """Load the last checkpoint; returns the iteration to go on with."""
    past = record.read(folder)
    if past.get("config_sha256") not in (None, identity):
        logger.warning("The config differs from the one that the run in %s began with.", folder)
    checkpointer.resume()
    logger.info("Resumed from %s.", folder / (RunFolder(folder).last_checkpoint() or ""))
    return trainer.iter + 1
