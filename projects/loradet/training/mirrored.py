"""Goes on with a run from its mirror, on a machine that has less of it or nothing."""

import logging
import os
import re
from pathlib import Path

from detectron2.utils import comm

from loradet.errors import UserError
from loradet.files import FileError
from loradet.remote import UnreachableError
from loradet.remote.folder import RemoteFolder
from loradet.run_folder import RunFolder
from loradet.training.hooks.mirror import INDEX, states_in

logger = logging.getLogger(__name__)


def fetch_run(url: str, folder: RunFolder) -> str | None:
    """Fetch the run in a mirror into a folder that has none, or an earlier state of the same one. A collective call.

    The main process fetches: the checkpoint to go on from, the best weights, config, metrics, record and what else is
    there but for older checkpoints. `last_checkpoint` comes last, so that a part of it is no run.

    Args:
        url: of the mirror.
        folder: of the run; its lock is held.

    Returns:
        What was done, for the log; None where the folder is as far as the mirror.

    Raises:
        UserError: the mirror holds another run than the folder, lacks its checkpoint, or cannot be read and the folder
            has nothing to go on from.
    """
    done = problem = None
    if comm.is_main_process():
        try:
            done = _fetch(RemoteFolder(url), folder)
        except UserError as error:
            problem = f"train.mirror.url: {error}"
        except OSError as error:
            problem = f"train.output_dir={folder.path} cannot be written: {error.strerror or error}."
    done, problem = comm.all_gather((done, problem))[0]
    if problem is not None:
        raise UserError(problem)
    return done


def _fetch(mirror: RemoteFolder, folder: RunFolder) -> str | None:
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
        if _iteration(name, record) <= _iteration(own, here):
            return None
    _fetch_files(mirror, folder, name, files)
    return f"Fetched the run at {name} from {mirror.url}."


def _identities(index: dict) -> list[str]:
    found = index.get("config_sha256")
    return found if isinstance(found, list) else []


def _iteration(checkpoint: str, record: dict) -> int:
    """Of a checkpoint; the name of the last one of a run does not say."""
    found = re.fullmatch(r"model_(\d+)\.pth", checkpoint)
    return int(found[1]) if found else int(record.get("iteration") or 0)


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
