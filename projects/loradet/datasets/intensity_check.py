"""Looks for images whose pixels a rule of intensity would lose, before anything is made of them."""

import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from loradet.datasets.image_header import SHALLOW_SUFFIXES, SampleFormat, sample_format
from loradet.datasets.image_reading import read_values
from loradet.datasets.intensity import Intensity
from loradet.errors import UserError

logger = logging.getLogger(__name__)

ENOUGH = 64  # levels of 256 that the bulk of the pixels must keep, where they have more values
_BULK = (1, 99)  # percent: a few hot or dead pixels say nothing
_SUGGESTED = (0.5, 99.5)
_IMAGES = 32  # of each format that are looked into
_PIXELS = 1 << 16  # of each image
_THREADS = 8  # reading headers waits for the disk


@dataclass(frozen=True)
class _Group:
    """Images of one sample format, and values of some of them, pooled."""

    samples: SampleFormat
    files: Sequence[str]
    values: np.ndarray


def check_intensity(
    files: Sequence[str | os.PathLike], intensity: Intensity | None, what: str, *, key: str = "data.intensity"
) -> None:
    """Refuse images of more than eight bits that would lose their pixels without anybody having said so.

    Under "auto" the whole range of a format becomes 0..255. That is fine where the bulk of the pixels, percentiles 1 to
    99 over images spread evenly over all, keeps `ENOUGH` levels or as many as it has values. With any other rule the
    same is a warning. Files that cannot be read are left to whoever reads them.

    Args:
        files: image files.
        intensity: the rule that they are read by; None for Detectron2's own mapper, which cuts what is over 255.
        what: begins the message, as "train".
        key: how the user gives a rule.

    Raises:
        UserError: names a file, its depth, and what to write.
    """
    for samples, deep in _deep_files(files).items():
        many = f"{len(deep)} of {len(files)} images have {samples} samples"
        if intensity is None:
            raise UserError(
                f"{what}: {many}, such as {deep[0]}, and detectron2.data.DatasetMapper reads eight bits. Take "
                "loradet.datasets.mapper.DetectionMapper, which takes an intensity=…, as the mapper."
            )
        group = _look_into(samples, deep)
        if group.values.size == 0:
            continue
        problem = _problem(group, intensity)
        if problem is None:
            logger.info("%s: %s; data.intensity=%s brings them into 0..255.", what, many, intensity)
            continue
        line = f"{what}: {many}, such as {deep[0]}; {problem}"
        if intensity.name != "auto":
            logger.warning("%s.", line)
            continue
        low, high = (_rounded(v) for v in np.percentile(group.values, _SUGGESTED, method="nearest").tolist())
        high = high if high > low else low + 1
        raise UserError(
            f"{line}. Say what black and white are by {key}=[{low},{high}] (99 % of the pixels lie there), "
            f"{key}=percentile:1,99 (for each image by itself), or {key}=full_range if it is meant so."
        )


def _deep_files(files: Iterable[str | os.PathLike]) -> dict[SampleFormat, list[str]]:
    """Files of more than eight bits a sample, by format."""
    asked = [f for f in map(str, files) if os.path.splitext(f)[1].lower() not in SHALLOW_SUFFIXES]  # noqa: PTH122
    groups: dict[SampleFormat, list[str]] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        for file, samples in zip(asked, pool.map(_format_of, asked)):
            if samples is not None and samples.is_deep:
                groups.setdefault(samples, []).append(file)
    return groups


def _format_of(file: str) -> SampleFormat | None:
    try:
        return sample_format(file)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def _look_into(samples: SampleFormat, files: Sequence[str]) -> _Group:
    places = np.linspace(0, len(files) - 1, min(_IMAGES, len(files))).round().astype(int)
    pooled = [np.empty(0)]
    for place in places:
        try:
            values, _ = read_values(files[place])
        except OSError:
            continue
        # Whole pixels at even distances, in an order of rows and columns that no stripe follows.
        flat = values.reshape(values.shape[0] * values.shape[1], -1)
        some = flat[:: max(1, len(flat) // _PIXELS | 1)].ravel().astype(np.float64)
        pooled.append(some[np.isfinite(some)])
    return _Group(samples, files, np.concatenate(pooled))


def _problem(group: _Group, intensity: Intensity) -> str | None:
    """What a rule would lose of a group, in words; None where it keeps enough."""
    values, samples = group.values, group.samples
    shown = f"values {_rounded(values.min())} to {_rounded(values.max())}"
    low, high = intensity.ends(values, samples)
    outside = float(((values < low) | (values > high)).mean())
    if outside > 0.02 and intensity.name == "auto":
        return f"{shown}, {100 * outside:.0f} % of them outside of {low:g} to {high:g}, which would become 0 to 255"
    ends = np.percentile(values, _BULK, method="nearest")
    bulk = np.unique(values[(values >= ends[0]) & (values <= ends[1])])
    levels = len(np.unique(intensity.apply(bulk, samples)))
    if intensity.name != "percentile" and levels < min(ENOUGH, len(bulk)):
        return f"{shown}, of which data.intensity={intensity} keeps {levels} levels of 256"
    return None


def _rounded(value: float) -> float | int:
    """Three digits behind the leading one of a fraction, and whole numbers as they are."""
    return int(value) if float(value).is_integer() else float(f"{value:.4g}")
