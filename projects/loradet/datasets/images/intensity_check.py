"""Looks for images whose pixels a rule of intensity would lose, before anything is made of them."""

import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from loradet.datasets.images.header import SHALLOW_SUFFIXES, SampleFormat, known_format
from loradet.datasets.images.intensity import AUTO, Intensity
from loradet.datasets.images.reading import read_values
from loradet.errors import UserError

logger = logging.getLogger(__name__)

ENOUGH = 64  # levels of 256 that the bulk of the pixels must keep, where they have more values
_BULK = (1, 99)  # percent: a few hot or dead pixels say nothing
_SUGGESTED = (0.5, 99.5)
_IMAGES = 32  # of each format that are looked into
_PIXELS = 1 << 14  # of each image
_THREADS = 8  # reading headers waits for the disk


@dataclass(frozen=True)
class _Group:
    """Images of one sample format, and values of some of them, pooled."""

    samples: SampleFormat
    files: Sequence[str]
    values: np.ndarray


def check_intensity(
    files: Sequence[str | os.PathLike], intensity: Intensity | None, what: str, *, option: str = ""
) -> None:
    """Refuse images of more than eight bits that would lose their pixels without anybody having said so.

    Under "auto" the whole range of a format becomes 0..255. That is fine where the bulk of the pixels, percentiles 1 to
    99 over images spread evenly over all, keeps `ENOUGH` levels or as many as it has values. With any other rule the
    same is a warning. A range is for images of eight bits too, so these are looked into as well. Files that cannot be
    read are left to whoever reads them.

    Args:
        files: image files.
        intensity: the rule that they are read by; None for Detectron2's own mapper, which cuts what is over 255.
        what: begins the message, as "train".
        option: what the user writes before `data.intensity=…`, as "exporting anew with".

    Raises:
        UserError: names a file, its depth, and what to write.
    """
    is_for_all = intensity is not None and intensity.name == "range"
    for samples, found in _by_format(files, shallow=is_for_all).items():
        many = f"{len(found)} of {len(files)} images have {samples} samples"
        if intensity is None:
            raise UserError(
                f"{what}: {many}, such as {found[0]}, and detectron2.data.DatasetMapper reads eight bits. Take "
                "loradet.datasets.mapper.DetectionMapper, which takes an intensity=…, as the mapper."
            )
        group = _look_into(samples, found)
        if group.values.size == 0:
            continue
        problem = _problem(group, intensity)
        if problem is None:
            if samples.is_deep:
                logger.info("%s: %s; data.intensity=%s brings them into 0..255.", what, many, intensity)
            continue
        line = f"{what}: {many}, such as {found[0]}; {problem}"
        if intensity.name != "auto":
            logger.warning("%s.", line)
            continue
        by = f"by {option} " if option else "by "
        raise UserError(
            f"{line}. Say what black and white are {by}'{_range_of(group)}' (99 % of the pixels lie there), "
            "data.intensity=percentile:1,99 (for each image by itself), or data.intensity=full_range (if it is meant "
            "so)."
        )


def suggest_range(files: Sequence[str | os.PathLike]) -> str | None:
    """The override of `data.intensity` that `check_intensity` would ask for; None where "auto" keeps the pixels.

    Of images of several formats that of the first whose pixels "auto" would lose.
    """
    groups = (_look_into(samples, found) for samples, found in _by_format(files, shallow=False).items())
    return next((_range_of(group) for group in groups if group.values.size and _problem(group, AUTO)), None)


def _range_of(group: _Group) -> str:
    low, high = (_rounded(v) for v in np.percentile(group.values, _SUGGESTED, method="nearest").tolist())
    return f"data.intensity=[{low},{high if high > low else low + 1}]"


def _by_format(files: Iterable[str | os.PathLike], *, shallow: bool) -> dict[SampleFormat, list[str]]:
    """Files by sample format, those of eight bits only where they are asked for."""
    asked = [str(file) for file in files]
    if not shallow:
        asked = [file for file in asked if os.path.splitext(file)[1].lower() not in SHALLOW_SUFFIXES]  # noqa: PTH122
    groups: dict[SampleFormat, list[str]] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        for file, samples in zip(asked, pool.map(known_format, asked)):
            if samples is not None and (shallow or samples.is_deep):
                groups.setdefault(samples, []).append(file)
    return groups


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
        return f"{shown}, of which data.intensity={intensity} keeps {levels} level{'s' * (levels > 1)} of 256"
    return None


def _rounded(value: float) -> float | int:
    """Three digits behind the leading one of a fraction, and whole numbers as they are."""
    return int(value) if float(value).is_integer() else float(f"{value:.4g}")
