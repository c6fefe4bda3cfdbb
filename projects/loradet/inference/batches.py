"""Image files through a detector, some at a time, with a bar; what cannot be read is named and left out."""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from loradet.inference.outcome import warnings_of

Sample = TypeVar("Sample")
Found = TypeVar("Found")


def detect_in_batches(
    files: Sequence[Path],
    read: Callable[[int, Path], Sample],
    detect: Callable[[list[Sample]], Sequence[Found]],
    shape_of: Callable[[Sample], Any],
    *,
    batch_size: int,
    failures: list[str],
    progress: tqdm,
) -> Iterator[tuple[int, Sample, Found]]:
    """Number, sample and detections of each image that can be read.

    Args:
        files: images.
        read: a sample of a number in `files` and a path.
        detect: of a batch of samples of one shape, what is found in each.
        shape_of: a sample.
        batch_size: samples at a time.
        failures: gets a message for each file that cannot be read.
        progress: counts files.
    """
    batch: list[tuple[int, Sample]] = []

    def finish() -> Iterator[tuple[int, Sample, Found]]:
        if batch:
            for (number, sample), found in zip(batch, detect([sample for _, sample in batch])):
                yield number, sample, found
            progress.update(len(batch))
            batch.clear()

    for number, path in enumerate(files):
        try:
            with warnings_of(path, progress):
                sample = read(number, path)
        except (OSError, ValueError) as error:
            # An installed Detectron2 passes on what the decoder says, which knows of no file.
            failures.append(str(error) if str(path) in str(error) else f"{path}: {error}")
            progress.write(f"warning: {failures[-1]}", file=sys.stderr)
            progress.update()
            continue
        if batch and (len(batch) == batch_size or shape_of(batch[0][1]) != shape_of(sample)):
            yield from finish()
        batch.append((number, sample))
    yield from finish()
