"""Writes image files of any depth: what pillow and OpenCV cannot write, byte by byte."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

_FORMATS = {"u": 1, "i": 2, "f": 3}


def write_tiff(
    path: Path,
    pixels: np.ndarray,
    *,
    orientation: int | str | None = None,
    photometric: int | None = None,
    planes: int = 1,
    order: str = "<",
) -> Path:
    """An uncompressed TIFF of (H, W) or (H, W, C), of whatever type its numbers are; tags as they are given."""
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    data = np.moveaxis(pixels, -1, 0) if planes == 2 else pixels
    data = data.astype(pixels.dtype.newbyteorder(order)).tobytes()
    tags = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [8 * pixels.itemsize] * channels),
        259: (3, [1]),
        262: (3, [(2 if channels >= 3 else 1) if photometric is None else photometric]),
        273: (4, [0] * (channels if planes == 2 else 1)),
        277: (3, [channels]),
        278: (4, [height]),
        279: (4, [len(data) // channels] * channels if planes == 2 else [len(data)]),
        284: (3, [planes]),
        339: (3, [_FORMATS[pixels.dtype.kind]] * channels),
    }
    if isinstance(orientation, str):
        tags[274] = (2, [*orientation.encode(), 0])
    elif orientation is not None:
        tags[274] = (3, [orientation])
    if channels == 4:
        tags[338] = (3, [2])
    start = 8 + 2 + 12 * len(tags) + 4
    sizes = {2: "B", 3: "H", 4: "I"}
    extra_length = sum(n for kind, values in tags.values() if (n := struct.calcsize(f"{len(values)}{sizes[kind]}")) > 4)
    first = start + extra_length
    tags[273] = (4, [first + i * (len(data) // channels) for i in range(len(tags[273][1]))])
    entries, extra = b"", b""
    for tag, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}{sizes[kind]}", *values)
        if len(packed) > 4:
            place, extra = struct.pack(f"{order}I", start + len(extra)), extra + packed
        else:
            place = packed.ljust(4, b"\0")
        entries += struct.pack(f"{order}HHI", tag, kind, len(values)) + place
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    path.write_bytes(head + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + extra + data)
    return path


def write_png(path: Path, pixels: np.ndarray, *, orientation: int | None = None, late: bool = False) -> Path:
    """A PNG of 8 or 16 bits, grey or RGB, with an EXIF orientation, behind the pixels where `late`."""
    data = cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1].tobytes()
    if orientation is not None:
        exif = b"II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, 274, 3, 1, orientation, 0, 0)
        chunk = b"eXIf" + exif
        place = len(data) - 12 if late else 33
        chunk = struct.pack(">I", len(exif)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        data = data[:place] + chunk + data[place:]
    path.write_bytes(data)
    return path


def write_twins(folder: Path, pixels: np.ndarray, stem: str = "scene") -> dict[str, Path]:
    """One scene (H, W) or (H, W, 3) of 8 bits in every depth that holds it without loss, by name of the depth."""
    wide = pixels.astype(np.uint16) * 257
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / f"{stem}_8.png")
    cv2.imwrite(str(folder / f"{stem}_16.pnm"), wide[..., ::-1] if wide.ndim == 3 else wide)
    return {
        "8": folder / f"{stem}_8.png",
        "8 tiff": write_tiff(folder / f"{stem}_8.tif", pixels),
        "16 png": write_png(folder / f"{stem}_16.png", wide),
        "16 tiff": write_tiff(folder / f"{stem}_16.tif", wide),
        "16 tiff, big endian": write_tiff(folder / f"{stem}_16b.tif", wide, order=">"),
        "16 pnm": folder / f"{stem}_16.pnm",
        "16 signed": write_tiff(folder / f"{stem}_i16.tif", (wide.astype(np.int32) - 32768).astype(np.int16)),
        "float": write_tiff(folder / f"{stem}_f32.tif", pixels.astype(np.float32) / np.float32(255)),
        "double": write_tiff(folder / f"{stem}_f64.tif", pixels / 255),
    }
