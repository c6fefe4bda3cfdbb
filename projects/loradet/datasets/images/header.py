"""Image headers: upright size and sample format, without decoding pixels."""

import os
import re
import struct
from dataclasses import dataclass
from numbers import Number
from pathlib import Path
from typing import IO

from PIL import Image, TiffImagePlugin

ORIENTATION = 274  # tag of EXIF and TIFF
# What an orientation asks for; a value that is none of these, a text or 9, asks for nothing.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Files of these endings have eight bits a sample, or are decoded to eight by all that read them.
SHALLOW_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp"})

_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_KINDS = {1: "unsigned", 2: "signed", 3: "float"}  # SampleFormat of TIFF
_MODES = {"I": ("signed", 32), "F": ("float", 32)}  # of pillow, for formats that are not looked into here
_START = 256  # bytes that are looked into
_PNM = re.compile(rb"P[2356](?:\s+|#[^\n]*\n)+(\d+)(?:\s+|#[^\n]*\n)+(\d+)(?:\s+|#[^\n]*\n)+(\d+)")


@dataclass(frozen=True)
class SampleFormat:
    """One number of an image: `kind` is unsigned, signed or float; `bits` those in use, 12 of a PGM up to 4095."""

    kind: str = "unsigned"
    bits: int = 8

    @property
    def is_deep(self) -> bool:
        """Whether it has values that 0..255 cannot hold as they are."""
        return self.kind != "unsigned" or self.bits > 8

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest value; of floating point 0 and 1, as is usual for images."""
        if self.kind == "float":
            return 0.0, 1.0
        if self.kind == "signed":
            return -(2.0 ** (self.bits - 1)), 2.0 ** (self.bits - 1) - 1
        return 0.0, 2.0**self.bits - 1

    def __str__(self) -> str:
        return f"{self.bits}-bit {self.kind}"


@dataclass(frozen=True)
class ImageHeader:
    """Of an image file.

    Attributes:
        width, height: in pixels, upright.
        samples: what one number of it is.
        turn: what is to be done to the pixels, as they are stored, to make them upright; None for nothing.
        channels: how many numbers a pixel has, where the file was looked into for it (TIFF); else None.
        obstacle: why pixels of more than eight bits cannot be decoded; None where they can.
        is_inverted: whether 0 is white.
    """

    width: int
    height: int
    samples: SampleFormat
    turn: Image.Transpose | None = None
    channels: int | None = None
    obstacle: str | None = None
    is_inverted: bool = False


def image_size(path: Path | str) -> tuple[int, int]:
    """(width, height) from an image's header, upright.

    Raises:
        OSError: missing or not an image.
        SyntaxError, ValueError, PIL.Image.DecompressionBombError: a broken image, as pillow says it.
    """
    with open(path, "rb") as file:  # noqa: PTH123 (a Path for each of many files costs seconds)
        header, _ = parse_header(file)
    return header.width, header.height


def sample_format(path: Path | str) -> SampleFormat:
    """What a sample of an image is, from as few of its bytes as tell it. Raises what `image_size` raises."""
    if os.path.splitext(path)[1].lower() in SHALLOW_SUFFIXES:  # noqa: PTH122
        return SampleFormat()
    with open(path, "rb") as file:  # noqa: PTH123
        start = file.read(_START)
        if start[:4] in _TIFF:
            return _parse_tiff(file).samples
        return _samples(start, None if start.startswith(_PNG) else Image.open(file))


def known_format(path: Path | str) -> SampleFormat | None:
    """`sample_format`; None of what is missing, broken or no image."""
    try:
        return sample_format(path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def parse_header(file: IO[bytes]) -> tuple[ImageHeader, Image.Image | None]:
    """The header of an opened image file, and the image as pillow opens it, which may have decoded it; None of a TIFF.

    Args:
        file: binary, seekable, at its begin.
    """
    start = file.read(_START)
    if start[:4] in _TIFF:
        return _parse_tiff(file), None
    # Pillow decodes a PNG to look for tags behind its pixels, where hardly any file has them.
    is_plain = start.startswith(_PNG) and not _has_late_tags(file)
    file.seek(0)
    image = Image.open(file)
    turn = exif_turn((Image.Image.getexif(image) if is_plain else image.getexif()).get(ORIENTATION))
    width, height = image.size
    if swaps_height_and_width(turn):
        width, height = height, width
    return ImageHeader(width, height, _samples(start, image), turn), image


def _has_late_tags(file: IO[bytes]) -> bool:
    """Whether a PNG has chunks with EXIF data or texts behind its first pixels, or is cut short."""
    file.seek(len(_PNG))
    has_pixels = False
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND":
            return False
        has_pixels |= kind == b"IDAT"
        if has_pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            return True
        file.seek(length + 4, os.SEEK_CUR)
    return True


def exif_turn(orientation: object) -> Image.Transpose | None:
    """The turn that the value of an orientation tag asks for."""
    return TURNS.get(orientation) if isinstance(orientation, Number) else None


def swaps_height_and_width(turn: Image.Transpose | None) -> bool:
    """Whether a turn makes the width the height."""
    return turn is not None and turn in (TURNS[5], TURNS[6], TURNS[7], TURNS[8])


def _samples(start: bytes, image: Image.Image | None) -> SampleFormat:
    """From the first bytes of a file; pillow's image is needed of other formats than PNG."""
    if start.startswith(_PNG):
        return SampleFormat(bits=max(8, start[24] if len(start) > 24 else 8))
    if (found := _PNM.match(start)) is not None:
        return SampleFormat(bits=max(8, int(found[3]).bit_length()))
    if image.format == "JPEG2000" and (place := start.find(b"\xff\x51")) >= 0 and len(start) > place + 40:
        # SIZ: marker, length, capabilities, eight numbers of four bytes, number of components, then each one's depth.
        depth = start[place + 40]
        return SampleFormat("signed" if depth & 0x80 else "unsigned", max(8, (depth & 0x7F) + 1))
    if image.mode.startswith("I;16"):
        return SampleFormat(bits=16)
    return SampleFormat(*_MODES.get(image.mode, ()))


