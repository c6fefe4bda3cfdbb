"""The plan of a run: durations in iterations, and a batch over processes and micro-batches."""

import re
from dataclasses import dataclass

from loradet.errors import UserError

_EPOCHS = re.compile(
    r"\s*(?P<epochs>\d+(?:\.\d+)?)\s*epochs?"
    r"(?:\s*,\s*at\s+least\s+(?P<least>\d+)(?:\s+iterations?)?)?"
    r"(?:\s*,\s*at\s+most\s+(?P<most>\d+)(?:\s+iterations?)?)?\s*"
)


def is_in_epochs(duration: object) -> bool:
    """Whether a duration is a text that counts epochs, so that its iterations depend on the data."""
    return isinstance(duration, str) and _EPOCHS.fullmatch(duration) is not None


def iterations(duration: int | str, iterations_per_epoch: int | None, key: str) -> int:
    """Iterations of a duration: a number of them, or a text such as "2 epochs".

    A text may have bounds, so that one config fits few images and many: "12 epochs, at least 120 iterations",
    "1 epochs, at least 20, at most 10000 iterations".

    Args:
        duration: the value.
        iterations_per_epoch: None where the loader does not tell its number of images.
        key: the config key, for messages.
    """
    if isinstance(duration, int) and not isinstance(duration, bool):
        if duration < 0:
            raise UserError(f"{key}={duration}: expected a number of iterations of at least 0.")
        return duration
    match = _EPOCHS.fullmatch(duration) if isinstance(duration, str) else None
    if match is None:
        raise UserError(
            f'{key}={duration!r}: expected a number of iterations or a text such as "12 epochs", which may go on '
            'with ", at least 120 iterations" and ", at most 10000 iterations".'
        )
    least, most = (None if match[bound] is None else int(match[bound]) for bound in ("least", "most"))
    if None not in (least, most) and least > most:
        raise UserError(f"{key}={duration!r}: at least {least} and at most {most} leave no number between them.")
    if iterations_per_epoch is None:
        raise UserError(
            f"{key}={duration!r}: this training loader does not tell its number of images; give iterations, "
            "or use loradet.datasets.loader.build_train_loader."
        )
    count = float(match["epochs"]) * iterations_per_epoch
    # A duration so short that it rounds to nothing is not the «never» that 0 means.
    count = max(1, round(count)) if count else 0
    count = count if least is None else max(count, least)
    return count if most is None else min(count, most)


@dataclass(frozen=True)
class BatchPlan:
    """How an optimizer step's images are spread over processes and micro-batches."""

    total: int
    world_size: int
    accumulate: int

    @property
    def per_forward(self) -> int:
        """Images that one process sees in one forward pass."""
        return self.total // (self.world_size * self.accumulate)


def plan_batch(total: int, world_size: int, accumulate: int = 1, max_batch_per_gpu: int | None = None) -> BatchPlan:
    """Spread `total` images a step over processes and micro-batches.

    With `max_batch_per_gpu` the smallest number of micro-batches is taken that divides the batch evenly and keeps each
    within the limit: one image each, where nothing else does.

    Raises:
        ValueError: the batch cannot be divided evenly.
    """
    if total % world_size or total < world_size:
        raise UserError(
            f"dataloader.train.total_batch_size={total} cannot be divided over {world_size} processes; "
            f"nearest that can: {max(1, total // world_size) * world_size}."
        )
    per_gpu = total // world_size
    if max_batch_per_gpu is not None:
        if max_batch_per_gpu < 1:
            raise UserError(f"train.max_batch_per_gpu={max_batch_per_gpu}: expected at least 1.")
        accumulate = next(n for n in range(1, per_gpu + 1) if per_gpu % n == 0 and per_gpu // n <= max_batch_per_gpu)
    elif per_gpu % accumulate:
        raise UserError(
            f"train.accumulate={accumulate}: the {per_gpu} images a process (dataloader.train.total_batch_size="
            f"{total} over {world_size} processes) do not divide into as many equal micro-batches."
        )
    return BatchPlan(total, world_size, accumulate)
