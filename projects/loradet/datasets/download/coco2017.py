"""COCO 2017 from the network into the layout that Detectron2 expects."""

import fcntl
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loradet.datasets.download.archives import check_archive, extract, missing_members
from loradet.datasets.download.http import download
from loradet.datasets.files import PathLike, expand, read_coco
from loradet.errors import UserError
from loradet.files import atomic_open, sha256

BASE_URL = "http://images.cocodataset.org"
SPLITS = ("train", "val")
# Bytes of the archives at BASE_URL.
SIZES = {
    "annotations_trainval2017.zip": 252_907_541,
    "train2017.zip": 19_336_861_798,
    "val2017.zip": 815_585_330,
}


class ChecksumError(UserError):
    """A file is not the one whose sum was written down; the message has both sums."""


@dataclass(frozen=True)
class _Archive:
    place: str  # below the base URL
    folder: str  # at its top, and below the root
    needed: tuple[str, ...] = ()  # files that it must hold

    @property
    def name(self) -> str:
        return self.place.rpartition("/")[2]


class Manifest:
    """`checksums.sha256` in the format of sha256sum: a line is written once and compared ever after."""

    def __init__(self, file: Path) -> None:
        """Raises ValueError where a line of an existing file is no sum, or a file has two of them."""
        self.file = file
        self._sums: dict[str, str] = {}
        self._given: dict[str, str] = {}
        self._lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        for number, line in enumerate(self._lines, 1):
            match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line)
            if not match:
                raise ValueError(f"{file}, line {number}: expected a sha256 sum, two spaces and a file, got {line!r}.")
            if self._sums.setdefault(match[2], match[1].lower()) != match[1].lower():
                raise ValueError(f"{file}, line {number}: another sum for {match[2]} than above.")

    def __contains__(self, name: str) -> bool:
        return name in self._sums

    def expect(self, sums: Mapping[str, str]) -> None:
        """Compare with sums that were given, too; ChecksumError where another one is written down."""
        for name, given in sums.items():
            if self._sums.get(name, given) != given:
                raise ChecksumError(
                    f"{name}: sha256 {given} was given, {self.file} has {self._sums[name]}. Nothing was "
                    "changed; delete the line there, and the file, if the sum that was given is the right one."
                )
        self._given = dict(sums)

    def compare(self, name: str, found: str, advice: str) -> None:
        """Raise ChecksumError where the file's sum is another than the one written down, or given."""
        for expected, source in ((self._sums.get(name), self.file), (self._given.get(name), "given")):
            if expected not in (None, found):
                raise ChecksumError(f"{name}: sha256 expected {expected} ({source}), found {found}. {advice}")

    def add(self, name: str, found: str) -> None:
        """Write the sum of a file that has none yet."""
        if name not in self._sums:
            self._sums[name] = found
            self._lines.append(f"{found}  {name}")
            with atomic_open(self.file) as file:
                file.write("\n".join(self._lines) + "\n")


