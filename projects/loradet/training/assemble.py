"""Builds what a run is made of: model, trainer, hooks, writers; then replaces what an earlier run has left."""

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from detectron2.engine import HookBase, create_ddp_model, hooks
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter
from omegaconf import DictConfig, OmegaConf
from torch import nn

from loradet.adapters import parameter_table
from loradet.adapters.filled import random_frozen
from loradet.backbones.pixels import check_pixels
from loradet.backbones.precision import amp_dtype
from loradet.checkpoint import Checkpointer
from loradet.config.build import build
from loradet.config.edits import with_num_classes
from loradet.config.initial_weights import allows_random_frozen
from loradet.config.intensity import intensity_references, trained_intensity
from loradet.errors import UserError
from loradet.evaluation.split import Split
from loradet.feature_cache.cache import FeatureCache
from loradet.files import write_errors, write_json
from loradet.model import initial_model, model_classes
from loradet.run_folder import RunFolder
from loradet.training.cached_features import cache_training
from loradet.training.compiling import compile_model, not_compiled
from loradet.training.earlier_run import clear_folder, clear_temporary
from loradet.training.folder.event_files import EventFile, MetricsFile
from loradet.training.folder.record import RunRecord
from loradet.training.fused import with_fused
from loradet.training.hooks import (
    EvaluateAndKeepBest,
    KeepCheckpoints,
    LogMemory,
    ProgressBar,
    Stage,
    StopOnInterrupt,
    WriteMetrics,
    at_stage,
)
from loradet.training.hooks.validation_loss import ValidationLoss, validation_loss
from loradet.training.hooks.validation_pictures import paint_validation
from loradet.training.plan import BatchPlan
from loradet.training.prepare import Prepared
from loradet.training.schedule import report_peak
from loradet.training.trainer import Trainer
from loradet.weight_classes import WeightClasses
from loradet.wording import shorten

logger = logging.getLogger(__name__)

_LONGEST_UNREAD = 1000  # iterations whose losses may wait on a GPU, however seldom they are logged


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """A run that is ready to go.

    Attributes:
        prepared: what it was made from.
        trainer: with all its hooks.
        checkpointer: of the trainer's model.
        best: evaluates during training; None without any split.
        record: not written yet.
        start_iter: the iteration to begin with.
        past_ids: of the runs in tracking services that an earlier part reported to, by the writers' keys.
        features: that are kept of the model's frozen part, where they are.
    """

    prepared: Prepared
    trainer: Trainer
    checkpointer: Checkpointer
    best: EvaluateAndKeepBest | None
    record: RunRecord
    start_iter: int
    past_ids: dict[str, str]
    features: FeatureCache | None


def assemble(prepared: Prepared, more_hooks: Sequence[HookBase] = ()) -> Assembled:
    """Build model and trainer and load what they start from; only then replace files of an earlier run.

    Args:
        prepared: made consistent.
        more_hooks: beside the run's own; their states are restored with the trainer's.

    Raises:
        UserError: the model cannot be built, nothing trains, what is frozen is random, the backbone expects other pixel
            statistics than the model's, or a checkpoint is of another model.
    """
    cfg, folder = prepared.cfg, prepared.folder
    model = initial_model(cfg, device=prepared.device, metadata=prepared.metadata, initialize=not prepared.resume)
    if not prepared.resume:
        check_frozen(model, allow_random=allows_random_frozen(cfg))
        if not cfg.train.allow_other_pixel_statistics:
            check_pixels(model)
    trainer = build_trainer(cfg, model, prepared.loader, prepared.plan, folder.path)
    classes, intensity = WeightClasses.of(prepared.metadata), trained_intensity(cfg)
    checkpointer = Checkpointer(model, folder.path, classes=classes, intensity=intensity, trainer=trainer)
    record = RunRecord(folder.path)
    loss = _validation_loss(prepared)
    best = _register_hooks(prepared, trainer, checkpointer, record, loss)
    trainer.register_hooks(more_hooks)
    start_iter = _restore(prepared, checkpointer, trainer) if prepared.resume else 0
    features = cache_training(prepared, trainer, loss)  # of the weights as they are now
    # What was given fits together.
    past_ids = folder.read_record().get("run_ids", {}) if prepared.resume else {}
    if comm.is_main_process():
        _take_over_folder(prepared, model, start_iter)
        _register_writers(prepared, trainer, best, start_iter)
    comm.synchronize()
    return Assembled(
        prepared=prepared,
        trainer=trainer,
        checkpointer=checkpointer,
        best=best,
        record=record,
        start_iter=start_iter,
        past_ids=past_ids,
        features=features,
    )


