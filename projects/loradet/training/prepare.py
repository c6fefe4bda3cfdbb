"""Checks before a run's model is built: its folder, its data, its settings."""

import copy
import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.utils import comm
from omegaconf import DictConfig

from loradet.config.device import choose_device
from loradet.config.initial_weights import check_initial_weights, initial_weights
from loradet.config.intensity import check_images
from loradet.config.licences import warn_of_licences
from loradet.config.splits import split_config
from loradet.datasets.loader import TrainLoader
from loradet.errors import UserError
from loradet.evaluation.class_order import order_of, with_class_order
from loradet.evaluation.split import Split, build_splits
from loradet.evaluation.split_loop import dataset_metadata, instantiate_loader, load_dataset
from loradet.run_folder import RunFolder
from loradet.training.earlier_run import check_data, check_output_dir, describe_data, is_finished
from loradet.training.folder import record
from loradet.training.folder.folder_lock import FolderLock
from loradet.training.hooks.hub import HubUpload
from loradet.training.hooks.mirror import MirrorUpload
from loradet.training.hooks.trackers import RunWriter, run_writers
from loradet.training.hooks.upload import RunUpload
from loradet.training.mirrored import fetch_run
from loradet.training.plan import BatchPlan, iterations, plan_batch
from loradet.training.setup import setup_process
from loradet.weight_classes import read_weight_classes

logger = logging.getLogger(__name__)


@dataclass
class Schedule:
    """Durations of a run in iterations, worked out of `cfg.train`."""

    max_iter: int
    eval_period: int
    checkpoint_period: int
    iterations_per_epoch: int | None


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a run knows before its model is built.

    Attributes:
        cfg: made consistent.
        folder: of the run.
        device: to train on.
        is_held: whether the folder holds a run (this one, or one to replace).
        resume: whether a checkpoint of it is gone on from.
        identity: hash of the config.
        plan: of a batch.
        loader: of the training images.
        metadata: Detectron2's, of the training data.
        splits: to evaluate on, by name; the first is evaluated during training.
        schedule: durations in iterations.
        data: what `describe_data` says.
        trackers: writers to tracking services.
        uploads: to the Hub and to a mirror, where asked for.
    """

    cfg: DictConfig
    folder: RunFolder
    device: torch.device
    is_held: bool
    resume: bool
    identity: str
    plan: BatchPlan
    loader: Any
    metadata: Any
    splits: dict[str, Split]
    schedule: Schedule
    data: dict[str, dict[str, Any]]
    trackers: list[RunWriter]
    uploads: tuple[RunUpload, ...]


def prepare(cfg: DictConfig, *, resume: bool, lock: FolderLock) -> Prepared | None:
    """Check what `cfg` asks for against the folder and the data; None where the run is finished already.

    Nothing of an earlier run is replaced.

    Args:
        cfg: complete; made consistent in place.
        resume: go on from the folder's last checkpoint, or start where there is none.
        lock: of the folder, taken before anything is written.

    Raises:
        FileNotFoundError: a file of weights is not there.
        UserError: the folder holds another run or is in use, or the config and the data do not fit together.
    """
    folder = RunFolder(cfg.train.output_dir)
    lock.check()
    fetched = None
    if resume and cfg.train.mirror.url is not None:
        lock.take()
        fetched = fetch_run(cfg, folder)
    fresh = not resume or folder.last_checkpoint() is None
    check_initial_weights(cfg, fresh=fresh)
    is_held = check_output_dir(folder.path, resume, cfg.train.overwrite)
    if resume and cfg.train.seed < 0:
        cfg.train.seed = folder.read_record().get("seed", cfg.train.seed)
    lock.take()
    device = setup_process(cfg, folder.path)
    _check_processes_agree(cfg)
    if fetched is not None:
        logger.info("%s", fetched)
    if fresh and initial_weights(cfg):
        logger.warning("Nothing of the model is pretrained: what is frozen of it stays random.")
    warn_of_licences(cfg)
    identity = record.run_identity(cfg, folder.path)
    plan = plan_batch(
        split_config(cfg, "train").total_batch_size,
        comm.get_world_size(),
        cfg.train.accumulate,
        cfg.train.max_batch_per_gpu,
    )
    loader, metadata, splits = _read_data(cfg, plan)
    data = _describe(metadata, splits)
    if resume and is_finished(folder.path, identity, data):
        return None
    if not fresh:
        check_data(folder, data, accept=cfg.train.accept_changed_data)
        last = folder.path / (folder.last_checkpoint() or "")
        if order := order_of(read_weight_classes(last), metadata, last):
            cfg = with_class_order(cfg, order)
            loader, metadata, splits = _read_data(cfg, plan)
            data = _describe(metadata, splits)
    schedule = _resolve_schedule(cfg, loader, plan.total)
    return Prepared(
        cfg=cfg,
        folder=folder,
        device=device,
        is_held=is_held,
        resume=resume and folder.last_checkpoint() is not None,
        identity=identity,
        plan=plan,
        loader=loader,
        metadata=metadata,
        splits=splits,
        schedule=schedule,
        data=data,
        trackers=run_writers(cfg.train),
        uploads=_uploads(cfg, folder),
    )


def _check_processes_agree(cfg: DictConfig) -> None:
    """Raise UserError where processes that train together were given different configs or folders."""
    given = comm.all_gather((record.config_hash(cfg), str(cfg.train.output_dir)))
    if len(set(given)) > 1:
        folders = ", ".join(dict.fromkeys(folder for _, folder in given))
        raise UserError(
            f"The {len(given)} processes of this run have different configs (output: {folders}); they train one model. "
            "Tasks of srun that each train something of their own: env -u SLURM_STEP_ID loradet train …"
        )


def _uploads(cfg: DictConfig, folder: RunFolder) -> tuple[RunUpload, ...]:
    train, uploads = cfg.train, []
    if train.hub.repo_id is not None:
        uploads.append(HubUpload(folder=folder.path, **train.hub))
    if train.mirror.url is not None:
        uploads.append(MirrorUpload(folder=folder.path, overwrite=train.overwrite, **train.mirror))
    return tuple(uploads)


def _read_data(cfg: DictConfig, plan: BatchPlan) -> tuple[Any, Any, dict[str, Split]]:
    """The training loader, its data set's metadata, and the splits to evaluate on."""
    loader = build_loader(cfg, plan)
    metadata, splits = dataset_metadata(cfg, "train"), build_splits(cfg)
    check_images(cfg, "train", loader.records if isinstance(loader, TrainLoader) else load_dataset(cfg, "train"))
    check_splits(metadata, splits.values())
    return loader, metadata, splits


