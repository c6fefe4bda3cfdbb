"""Train what a config says: prepare, assemble, carry out."""

import contextlib
import logging
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.utils import comm
from omegaconf import DictConfig

from loradet.adapters import parameter_table
from loradet.checkpoint import Checkpointer
from loradet.errors import one_line
from loradet.event_storage import DeferredStorage
from loradet.run_folder import RunFolder
from loradet.training.assemble import Assembled, assemble
from loradet.training.compiling import compile_errors, not_compiled
from loradet.training.finish import finish_run
from loradet.training.folder.folder_lock import FolderLock
from loradet.training.folder.record import RunRecord
from loradet.training.hooks.trackers import flat_config
from loradet.training.prepare import prepare
from loradet.training.trainer import Trainer

logger = logging.getLogger(__name__)


def train(cfg: DictConfig, *, resume: bool = False, hooks: Sequence[HookBase] = ()) -> signal.Signals | None:
    """Run (or go on with) the training that `cfg` describes, then evaluate its best weights.

    Leaves the files of one run in `cfg.train.output_dir`.

    Args:
        cfg: complete (see `complete_train_settings`); made consistent in place.
        resume: go on from the folder's last checkpoint, or start where there is none.
        hooks: more of them, of every process; each has its turn at its `stage`.

    Returns:
        The signal that has interrupted it, once all is saved; None where it is finished.

    Raises:
        FileNotFoundError: a file of weights is not there.
        FolderInUseError: another training writes into the folder.
        UserError: the config, the data or a checkpoint do not fit together.
        NonFiniteLossError: a loss became NaN or infinite.
    """
    with FolderLock(cfg.train.output_dir) as lock:
        prepared = prepare(cfg, resume=resume, lock=lock)
        if prepared is None:
            return None
        with _failure_in_log():
            return carry_out(assemble(prepared, hooks))


@contextlib.contextmanager
def _failure_in_log() -> Iterator[None]:
    """Log what ends the block; the log is open by now."""
    try:
        yield
    except KeyboardInterrupt:
        logger.warning("The run was ended at once by a signal; its last checkpoint counts.")
        raise
    except Exception as error:
        logger.error("The run has failed: %s: %s", type(error).__name__, one_line(error))
        raise


def carry_out(run: Assembled) -> signal.Signals | None:
    """Train, evaluate and finish; log, record, tracking services and uploads get how it ended.

    Returns:
        As `train`.
    """
    prepared, record = run.prepared, run.record
    uploads = prepared.uploads
    _begin_record(run)
    logger.info("Starting at iteration %d of %d.", run.start_iter, prepared.schedule.max_iter)
    try:
        _train(run)
        logger.info("Training ends after iteration %d: %s.", run.trainer.iter, _why_it_ends(run))
        if (stop := run.trainer.stop_signal) is not None and run.trainer.stop_reason == "interrupted":
            record.update(status="interrupted", iteration=run.trainer.iter, stopped_by=stop.name)
            return stop
        with not_compiled(prepared.cfg):
            finish_run(run)
        logger.info("The run in %s is finished.", prepared.folder.path)
    except KeyboardInterrupt:
        _note_end(record, status="interrupted")
        uploads = ()  # who asks twice wants the end at once
        raise
    except BaseException as error:
        _note_end(record, status="failed", error=f"{type(error).__name__}: {error}")
        raise
    finally:
        if run.features is not None:
            run.features.close()
        for writer in prepared.trackers:
            writer.finish(record.values["status"], record.values.get("error"))
        for upload in uploads if comm.is_main_process() else ():
            upload.finish(record.values["status"])
    return None


def _note_end(record: RunRecord, **values: str) -> None:
    """Update the record of a run that an error ends; where it cannot be written either, the error is what counts."""
    try:
        record.update(**values)
    except OSError as error:
        logger.warning("run.json does not say how the run has ended: %s", error)


def _why_it_ends(run: Assembled) -> str:
    trainer, max_iter = run.trainer, run.prepared.schedule.max_iter
    if trainer.stop_reason == "interrupted":
        return f"interrupted by {trainer.stop_signal.name}, and saved"
    return trainer.stop_reason or f"all {max_iter} iterations (train.max_iter) are done"


def _begin_record(run: Assembled) -> None:
    prepared = run.prepared
    # Not lost where this part reports nowhere: a later one goes on with the same runs there.
    carried = {"run_ids": run.past_ids} if run.past_ids else {}
    run.record.start(
        prepared.cfg,
        prepared.device,
        config_sha256=prepared.identity,
        data=prepared.data,
        iterations_per_epoch=prepared.schedule.iterations_per_epoch,
        resumed_at=run.start_iter or None,
        parameters=parameter_table(run.trainer.module).to_dict(),
        **carried,
    )


def _train(run: Assembled) -> None:
    """The iterations that are left, reported to every tracking service."""
    max_iter = run.prepared.schedule.max_iter
    if comm.is_main_process() and run.prepared.trackers:
        run.record.update(run_ids=run.past_ids | _open_trackers(run))
    if max_iter == 0:
        _save_untrained(run.trainer, run.checkpointer)
    elif run.start_iter < max_iter:
        with compile_errors(run.prepared.cfg):
            run.trainer.train(run.start_iter, max_iter)


def _open_trackers(run: Assembled) -> dict[str, str | None]:
    """Open the run in every tracking service; returns what tells it from others there."""
    prepared = run.prepared
    config = flat_config(prepared.cfg)
    for writer in prepared.trackers:
        writer.start(config, prepared.folder.path, start_iter=run.start_iter, past=run.past_ids)
    return {key: value for writer in prepared.trackers for key, value in writer.identity.items()}


def _save_untrained(trainer: Trainer, checkpointer: Checkpointer) -> None:
    """The checkpoint of a run of no iteration, which shows that all but training works; -1 says that none was run."""
    logger.warning("train.max_iter is 0: nothing trains, the first weights are saved and evaluated.")
    trainer.iter = -1
    with DeferredStorage(0) as trainer.storage:
        checkpointer.save(Path(RunFolder.FINAL).stem, iteration=-1)
