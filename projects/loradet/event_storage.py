"""Detectron2's event storage, for numbers that stay on the device until somebody asks for them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.utils.events import EventStorage, get_event_storage


class DeferredStorage(EventStorage):
    """`EventStorage` that reads numbers off the device when it is asked for any, all of them in one transfer.

    A read makes the host wait until the device has done all that it was given; meanwhile the host prepares nothing.
    What is asked for is the same as if each number had been read in its iteration.
    """

    def __init__(self, start_iter: int = 0) -> None:
        super().__init__(start_iter)
        self._waiting: list[tuple[torch.Tensor, Callable[[list[float]], None]]] = []
        self._scopes = 0

    @property
    def is_read(self) -> bool:
        """Whether nothing waits on the device."""
        return not self._waiting

    def defer(self, row: torch.Tensor, put: Callable[[list[float]], None]) -> None:
        """Let numbers wait.

        Args:
            row: (N,).
            put: is given them, as floats, once they are read; it puts them, at the iteration that they are of.
        """
        self._waiting.append((row.detach().double(), put))
        if self._scopes:
            self.read()  # names are put in front of what is put now, not later

    @contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Put `name/` before every name that is added inside."""
        self.read()
        self._scopes += 1
        try:
            with super().name_scope(name):
                yield
        finally:
            self._scopes -= 1

    def read(self) -> None:
        """Read what waits."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        rows = [row for row, _ in waiting]
        values = torch.cat([row.to(rows[0].device) for row in rows]).tolist()
        for row, put in waiting:
            put(values[: len(row)])
            del values[: len(row)]

    def history(self, name: str) -> Any:
        """As of Detectron2's; so are the others."""
        self.read()
        return super().history(name)

    def histories(self) -> Any:
        """All values of all scalars."""
        self.read()
        return super().histories()

    def latest(self) -> Any:
        """Latest value and its iteration, by name."""
        self.read()
        return super().latest()

    def latest_with_smoothing_hint(self, window_size: int = 20) -> Any:
        """Like `latest`, with medians where the hint asks for them."""
        self.read()
        return super().latest_with_smoothing_hint(window_size)

    def smoothing_hints(self) -> Any:
        """Hints by name."""
        self.read()
        return super().smoothing_hints()

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """Values of a scalar in a window of iterations."""
        self.read()
        return super().count_samples(name, window_size)


def put_tensors(values: Mapping[str, torch.Tensor]) -> None:
    """Put scalars (tensors of no dimension, on one device) into the open storage: read at once, or when asked for."""
    storage, row = get_event_storage(), torch.stack(list(values.values()))
    iteration = storage.iter

    def put(numbers: list[float]) -> None:
        for name, number in zip(values, numbers):
            storage.put_scalar(name, number, cur_iter=iteration)

    if isinstance(storage, DeferredStorage):
        storage.defer(row, put)
    else:
        put(row.double().tolist())