def _describe(metadata: Any, splits: dict[str, Split]) -> dict[str, dict[str, Any]]:
    return describe_data({"train": metadata} | {name: split.metadata for name, split in splits.items()})


def build_loader(cfg: DictConfig, plan: BatchPlan) -> Any:
    """The config's training loader for `plan`; on CUDA its batches are pinned."""
    node = copy.deepcopy(cfg.dataloader.train)
    node.total_batch_size = plan.per_forward * plan.world_size
    loader = instantiate_loader(node, "dataloader.train")
    if isinstance(loader, TrainLoader):
        loader.pin_memory = choose_device(cfg.train.device).type == "cuda"
    logger.info(
        "%d images a step: %d processes x %d micro-batches x %d images.",
        plan.total,
        plan.world_size,
        plan.accumulate,
        plan.per_forward,
    )
    return loader


def check_splits(metadata: Any, splits: Iterable[Split]) -> None:
    """Raise UserError unless every split has the classes of the training data, and these know all of them.

    Each split's own ground truth, taken for detections, must be found too.

    Args:
        metadata: of the training data.
        splits: to evaluate on.
    """
    if absent := metadata.get("absent_classes"):
        raise UserError(f"There would be nothing to learn of a class: {absent}.")
    classes = metadata.get("thing_classes")
    for split in splits:
        if None not in (classes, split.classes) and split.classes != list(classes):
            raise UserError(f"The classes of train and {split.name} differ: {classes} and {split.classes}.")
        split.check()


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