def default_root() -> Path:
    """`$DETECTRON2_DATASETS/coco`, else `datasets/coco`."""
    return expand(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "coco"


def coco2017(
    root: PathLike,
    *,
    splits: Sequence[str] = SPLITS,
    url: str = BASE_URL,
    sizes: Mapping[str, int] | None = None,
    sums: Mapping[str, str] | None = None,
    remove_archives: bool = False,
    retries: int = 5,
    backoff: float = 1.0,
    timeout: float = 30.0,
    progress: bool = False,
) -> dict[str, str]:
    """Download and unpack COCO 2017; what is there is left alone, what was interrupted is continued.

    An archive takes its name only when it is whole: its length is the server's, every member's CRC is right, and its
    sha256 is the one in `root/checksums.sha256`. Where that file has no line for it yet, one is written.

    Args:
        root: folder to fill; made if missing. Result: `annotations/instances_{train,val}2017.json` and
            `{train,val}2017/`.
        splits: of "train", "val".
        url: where `zips/` and `annotations/` are.
        sizes: bytes by archive name. Default: COCO's own at COCO's own address, none elsewhere.
        sums: sha256 by archive name, known from elsewhere: what differs is refused.
        remove_archives: delete an archive once it is unpacked.
        retries, backoff, timeout: as in `download`.
        progress: say what is done, with bars, on stderr.

    Returns:
        Values of config keys: `data.train_json`, `data.train_images` and so on.

    Raises:
        DownloadError: as `download`.
        ChecksumError: an archive differs from its sum; one that was there before is not touched.
        ValueError: a wrong or unsafe archive, or an unpacked folder that is not complete.
        BlockingIOError: another process is filling the same root.
        OSError: too little room on the disk.
    """
    unknown = sorted(set(splits) - set(SPLITS))
    if unknown or not splits:
        raise ValueError(f"splits: expected some of {', '.join(SPLITS)}, got {', '.join(unknown) or 'none'}.")
    root = expand(root)
    root.mkdir(parents=True, exist_ok=True)
    if sizes is None:
        sizes = SIZES if url.rstrip("/").replace("https:", "http:", 1) == BASE_URL else {}
    files = tuple(f"annotations/instances_{split}2017.json" for split in dict.fromkeys(splits))
    archives = [_Archive("annotations/annotations_trainval2017.zip", "annotations", files)]
    archives += [_Archive(f"zips/{split}2017.zip", f"{split}2017") for split in dict.fromkeys(splits)]
    sums = _checked_sums(sums or {}, [archive.name for archive in archives])
    options = dict(retries=retries, backoff=backoff, timeout=timeout, progress=progress)
    with _alone(root):
        manifest = Manifest(root / "checksums.sha256")
        manifest.expect(sums)
        for archive in archives:
            if not (root / archive.name).exists():
                if _unpacked_before(archive, root):
                    _say(f"{root / archive.folder} is complete.", progress)
                    continue
                _get(archive, root, manifest, f"{url.rstrip('/')}/{archive.place}", sizes.get(archive.name), options)
            else:
                _check_old(archive, root, manifest, sizes.get(archive.name), progress)
            _unpack(archive, root, progress)
            if remove_archives:
                (root / archive.name).unlink()
    keys: dict[str, str] = {}
    for split in dict.fromkeys(splits):
        keys[f"data.{split}_json"] = str(root / "annotations" / f"instances_{split}2017.json")
        keys[f"data.{split}_images"] = str(root / f"{split}2017")
    return keys


def _checked_sums(sums: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    for name, given in sums.items():
        if name not in names:
            raise UserError(f"A sha256 of {name} was given; the files to download are {', '.join(names)}.")
        if not re.fullmatch(r"[0-9a-fA-F]{64}", given):
            raise UserError(f"The sha256 of {name}, {given!r}: expected 64 hexadecimal digits.")
    return {name: given.lower() for name, given in sums.items()}


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the folder's lock, which ends with the process."""
    handle = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(f"Another process is filling {root}; wait for its end.") from error
        yield
    finally:
        os.close(handle)


def _get(
    archive: _Archive, root: Path, manifest: Manifest, url: str, size: int | None, options: dict[str, object]
) -> None:
    progress, found = bool(options["progress"]), ""

    def check(path: Path) -> None:
        nonlocal found
        found = _sha256(path, archive.name, progress)
        manifest.compare(archive.name, found, f"{path.stat().st_size:,} bytes came from {url}; none was kept.")
        if archive.name not in manifest:
            try:
                check_archive(path, archive.folder, needed=archive.needed, progress=progress)
            except ValueError as error:
                raise ValueError(f"{url}: {error} Nothing of it was kept.") from error

    _say(f"Downloading {url}", progress)
    download(url, root / archive.name, size=size, check=check, **options)
    manifest.add(archive.name, found)


def _check_old(archive: _Archive, root: Path, manifest: Manifest, size: int | None, progress: bool) -> None:
    """Check an archive that an earlier call, or the user, put there."""
    path = root / archive.name
    advice = f"Nothing was changed. Delete {path} to have it downloaded again"
    if size not in (None, path.stat().st_size):
        raise ValueError(f"{path}: expected {size:,} bytes, found {path.stat().st_size:,}. {advice}.")
    found = _sha256(path, archive.name, progress)
    manifest.compare(archive.name, found, f"{advice}, or its line there if the file is the right one.")
    if archive.name not in manifest:
        check_archive(path, archive.folder, needed=archive.needed, progress=progress)
        manifest.add(archive.name, found)


def _unpacked_before(archive: _Archive, root: Path) -> bool:
    """Whether the folder is complete as far as that shows without its archive: by the files that are needed, and for
    images by the annotation file.

    Raises:
        ValueError: the folder is there, but not complete.
    """
    folder = root / archive.folder
    if not folder.exists():
        return False
    missing = [name for name in archive.needed if not (root / name).is_file()]
    if not archive.needed:
        there = {path.name for path in folder.iterdir()}
        content = read_coco(root / "annotations" / f"instances_{archive.folder}.json")
        missing = [str(image.get("file_name")) for image in content["images"] if image.get("file_name") not in there]
    _refuse_incomplete(folder, missing)
    return True


def _unpack(archive: _Archive, root: Path, progress: bool) -> None:
    folder = root / archive.folder
    if folder.exists():
        _refuse_incomplete(folder, missing_members(root / archive.name, root, archive.folder))
        _say(f"{folder} is complete.", progress)
    else:
        extract(root / archive.name, root, archive.folder, progress=progress)


def _refuse_incomplete(folder: Path, missing: list[str]) -> None:
    if missing:
        raise ValueError(
            f"{folder} is there, but {len(missing):,} of its files are missing or of another size, as {missing[0]}. "
            "Nothing was changed. Move the folder away to have it unpacked again."
        )


def _sha256(path: Path, name: str, progress: bool) -> str:
    from tqdm import tqdm

    rare = 0.2 if sys.stderr.isatty() else 30.0
    options = dict(total=path.stat().st_size, unit="B", unit_scale=True, mininterval=rare, disable=not progress)
    with tqdm(desc=f"sha256 of {name}", **options) as bar:
        return sha256(path, bar.update)


def _say(text: str, progress: bool) -> None:
    if progress:
        print(text, file=sys.stderr, flush=True)
