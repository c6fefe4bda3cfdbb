"""Keeps a copy of a run's folder in a store (`s3://…`) while it trains, from which another machine goes on."""

import hashlib
import json
import logging
import os
import re
import socket
import uuid
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from loradet.errors import UserError
from loradet.remote import UnreachableError
from loradet.remote.folder import RemoteFolder
from loradet.run_folder import RunFolder
from loradet.training.hooks.upload import LARGE, SMALL, OtherRunError, RunUpload, matching, state

logger = logging.getLogger(__name__)

# What was sent, by whom and as which configs: the only objects that a run may delete there, and all that it asks for.
INDEX = ".mirror.json"
PREDICTIONS = "predictions/*/*"


class MirrorUpload(RunUpload):
    """Keeps the objects under a URL equal to the run's folder, in a thread beside training.

    `last_checkpoint` is written last, once the checkpoint that it names is there in its whole size: whatever an upload
    comes to, what is there is a run to go on with. Only then are checkpoints deleted that training no longer keeps.

    A mirror has one run, and one training that writes: another one that goes on with the run takes it over, and the
    former one, should it live still, leaves it alone from then on. One that could not ask when it began, and finds that
    the run there was further by then, leaves it alone too.

    Args:
        url: of the folder there.
        folder: of the run.
        overwrite: let a run that begins anew replace the same one there.

    Raises:
        UserError: nothing can be written to such a URL, or the package for it is missing.
    """

    large = (*LARGE, PREDICTIONS)
    small = (*SMALL, RunFolder.LOG, f"{RunFolder.LOG}.*", RunFolder.EVENTS)

    def __init__(self, *, url: str, folder: Path, overwrite: bool = False):
        super().__init__(folder)
        self._there = RemoteFolder(url)
        self._overwrite = overwrite
        self._resumes = False
        self._is_open = False
        self._begins_from = -1  # iteration of the checkpoint that this training goes on from
        self._refusal: OtherRunError | None = None
        self._writer = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}"
        self._digests: dict[str, str] = {}  # of small files, as they were sent
        self._here: set[str] = set()  # what the folder had, and training kept, when the upload began

    def create(self, config_sha256: str, *, resume: bool) -> None:
        """Look whose the mirror is, and leave a first object there, before anything trains.

        A server that does not answer is a warning where a run goes on from its folder, and every upload tries again.

        Raises:
            UserError: another run is there, or this one, and neither `resume` nor `overwrite`; or no right to write.
        """
        self._remember(config_sha256, resume)
        self._resumes = resume
        run = RunFolder(self.folder)
        if resume and (last := run.last_checkpoint()) is not None:
            self._begins_from = iteration_of(last, run.read_record())
        try:
            self._open()
        except OtherRunError:
            raise
        except UnreachableError as error:
            if not resume:
                raise UserError(f"train.mirror.url: {error}") from error
            logger.warning("%s It is asked again at the next checkpoint.", error)
        except UserError as error:
            raise UserError(f"train.mirror.url: {error}") from error

    def _open(self) -> None:
        """Make it this training's; OtherRunError where it must not be."""
        if self._refusal is not None:
            raise self._refusal
        index = self._there.read_json(INDEX) or {}
        if self._is_open:
            if index.get("writer") != self._writer:
                raise OtherRunError(
                    f"train.mirror.url={self.url}: another training ({_host(index)}) goes on with this run and writes "
                    "there since; this one leaves it alone."
                )
            return
        past = self._there.read_json(RunFolder.RECORD)
        if past is not None and past.get("config_sha256") not in self._identities:
            raise OtherRunError(
                f"train.mirror.url={self.url}: its {RunFolder.RECORD} is of another run (config_sha256 "
                f"{str(past.get('config_sha256'))[:12]}, not {self._identities[-1][:12]}), whose files would be "
                "replaced. Choose another place, or delete what is there."
            )
        last = self._there.read(RunFolder.LAST)
        holds_run = last is not None
        if last is not None and self._resumes:
            self._check_not_behind(iteration_of(last.decode(errors="replace").strip(), past or {}), index)
        if holds_run and not self._resumes and not self._overwrite:
            raise OtherRunError(
                f"train.mirror.url={self.url} holds this run already. Go on with it by --resume, also on a machine "
                "that has nothing of it, choose another place, or start afresh in its place with train.overwrite=True."
            )
        replaces = holds_run and not self._resumes
        if not replaces:
            self._states = {name: there for name, there in states_in(index).items() if there is not None}
        self._write_index({*states_in(index)})
        if replaces:  # nobody goes on with the former run, whenever this one ends
            self._there.remove(RunFolder.LAST)
        self._is_open = True

    def _check_not_behind(self, there: int, index: dict[str, Any]) -> None:
        """Refuse, for good, to replace what another training has added since the checkpoint this one begins from."""
        if there <= self._begins_from:
            return
        self._refusal = OtherRunError(
            f"train.mirror.url={self.url}: the run there is at iteration {there} (by {_host(index)}), this training "
            f"goes on from iteration {self._begins_from} and leaves it alone. Stop it, and --resume from there."
        )
        raise self._refusal

    @property
    def url(self) -> str:
        """The folder there."""
        return self._there.url

    @property
    def by_hand(self) -> str:
        """What to do."""
        if isinstance(self._failure, OtherRunError):
            return " hand to a place of their own."
        return f" hand, {RunFolder.LAST} last."

    @property
    def _snapshot(self) -> Path:
        return self.folder / ".mirror"

    def _changes(self) -> dict[str, bytes | Path]:
        self._here = {*matching(self.folder, (*self.large, *self.small)), *self.kept()}
        return super()._changes()

    def _commit(self, changes: dict[str, bytes | Path], message: str) -> None:
        with self._tolerated():
            self._open()
            digests = {name: _digest(held) for name, held in changes.items() if isinstance(held, bytes)}
            changes = {name: held for name, held in changes.items() if digests.get(name, "") != self._digests.get(name)}
            if changes.keys() - self._sent:
                self._write_index(self._sent | changes.keys())
            last = changes.pop(RunFolder.LAST, None)
            # The record, which may say that all is done, when all else is there.
            for name in sorted(changes, key=lambda name: name == RunFolder.RECORD):
                self._send(name, changes[name], digests)
            if isinstance(last, bytes):
                self._check_complete(last.decode().strip())
                self._send(RunFolder.LAST, last, digests)
            self._remove_gone()
            self._write_index(self._sent)
            self._failure = None
            logger.info("Uploaded to %s: %s.", self.url, message)

    def _send(self, name: str, held: bytes | Path, digests: dict[str, str]) -> None:
        self._there.put(name, held)
        if isinstance(held, bytes):
            self._digests[name] = digests[name]
        else:
            self._states[name] = state(held)

    def _check_complete(self, name: str) -> None:
        """Refuse to name a checkpoint that is not there as it was sent."""
        (expected, _), size = self._states.get(name, (None, None)), self._there.size(name)
        if size is None or size != expected:
            self._states.pop(name, None)  # it is sent again
            raise UserError(f"{self.url}/{name} has {size or 'no'} bytes, not the {expected or '?'} that it is of.")

    def _remove_gone(self) -> None:
        """Delete what this run has sent, and neither has nor keeps."""
        for name in sorted(self._sent - self._here):
            self._there.remove(name)
            self._sent.discard(name)
            self._states.pop(name, None)
            self._digests.pop(name, None)

    def _write_index(self, names: set[str]) -> None:
        files = {name: self._states.get(name) for name in sorted(names)}
        index = {"writer": self._writer, "config_sha256": self._identities, "files": files}
        self._there.put(INDEX, json.dumps(index, indent=2).encode())
        self._sent = names


def states_in(index: dict[str, Any]) -> dict[str, tuple[int, int] | None]:
    """The files that a mirror's index names: size and time of change of a large one, as they were sent.

    Names that no run has, which anybody may have written, are left out.
    """
    files = index.get("files")
    found: dict[str, tuple[int, int] | None] = {}
    for name, there in files.items() if isinstance(files, dict) else ():
        patterns = (*MirrorUpload.large, *MirrorUpload.small)
        if ".." not in Path(name).parts and any(fnmatch(name, pattern) for pattern in patterns):
            is_state = isinstance(there, list) and len(there) == 2 and all(type(one) is int for one in there)
            found[name] = (there[0], there[1]) if is_state else None
    return found


def iteration_of(checkpoint: str, record: dict[str, Any]) -> int:
    """Of a checkpoint; the name of the last one of a run does not say, its record does."""
    found = re.fullmatch(r"model_(\d+)\.pth", checkpoint)
    return int(found[1]) if found else int(record.get("iteration") or 0)


def _host(index: dict[str, Any]) -> str:
    return str(index.get("writer")).rpartition(":")[0] or "?"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
