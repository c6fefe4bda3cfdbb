"""Properties of image files: size, depth, whether there is anything to see, and which are duplicates."""

import hashlib
import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from loradet.datasets.images.decoding import decode
from loradet.datasets.images.header import parse_header

_THREADS = 4
_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Picture:
    """A file that can be read.

    Attributes:
        size: (width, height) in pixels, upright.
        bits: of a channel, as they are in the file.
        blank: all its pixels have one value.
        of_file: hash of the file's bytes.
        of_pixels: hash of what is decoded, of a JPEG at an eighth of its size: equal pictures have the same.
    """

    size: tuple[int, int]
    bits: int = 8
    blank: bool = False
    of_file: bytes = b""
    of_pixels: bytes = b""


PictureState = Picture | str  # or why there is none: "missing", or "cannot be read: …"


def read_pictures(root: Path, names: Sequence[str | None], *, progress: bool = False) -> list[PictureState]:
    """The pictures of a folder, each decoded; "missing" for those without a name.

    Args:
        root: that the names are relative to.
        names: of files.
        progress: show a bar on a terminal.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        found: Iterable[PictureState] = pool.map(lambda name: _read(root / name) if name else "missing", names)
        if progress:
            from tqdm import tqdm

            found = tqdm(found, total=len(names), unit="image", disable=None)
        return list(found)


def are_same(first: tuple[Path, Picture], second: tuple[Path, Picture]) -> bool:
    """Whether two files show the same, by their bytes, else by all their pixels."""
    (path, picture), (other_path, other) = first, second
    if picture.of_pixels != other.of_pixels:
        return False
    if picture.of_file == other.of_file:
        return True
    pixels = _all_pixels(path)
    return pixels is not None and pixels == _all_pixels(other_path)


def _read(path: Path) -> PictureState:
    try:
        if not path.is_file():
            return "missing"
    except (OSError, ValueError):  # a name that no file can have
        return "missing"
    try:
        data = path.read_bytes()
        header, image = parse_header(io.BytesIO(data))
        size, bits = (header.width, header.height), header.samples.bits
        if header.samples.is_deep:
            values, _ = decode(io.BytesIO(data))
            return Picture(size, bits, bool((values == values.flat[0]).all()), _hash(data), _hash(*_values(values)))
        with image or Image.open(io.BytesIO(data)) as image:
            image.draft(None, (image.width // 8, image.height // 8))  # JPEG: all data are read, few pixels made
            image.load()
            return Picture(size, bits, _is_blank(image), _hash(data), _hash(repr(size).encode(), *_pixels(image)))
    except UnidentifiedImageError:
        return "cannot be read: it is no image of a known format"
    except _ERRORS as error:
        return f"cannot be read: {error}"


def _is_blank(image: Image.Image) -> bool:
    extrema = image.getextrema()
    channels = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return all(low == high for low, high in channels)


def _pixels(image: Image.Image) -> tuple[bytes, ...]:
    palette = image.getpalette() if image.mode == "P" else None
    return image.mode.encode(), bytes(palette or ()), image.tobytes()


def _values(values: np.ndarray) -> tuple[bytes, ...]:
    return repr((values.dtype, values.shape)).encode(), values.tobytes()


def _all_pixels(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            image, _ = decode(file)
        return _hash(*(_values(image) if isinstance(image, np.ndarray) else _pixels(image)))
    except _ERRORS:
        return None


def _hash(*parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.digest()
