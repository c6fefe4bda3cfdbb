"""Shared by conversions to COCO: sidecar files of the cache, progress, and the error that lists all faults."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from loradet.errors import UserError
from loradet.files import atomic_open

MAX_FAULTS = 20  # that an error lists


def sidecar_path(caches: Path, ending: str) -> Path:
    """A file beside others of a conversion; a suffix would take the place of what follows a dot in the name."""
    return caches.with_name(caches.name + ending)


def progress_bar(shown: bool, unit: str) -> Callable[[Iterable, int], Iterable]:
    """For `FileCache.values`: a bar on a terminal where it is `shown`, which counts items by `unit`."""

    def bar(items: Iterable, total: int) -> Iterable:
        if not shown:
            return items
        from tqdm import tqdm

        return tqdm(items, total=total, unit=unit, disable=None)

    return bar


def raise_faults(faults: Sequence[str], where: str, what: str, file: Path) -> None:
    """Raise UserError where there are faults; more than it lists are all in `file`.

    Args:
        faults: a line each.
        where: the set and its split.
        what: the files that they are in, as "images and labels".
        file: to write.
    """
    if not faults:
        return
    count = f"{len(faults)} fault{'s' * (len(faults) > 1)}"
    lines = [f"{where}: {count} in {what}:", *(f"- {fault}" for fault in faults[:MAX_FAULTS])]
    if len(faults) > MAX_FAULTS:
        with atomic_open(file) as output:
            output.writelines(f"{fault}\n" for fault in faults)
        lines.append(f"… and {len(faults) - MAX_FAULTS} more. All of them are in {file}")
    raise UserError("\n".join(lines))
