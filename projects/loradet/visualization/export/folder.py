"""The layout of an exported split, and how a finished one is told from one that was cut short."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loradet.errors import MissingFileError, UserError
from loradet.evaluation.detections.numbering import FILE as NUMBERING
from loradet.files import read_json, sha256
from loradet.run_folder import RunFolder
from loradet.visualization.export.archive import checksum_file

FORMAT = "loradet export 1"
MANIFEST, METRICS, GROUND_TRUTH = "manifest.json", "metrics.json", "ground_truth.json"
PREDICTIONS = RunFolder.PREDICTIONS
PICTURES, ANALYSIS = "pictures", "analysis"
UNFINISHED = "unfinished"  # there while an export is being written
_READ = {"sha256", "images", "split", "classes", "checkpoint", "image_root", "data_fingerprint"}


@dataclass(frozen=True)
class Export:
    """A finished export: its folder and the content of its manifest."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def synthetic(self) -> bool:
        """Whether its images are."""
        return self.manifest.get("data") == "synthetic"

    @property
    def image_ids(self) -> list[Any]:
        """In the order of the split."""
        return [image["id"] for image in self.manifest["images"]]


def archive_of(folder: Path) -> Path:
    """The zip file of an export, beside its folder."""
    folder = folder.resolve()
    return folder.with_name(folder.name + ".zip")


def start_folder(folder: Path, *, archive: bool = False) -> None:
    """Make a folder ready to be filled: an earlier export in it, finished or not, and its zip file are taken away.

    Args:
        archive: whether a zip file is to be written too.

    Raises:
        ValueError: the folder holds something else, or the zip file that is there is none of an export.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: give a folder to export to.")
    ours = (folder / UNFINISHED).is_file() or _is_manifest(folder / MANIFEST)
    if folder.is_dir() and any(folder.iterdir()) and not ours:
        raise UserError(f"{folder} is neither empty nor an earlier export: give another folder.")
    packed = archive_of(folder)
    sums = checksum_file(packed)
    if archive and packed.exists() and not ours:
        raise UserError(f"{packed} is there already, and is no earlier export's: move it, or give another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / UNFINISHED).touch()
    # The manifest first: from here on the folder is no finished export.
    for name in (MANIFEST, METRICS, GROUND_TRUTH, PREDICTIONS, NUMBERING):
        (folder / name).unlink(missing_ok=True)
        for half_written in folder.glob(f".{name}.*.tmp"):
            half_written.unlink()
    for name in (PICTURES, ANALYSIS):
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
    if ours and sums.is_file():
        packed.unlink(missing_ok=True)
        sums.unlink()


def finish_folder(folder: Path) -> None:
    """To be called once the manifest is there."""
    (folder / UNFINISHED).unlink(missing_ok=True)


def read_export(folder: str | os.PathLike) -> Export:
    """Read an export's manifest and check its data files.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no export, an unfinished one, or one whose files were changed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingFileError(f"No export folder at {folder}. Make it with: loradet visualize --export")
    path = folder / MANIFEST
    if not path.is_file():
        state = "an export that was not finished" if (folder / UNFINISHED).is_file() else "no export"
        raise UserError(f"{folder} is {state}: it has no {MANIFEST}. Make it with: loradet visualize --export")
    if not _is_manifest(path):
        raise UserError(f"{path} is not the manifest of an export ({FORMAT!r} is expected).")
    manifest = read_json(path)
    for name, expected in manifest["sha256"].items():
        if not (folder / name).is_file() or sha256(folder / name) != expected:
            raise UserError(f"{folder / name} is missing or was changed after the export: export again.")
    return Export(folder, manifest)


def _is_manifest(path: Path) -> bool:
    try:
        content = read_json(path)
    except UserError:
        return False
    return content.get("format") == FORMAT and content.keys() >= _READ
