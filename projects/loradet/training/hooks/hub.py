"""Uploads a run's checkpoints and metrics to a Hugging Face Hub repository while it trains."""

import logging
import tempfile
from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from loradet.errors import UserError, one_line
from loradet.files import FileError, read_json, write_json
from loradet.remote import UnreachableError
from loradet.remote.hub_errors import check_may_write, explained
from loradet.run_folder import RunFolder
from loradet.training.hooks.upload import OtherRunError, RunUpload, matching, state

logger = logging.getLogger(__name__)

# What this run has sent, and as which configs: the only files that it may delete, also after a resume or a download.
SENT = ".hub_sent.json"


class HubUpload(RunUpload):
    """Keeps a Hub repository equal to the run's folder, in a thread beside training.

    Each upload is one commit of all that has changed: checkpoints, config, metrics, record; a checkpoint that this run
    sent and that is gone from the folder leaves the repository's main branch too. A repository holds one run: one whose
    `run.json` has another config's hash is left alone.

    Args:
        repo_id: "user/name" or "organization/name".
        folder: of the run.
        private: whether a repository that is made is private.

    Raises:
        ValueError: no such name is possible, there is no token, or the Hub is switched off.
    """

    def __init__(self, *, repo_id: str, folder: Path, private: bool = True):
        super().__init__(folder)
        self.repo_id = repo_id
        self.private = private
        if repo_id.count("/") != 1:
            raise UserError(f'train.hub.repo_id={repo_id!r}: expected "user/name" or "organization/name".')
        huggingface_hub.utils.validate_repo_id(repo_id)
        check_may_write(self._key)
        self._api = HfApi()
        self._exists = False

    def create(self, config_sha256: str, *, resume: bool) -> None:
        """Make the repository where there is none, and look whose it is; before this run's `run.json` is written.

        A Hub that cannot be reached now is a warning: every upload tries again.

        Args:
            config_sha256: of this run, as in its record.
            resume: the folder's run goes on, with all that it has sent.

        Raises:
            ValueError: the repository holds another run, or the Hub refuses: a wrong token, another one's name.
        """
        huggingface_hub.utils.disable_progress_bars()
        self._remember(config_sha256, resume)
        try:
            with explained(self._key):
                self._open()
        except UnreachableError as error:
            logger.warning("%s The repository is not made yet.", one_line(error))
        if not resume:
            (self.folder / SENT).unlink(missing_ok=True)

    def _remember(self, config_sha256: str, resume: bool, earlier: Collection[str] = ()) -> None:
        sent = _read_sent(self.folder / SENT) if resume else {}
        if sent.get("repo_id") != self.repo_id:
            sent = {}
        self._sent = {name for name in sent.get("files", ()) if fnmatch(name, self.large[0]) and "/" not in name}
        super()._remember(config_sha256, resume, [*sent.get("config_sha256", ()), *earlier])

    def _open(self) -> list[str]:
        """The names in the repository, which is made where there is none; OtherRunError where it is not this run's."""
        if not self._exists:
            self._api.create_repo(self.repo_id, private=self.private, exist_ok=True)
            self._exists = True
        names = self._api.list_repo_files(self.repo_id)
        if RunFolder.RECORD in names:
            with tempfile.TemporaryDirectory() as folder:
                self._api.hf_hub_download(self.repo_id, RunFolder.RECORD, local_dir=folder)
                identity = _identity(Path(folder) / RunFolder.RECORD)
            if identity not in self._identities:
                raise OtherRunError(
                    f"{self._key}: its {RunFolder.RECORD} is of another run (config_sha256 "
                    f"{str(identity)[:12]}, not {self._identities[-1][:12]}), whose files would be replaced. Choose "
                    f"another name, or delete what is at {self.url}."
                )
        return names

    @property
    def _key(self) -> str:
        return f"train.hub.repo_id={self.repo_id!r}"

    @property
    def url(self) -> str:
        """Page of the repository."""
        return f"{self._api.endpoint}/{self.repo_id}"

    @property
    def by_hand(self) -> str:
        """The command for it."""
        repo_id = "USER/NAME" if isinstance(self._failure, OtherRunError) else self.repo_id
        patterns = " ".join(f"--include '{pattern}'" for pattern in (*self.large, *self.small))
        return f": hf upload {repo_id} {self.folder} . {patterns}"

    @property
    def _snapshot(self) -> Path:
        return self.folder / ".hub"

    def _commit(self, changes: dict[str, bytes | Path], message: str) -> None:
        with self._tolerated(), explained(self._key):
            there = self._open()
            present = matching(self.folder, self.large).keys() | changes.keys()
            gone = [CommitOperationDelete(name) for name in there if name in self._sent - present]
            changes[SENT] = self._note_sent(there, changes)
            # Each of these reads its file to the end, for its hash: nothing for the thread that trains.
            additions = [CommitOperationAdd(name, content) for name, content in changes.items()]
            self._api.create_commit(self.repo_id, [*additions, *gone], commit_message=message)
            self._failure = None
            self._states.update({name: state(held) for name, held in changes.items() if isinstance(held, Path)})
            logger.info("Uploaded to %s: %s.", self.url, message)

    def _note_sent(self, there: list[str], changes: dict[str, bytes | Path]) -> bytes:
        """Write down, before they go, what this run has in the repository; returns the file's content."""
        self._sent = (self._sent & set(there)) | {name for name in changes if fnmatch(name, self.large[0])}
        sent = {"repo_id": self.repo_id, "config_sha256": self._identities, "files": sorted(self._sent)}
        write_json(self.folder / SENT, sent)
        return (self.folder / SENT).read_bytes()


def _read_sent(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    return read_json(path, advice="Delete it, and the Hub's old checkpoints stay where they are.")


def _identity(file: Path) -> str | None:
    """The config's hash in a record that anybody may have written."""
    try:
        return read_json(file).get("config_sha256")
    except FileError:
        return None
