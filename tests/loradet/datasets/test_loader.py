"""The replayable training loader: order, seeds, buckets, errors."""

import itertools
import os
import random
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loradet.datasets import loader as loader_module
from loradet.datasets.loader import BatchStream, SampleError, build_train_loader, seeded


def records(count, portrait=()):
    return [
        {
            "file_name": f"image_{i}.png",
            "image_id": 100 + i,
            "width": 10 if i in portrait else 30,
            "height": 20,
        }
        for i in range(count)
    ]


def draw_mapper(record):
    """A mapper that draws from every generator that augmentations use."""
    noise = (random.random(), float(np.random.rand()), float(torch.rand(())))
    return {"image_id": record["image_id"], "width": record["width"], "noise": noise}


def first(loader, count):
    return list(itertools.islice(iter(loader), count))


def make(**changes):
    return build_train_loader(
        **{
            "dataset": records(13, portrait={0, 3, 5, 6}),
            "mapper": draw_mapper,
            "total_batch_size": 2,
            "num_workers": 0,
            "seed": 5,
            **changes,
        }
    )


def test_samples_do_not_depend_on_the_number_of_workers():
    alone = first(make(), 20)
    assert alone == first(make(num_workers=1), 20) == first(make(num_workers=3, prefetch_factor=1), 20)


def test_a_worker_keeps_to_one_core():
    def threads(record):
        return {"image_id": record["image_id"], "threads": (torch.get_num_threads(), cv2.getNumThreads())}

    cv2.setNumThreads(2)
    # OpenCV starts its threads with the first work for them; a worker that is forked then must not wait for these.
    cv2.warpAffine(np.zeros((2000, 2000, 3), np.uint8), np.eye(2, 3), (2000, 2000))
    try:
        (batch,) = first(make(mapper=threads, num_workers=1), 1)
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(-1)
    assert {sample["threads"] for sample in batch} == {(1, 1)}


SCRIPT = """
import multiprocessing
import os
multiprocessing.set_start_method("forkserver")  # the default of Python 3.14
import loradet
from torch.utils.data import DataLoader
from loradet.datasets.data_processes import set_up_workers
from loradet.datasets.loader import build_train_loader
parent = os.getpid()
records = [{"file_name": "a.png", "image_id": 7, "width": 3, "height": 2}]
train = build_train_loader(
    records, mapper=lambda record: {**record, "parent": os.getppid()}, total_batch_size=1, num_workers=1
)
(sample,) = next(iter(train))
print(sample["image_id"], sample["parent"] == parent)
other = DataLoader(range(3), num_workers=1, collate_fn=lambda items: (items, os.getppid()))
set_up_workers(other)
print([items for items, ppid in other if ppid == parent])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere data processes are not forked by default")
def test_a_script_needs_no_guard_where_forking_is_not_pythons_default(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("7 True\n[[0], [1], [2]]\n", 0), done.stderr[-2000:]


LEFT_AT_WORK = """
from torch.utils.data import DataLoader
from loradet.datasets.data_processes import set_up_workers
loader = DataLoader(range(100), num_workers=2)
set_up_workers(loader)
left = iter(loader)
print(next(left))
"""


def test_a_script_ends_whose_data_processes_are_still_at_work():
    done = subprocess.run([sys.executable, "-c", LEFT_AT_WORK], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("tensor([0])\n", 0), done.stderr[-2000:]


ONE_BATCH = """
import torch
from torch.utils.data import DataLoader
from loradet.datasets.data_processes import set_up_workers

loader = DataLoader(torch.arange(4), num_workers=1)
set_up_workers(loader)
print(len(list(loader)))
"""


def test_a_long_name_of_the_folder_for_temporary_files(tmp_path):
    """A socket there cannot be made: Python before 3.14 says so behind the program's back, and waits."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    words = dict(capture_output=True, text=True, timeout=60, env=os.environ | {"TMPDIR": str(folder)})
    done = subprocess.run([sys.executable, "-c", ONE_BATCH], **words)
    assert (done.stdout, done.returncode) == ("4\n", 0), done.stderr[-2000:]
    assert not list(folder.iterdir())


def test_another_seed_gives_another_stream():
    assert first(make(), 6) != first(make(seed=6), 6)


def test_every_visit_of_an_image_is_augmented_anew():
    seen = {}
    for sample in itertools.chain.from_iterable(first(make(), 40)):
        seen.setdefault(sample["image_id"], set()).add(sample["noise"])
    assert all(len(noises) > 3 for noises in seen.values())


@given(st.integers(0, 30), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_resuming_replays_the_rest_of_the_stream(start, batch_size):
    whole = first(make(total_batch_size=batch_size), start + 5)
    resumed = make(total_batch_size=batch_size)
    resumed.resume_at(start)
    assert first(resumed, 5) == whole[start:]


def test_resuming_reads_no_image_of_the_part_left_out():
    read = []

    def mapper(record):
        read.append(record["image_id"])
        return draw_mapper(record)

    loader = make(mapper=mapper)
    loader.resume_at(50)
    first(loader, 1)
    assert len(read) == 2


def test_a_batch_holds_one_orientation():
    for batch in first(make(), 40):
        assert len({sample["width"] > 20 for sample in batch}) == 1
    mixed = first(make(aspect_ratio_grouping=False), 40)
    assert any(len({sample["width"] > 20 for sample in batch}) == 2 for batch in mixed)


def test_processes_share_one_stream(monkeypatch):
    def order(rank, world_size):
        sampler = itertools.islice(range(1000), rank, None, world_size)
        monkeypatch.setattr(loader_module.comm, "get_rank", lambda: rank)
        monkeypatch.setattr(loader_module.comm, "get_world_size", lambda: world_size)
        return [pair for batch in itertools.islice(BatchStream(sampler, 1), 10) for pair in batch]

    assert sorted(order(0, 2) + order(1, 2)) == order(0, 1) + [(i, i) for i in range(10, 20)]


def test_mapping_leaves_the_callers_generators_alone():
    iterator = iter(make())
    next(iterator)
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    next(iterator)
    after = float(torch.rand(())), float(np.random.rand()), random.random()
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    assert after == (float(torch.rand(())), float(np.random.rand()), random.random())


def test_seeded_restores_after_an_error():
    state = torch.get_rng_state()
    with pytest.raises(KeyError), seeded(1, 2):
        torch.rand(3)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_image_is_named(num_workers):
    def mapper(record):
        if record["image_id"] == 104:
            raise OSError("cannot identify image")
        return draw_mapper(record)

    with pytest.raises(SampleError, match=r"image_4\.png \(image id 104\) failed: OSError: cannot identify image"):
        first(make(mapper=mapper, num_workers=num_workers), 20)


def test_dropped_samples_are_replaced_in_the_same_way_each_time():
    def mapper(record):
        return None if record["image_id"] % 2 else draw_mapper(record)

    batches = first(make(mapper=mapper), 20)
    assert all(sample["image_id"] % 2 == 0 for batch in batches for sample in batch)
    assert batches == first(make(mapper=mapper, num_workers=2), 20)
    with pytest.raises(SampleError, match="dropped 20 samples in a row"):
        first(make(mapper=lambda _: None), 1)


def test_impossible_loaders_are_errors():
    with pytest.raises(ValueError, match="no image"):
        make(dataset=[])
    with pytest.raises(ValueError, match="total_batch_size=0"):
        make(total_batch_size=0)