def check_frozen(model: nn.Module, *, allow_random: bool) -> None:
    """Refuse a model of which a frozen part holds no weights from anywhere; with `allow_random`, warn.

    Raises:
        UserError: names the parts, and tensors of each.
    """
    found = random_frozen(model)
    if not found:
        return
    listed = "; ".join(f"{part}: {len(names)} tensors ({shorten(names, 3)})" for part, names in found.items())
    if allow_random:
        logger.warning("Frozen and random, as allowed: %s.", listed)
        return
    raise UserError(
        f"Frozen parts of the model hold random weights, which neither pretraining nor a checkpoint filled: {listed}. "
        "Give the part its weights (pretrained=True or weights=FILE), or the model a checkpoint that has them "
        "(train.init_checkpoint=FILE), or unfreeze it; train.allow_random_frozen=True trains on random ones."
    )


def build_trainer(cfg: DictConfig, model: nn.Module, loader: Any, plan: BatchPlan, output_dir: Path) -> Trainer:
    """The trainer that `cfg.train` describes, without hooks; several processes wrap the model in DDP.

    Raises:
        UserError: every parameter is frozen.
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise UserError("Nothing trains: every parameter of the model is frozen.")
    node = copy.deepcopy(cfg.optimizer)
    node.params.model = model
    train = cfg.train
    compile_model(model, cfg)
    device = next(model.parameters()).device
    return Trainer(
        # The embedded and the installed function both choose a CUDA device where none is given.
        create_ddp_model(model, device_ids=[device] if device.type == "cuda" else None, **train.ddp),
        loader,
        build(with_fused(node, model.parameters()), "optimizer"),
        accumulate=plan.accumulate,
        amp_dtype=amp_dtype(train.amp.dtype, device) if train.amp.enabled else None,
        clip_norm=train.clip_grad.max_norm,
        clip_norm_type=train.clip_grad.norm_type,
        ema_decay=train.ema.decay if train.ema.enabled else None,
        # A CPU has nothing to wait for, and stops at once.
        read_period=1 if device.type == "cpu" else min(train.log_period, _LONGEST_UNREAD),
        output_dir=output_dir,
    )


def _validation_loss(prepared: Prepared) -> ValidationLoss | None:
    """Of the first split, where there is one."""
    if not prepared.splits:
        return None
    return validation_loss(prepared.cfg, next(iter(prepared.splits.values())), prepared.plan.per_forward)


def _register_hooks(
    prepared: Prepared,
    trainer: Trainer,
    checkpointer: Checkpointer,
    record: RunRecord,
    loss: ValidationLoss | None,
) -> EvaluateAndKeepBest | None:
    """Those of every process; each has its turn at its own stage."""
    cfg, train = prepared.cfg, prepared.cfg.train
    best = None
    if prepared.splits:
        first = next(iter(prepared.splits.values()))
        best = EvaluateAndKeepBest(
            prepared.schedule.eval_period,
            lambda: evaluate(cfg, first, trainer, loss),
            checkpointer,
            metric=train.best.metric,
            mode=train.best.mode,
            patience=train.early_stopping.patience if train.early_stopping.enabled else None,
            min_delta=train.early_stopping.min_delta,
        )

    def on_save() -> None:
        record.update(iteration=trainer.iter)
        for upload in prepared.uploads:
            upload.checkpoint_saved()

    period, kept = prepared.schedule.checkpoint_period, train.checkpointer.max_to_keep
    keep = KeepCheckpoints(checkpointer, period, kept, on_save=on_save)
    for upload in prepared.uploads:
        upload.kept = lambda: {f"{name}.pth" for name in keep.saved}
    multiplier = build(cfg.lr_multiplier, "lr_multiplier")
    report_peak(multiplier, prepared.schedule.max_iter, cfg.optimizer.get("lr"))
    trainer.register_hooks(
        [
            StopOnInterrupt(),
            at_stage(Stage.TIME, hooks.IterationTimer(warmup_iter=0)),
            at_stage(Stage.RATE, hooks.LRScheduler(scheduler=multiplier)),
            LogMemory(train.log_period),
            best,
            keep,
            ProgressBar(),
        ]
    )
    return best


def evaluate(cfg: DictConfig, split: Split, trainer: Trainer, loss: ValidationLoss | None = None) -> dict[str, Any]:
    """The results of the weights that the trainer has now; losses beside them, as {"val": {"total_loss": …}}."""
    with not_compiled(cfg):
        results = split.evaluate(trainer.module, trainer.output_dir)
        losses = {} if loss is None else loss.measure(trainer.module)
    return results | {split.name: losses} if results and losses else results


def _restore(prepared: Prepared, checkpointer: Checkpointer, trainer: Trainer) -> int:
    """Load the last checkpoint; returns the iteration to go on with."""
    folder = prepared.folder
    if folder.read_record().get("config_sha256") not in (None, prepared.identity):
        logger.warning("The config differs from the one that the run in %s began with.", folder.path)
    checkpointer.resume()
    logger.info("Resumed from %s.", folder.path / (folder.last_checkpoint() or ""))
    return trainer.iter + 1


def _take_over_folder(prepared: Prepared, model: nn.Module, start_iter: int) -> None:
    """Put this run's config and parameters where those of an earlier one were, and clear what it has left."""
    folder = prepared.folder
    for upload in prepared.uploads:
        upload.create(prepared.identity, resume=prepared.resume)
    config = _write_config(prepared.cfg, folder.path, model, WeightClasses.of(prepared.metadata))
    clear_temporary(folder.path)
    if prepared.is_held:
        clear_folder(folder.path, keep_before=start_iter)
    config.replace(folder.config)
    table = parameter_table(model)
    logger.info("What trains:\n%s", table)
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    write_json(folder.parameters, {**table.to_dict(), "trainable_names": trainable})


