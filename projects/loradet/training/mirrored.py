"""Goes on with a run from its mirror, on a machine that has less of it or nothing."""

import copy
import logging
import os
import tempfile
from pathlib import Path

from detectron2.utils import comm
from omegaconf import DictConfig

from loradet.errors import UserError
from loradet.files import FileError
from loradet.remote import UnreachableError
from loradet.remote.folder import RemoteFolder
from loradet.run_folder import RunFolder
from loradet.training.folder.record import config_hash, read_config, run_identity
from loradet.training.hooks.mirror import INDEX, iteration_of, states_in

logger = logging.getLogger(__name__)


def fetch_run(cfg: DictConfig, folder: RunFolder) -> str | None:
    """Fetch the run in a mirror into a folder that has none, or an earlier state of the same one. A collective call.

    The main process fetches: the checkpoint to go on from, the best weights, config, metrics, record and what else is
    there but for older checkpoints. `last_checkpoint` comes last, so that a part of it is no run.

    Args:
        cfg: of this run; names the mirror.
        folder: of the run; its lock is held.

    Returns:
        What was done, for the log; None where the folder is as far as the mirror.

    Raises:
        UserError: the mirror holds another run than the folder (than the config, where the folder has none), lacks its
            checkpoint, or cannot be read and the folder has nothing to go on from.
    """
    done = problem = None
    if comm.is_main_process():
        try:
            done = _fetch(RemoteFolder(cfg.train.mirror.url), folder, cfg)
        except UserError as error:
            problem = f"train.mirror.url: {error}"
        except OSError as error:
            problem = f"train.output_dir={folder.path} cannot be written: {error.strerror or error}."
    done, problem = comm.all_gather((done, problem))[0]
    if problem is not None:
        raise UserError(problem)
    return done


def _fetch(mirror: RemoteFolder, folder: RunFolder, cfg: DictConfig) -> str | None:
    own = folder.last_checkpoint()
    if own is not None and not (folder.path / own).is_file():
        own = None
    try:
        last = mirror.read(RunFolder.LAST)
        record, index = mirror.read_json(RunFolder.RECORD) or {}, mirror.read_json(INDEX) or {}
    except UnreachableError as error:
        if own is None:
            raise
        logger.warning("%s The run goes on from %s.", error, folder.path)
        return None
    if last is None:
        return None
    name = last.decode(errors="replace").strip()
    files = states_in(index)
    if name not in files or not name.endswith(".pth"):
        raise FileError(f"{mirror.url}/{RunFolder.LAST} holds {name[:40]!r}, no checkpoint that the mirror lists.")
    if own is not None:
        here = folder.read_record()
        if here.get("config_sha256") not in (None, record.get("config_sha256"), *_identities(index)):
            raise UserError(f"{mirror.url} holds another run than {folder.path}; choose another place for one of them.")
        if iteration_of(name, record) <= iteration_of(own, here):
            return None
    elif not _is_run_of(cfg, mirror, {record.get("config_sha256"), *_identities(index)}):
        raise UserError(f"{mirror.url} holds another run; choose another place, or go on with its config.")
    _fetch_files(mirror, folder, name, files)
    return f"Fetched the run at {name} from {mirror.url}."


def _is_run_of(cfg: DictConfig, mirror: RemoteFolder, identities: set[str | None]) -> bool:
    """Whether a config is that of the mirrored run: the same but for how long it trains and which checkpoints it keeps.

    Args:
        identities: config hashes that the run has or had.
    """
    cfg = copy.deepcopy(cfg)
    with tempfile.TemporaryDirectory() as name:
        held = RunFolder(name)
        if not mirror.fetch(RunFolder.RECORD, held.record):
            return False
        if cfg.train.seed < 0:
            cfg.train.seed = held.read_record().get("seed", cfg.train.seed)
        has_config = mirror.fetch(RunFolder.CONFIG, held.config)
        if run_identity(cfg, held.path) in identities:
            return True
        if not has_config:
            return False
        saved = read_config(held.path)
    for key in _MAY_DIFFER:
        if key in cfg.train and key in saved.train:
            cfg.train[key] = saved.train[key]
    return config_hash(cfg) in {*identities, config_hash(saved)}


# Of `train`: a run that is on its way is lengthened by them.
_MAY_DIFFER = ("max_iter", "checkpointer")


def _identities(index: dict) -> list[str]:
    found = index.get("config_sha256")
    return found if isinstance(found, list) else []


def _fetch_files(mirror: RemoteFolder, folder: RunFolder, last: str, files: dict[str, tuple[int, int] | None]) -> None:
    others = [name for name in files if Path(name).match(RunFolder.CHECKPOINTS) and name not in (last, RunFolder.BEST)]
    wanted = [name for name in files if name not in (last, RunFolder.LAST, *others)]
    folder.path.mkdir(parents=True, exist_ok=True)
    for name in (last, *wanted, RunFolder.LAST):
        file = folder.path / name
        if name == RunFolder.LOG and file.is_file():
            file.write_bytes(mirror.read(name) or b"")  # in place: an earlier run of this process has it open
            continue
        found = mirror.fetch(name, file)
        if not found and name == last:
            raise FileError(f"{mirror.url} lacks the checkpoint {last} that its {RunFolder.LAST} names.")
        if found and (there := files.get(name)) is not None:
            os.utime(file, ns=(there[1], there[1]))  # as it was sent, so that it is not sent again