def _parse_tiff(file: IO[bytes]) -> ImageHeader:
    """From the tags themselves: pillow turns these images as it decodes them, and does not know all their formats."""
    file.seek(0)
    head = file.read(8)
    if 43 in head[2:4]:  # BigTIFF
        head += file.read(8)
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(head)
        file.seek(tags.next)
        tags.load(file)
    except (struct.error, LookupError, TypeError) as error:
        raise OSError(f"cannot identify image file: its TIFF tags are broken ({error})") from error
    width, height = tags.get(256), tags.get(257)
    if not isinstance(width, int) or not isinstance(height, int) or min(width, height) < 1:
        raise OSError("cannot identify image file: its TIFF tags have no width and height")
    bits, formats = _many(tags.get(258, 1)), _many(tags.get(339, 1))
    # 4 is «undefined», which writers put beside ordinary whole numbers.
    samples = SampleFormat(_KINDS.get(formats[0], "unsigned"), max(8, bits[0]))
    turn = exif_turn(tags.get(ORIENTATION))
    if swaps_height_and_width(turn):
        width, height = height, width
    channels, photometric = int(tags.get(277, len(bits))), tags.get(262)
    obstacle = None
    if len({*bits}) > 1 or len({*formats}) > 1:
        obstacle = "its channels have different formats"
    elif samples.bits not in (8, 16, 32, 64):
        obstacle = "expected 8, 16, 32 or 64 bits"
    elif not ((photometric in (0, 1) and channels == 1) or (photometric == 2 and channels in (3, 4))):
        obstacle = f"{channels} channels of photometric interpretation {photometric}, expected grey, RGB or RGBA"
    elif channels > 1 and tags.get(284, 1) == 2:
        obstacle = "its channels lie one after another (PlanarConfiguration 2), expected pixel by pixel"
    # No turn: decoders have done it already.
    inverted = photometric == 0 and samples.kind == "unsigned"
    return ImageHeader(width, height, samples, None, channels, obstacle, inverted)


def _many(value: object) -> tuple:
    return value if isinstance(value, tuple) else (value,)