def _write_config(cfg: DictConfig, folder: Path, model: nn.Module, classes: WeightClasses | None) -> Path:
    """The resolved config, under a temporary name.

    What it works out of the data, classes and their number, is a value there: whoever has it needs no data. Mappers
    still refer to `data.intensity`, which is worth changing for images from elsewhere.
    """
    resolved = copy.deepcopy(cfg)
    if classes is not None and "classes" in (resolved.get("data") or {}):
        resolved.data.classes = list(classes.names)
    references = intensity_references(resolved)
    OmegaConf.resolve(resolved)
    for key, reference in references.items():
        OmegaConf.update(resolved, key, reference)
    if (count := model_classes(model)) is not None:
        resolved.model = with_num_classes(resolved.model, count)
        if OmegaConf.is_dict((resolved.get("data") or {}).get("num_classes")):
            resolved.data.num_classes = count
    temporary = folder / f".{RunFolder.CONFIG}"
    with write_errors(folder / RunFolder.CONFIG):
        LazyConfig.save(resolved, str(temporary))
    if not temporary.is_file():
        raise UserError("The config holds an object that YAML cannot hold; use importable functions and plain values.")
    return temporary


def _register_writers(prepared: Prepared, trainer: Trainer, best: EvaluateAndKeepBest | None, start_iter: int) -> None:
    """Those of the main process: console, metrics.json, TensorBoard, tracking services, uploads."""
    folder = prepared.folder
    writers: list[EventWriter] = [
        CommonMetricPrinter(prepared.schedule.max_iter),
        MetricsFile(folder),
        # TensorBoard then forgets what a killed run wrote after its last checkpoint.
        EventFile(folder, purge_step=start_iter or None),
        *prepared.trackers,
    ]
    writing = WriteMetrics(writers, period=prepared.cfg.train.log_period)
    if best is not None:
        best.on_evaluated = lambda: _report_evaluation(prepared, trainer, writing)
    trainer.register_hooks([writing, *prepared.uploads])


def _report_evaluation(prepared: Prepared, trainer: Trainer, writing: WriteMetrics) -> None:
    """Write an evaluation's numbers at once, and pictures where somebody takes them."""
    count = prepared.cfg.train.validation_pictures
    if count and not writing.is_closed:
        try:
            pictures = paint_validation(next(iter(prepared.splits.values())), prepared.folder.path, count)
        except (OSError, ValueError, LookupError) as error:
            logger.warning("No pictures of this evaluation: %s", error)
            pictures = {}
        for name, picture in pictures.items():
            trainer.storage.put_image(name, picture.transpose(2, 0, 1))  # TensorBoard's
        for tracker in prepared.trackers:
            tracker.write_pictures(pictures, trainer.iter)
    writing.write_evaluation()
