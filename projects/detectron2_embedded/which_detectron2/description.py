"""Which Detectron2 is in use, for logs and records."""

from pathlib import Path
from typing import Literal, NamedTuple

from detectron2_embedded.which_detectron2.installed import why_too_old
from detectron2_embedded.which_detectron2.location import is_embedded, origin, version_of


class Detectron2(NamedTuple):
    """A Detectron2 that `import detectron2` gives.

    Attributes:
        kind: "embedded" or "installed".
        version: of Detectron2; of the embedded one, the version whose interface it has. None where it states none.
        folder: the package's own.
        revision: git revision, with "+changes" where files of the package differ; None where it is not known.
        problem: why it is of no use, as a sentence that says what to do; None where nothing is known against it.
    """

    kind: Literal["embedded", "installed"]
    version: str | None
    folder: Path
    revision: str | None = None
    problem: str | None = None

    @property
    def label(self) -> str:
        """Kind, version and short revision, without a place of this machine: `installed 0.6 (02b5c4e295)`."""
        words = f"{self.kind} {self.version or 'of unknown version'}"
        return words + (f" ({_short(self.revision)})" if self.revision else "")

    def __str__(self) -> str:
        revision = f", revision {_short(self.revision)}" if self.revision else ""
        return f"{self.kind} {self.version or 'of unknown version'} ({self.folder}{revision})"


def describe() -> Detectron2:
    """The Detectron2 in use, found without importing it.

    Raises:
        ModuleNotFoundError: there is none, which `detectron2_embedded.activate` does not leave so.
    """
    folder = origin()
    if folder is None:
        raise ModuleNotFoundError("No module named 'detectron2'", name="detectron2")
    embedded = is_embedded()
    return Detectron2(
        kind="embedded" if embedded else "installed",
        version=version_of(folder),
        folder=folder,
        revision=_revision(folder) or (None if embedded else _revision_that_pip_noted(folder)),
        problem=None if embedded else why_too_old(folder),
    )


def _revision(folder: Path) -> str | None:
    """Revision of the repository that keeps the package's files; one that merely lies above them does not count."""
    import subprocess  # here and below: a tenth of a second that `import detectron2_embedded` does without

    try:
        _git(folder, "ls-files", "--error-unmatch", "__init__.py")
        revision = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".")
    except (OSError, subprocess.CalledProcessError):
        return None
    return revision + ("+changes" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    import subprocess

    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _revision_that_pip_noted(folder: Path) -> str | None:
    """The commit of a `pip install git+https://…`."""
    import importlib.metadata
    import json

    try:
        distribution = importlib.metadata.distribution("detectron2")
    except importlib.metadata.PackageNotFoundError:
        return None
    if Path(str(distribution.locate_file("detectron2"))).resolve() != folder:
        return None
    source = json.loads(distribution.read_text("direct_url.json") or "{}")
    return source.get("vcs_info", {}).get("commit_id")


def _short(revision: str) -> str:
    commit, plus, changes = revision.partition("+")
    return commit[:12] + plus + changes
