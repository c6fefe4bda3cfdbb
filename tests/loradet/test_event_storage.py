"""Numbers that wait on the device are, once asked for, what they would have been if they had been read at once."""

import pytest
import torch
from detectron2.utils.events import EventStorage, get_event_storage

from loradet.event_storage import DeferredStorage, put_tensors

READERS = {
    "history": lambda s: [s.history(name).values() for name in ("a", "b")],
    "histories": lambda s: {name: buffer.values() for name, buffer in sorted(s.histories().items())},
    "latest": lambda s: s.latest(),
    "latest_with_smoothing_hint": lambda s: s.latest_with_smoothing_hint(2),
    "smoothing_hints": lambda s: s.smoothing_hints(),
    "count_samples": lambda s: s.count_samples("a", 3),
}


def fill(storage):
    """Two numbers in each of five iterations, of tensors in float32, and one that is put at once."""
    with storage:
        for number in range(5):
            storage.iter = 10 + number
            put_tensors({"a": torch.tensor(0.1 * number), "b": torch.tensor(3 - number)})
            storage.put_scalar("rate", 0.5**number, smoothing_hint=False)
    return storage


@pytest.mark.parametrize("reader", READERS)
def test_every_way_to_ask_gives_what_detectron2s_storage_gives(reader):
    storage = fill(DeferredStorage(10))
    assert not storage.is_read
    assert READERS[reader](storage) == READERS[reader](fill(EventStorage(10)))
    assert storage.is_read
    assert READERS[reader](storage) == READERS[reader](fill(EventStorage(10)))


def test_all_that_waits_is_one_transfer(monkeypatch):
    reads = []
    given = torch.Tensor.tolist
    storage = fill(DeferredStorage())
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: reads.append(len(self)) or given(self))
    storage.latest()
    storage.history("a")
    assert reads == [10]


def test_names_have_the_scope_in_which_they_were_put():
    with DeferredStorage() as storage:
        put_tensors({"a": torch.tensor(1.0)})
        with storage.name_scope("val"):
            get_event_storage().put_scalar("b", 2.0)
            put_tensors({"a": torch.tensor(3.0)})
        put_tensors({"c": torch.tensor(4.0)})
    assert {name: value for name, (value, _) in storage.latest().items()} == {"a": 1, "val/a": 3, "val/b": 2, "c": 4}
