"""A process group that others have made: used as it is, and left alone."""

import threading

import pytest
import torch
from detectron2.utils import comm

from loradet.training.distributed import run_distributed
from loradet.training.launchers import StartedBy, started_by


@pytest.fixture
def group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=(tmp_path / "rendezvous").as_uri(), rank=0, world_size=1)
    yield torch.distributed.group.WORLD
    torch.distributed.destroy_process_group()


def test_a_group_that_exists_is_used_and_left_alone(group, monkeypatch):
    # Ray Train sets what torchrun sets; initializing the group again is an error there.
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    assert started_by(4, 2) is StartedBy.GROUP
    seen = []

    def main(word):
        seen.append((word, comm.get_local_rank(), comm.get_local_size()))

    options = {"num_gpus": 4, "num_machines": 1, "machine_rank": 0, "dist_url": "auto"}
    run_distributed(main, **options, args=("first",))
    # Its user may call it in a thread, which takes no signals over.
    thread = threading.Thread(target=run_distributed, args=(main,), kwargs={**options, "args": ("second",)})
    thread.start()
    thread.join(60)
    assert seen == [("first", 0, 1), ("second", 0, 1)]
    assert torch.distributed.group.WORLD is group
    torch.distributed.barrier()


def test_a_failure_leaves_the_group_alone_too(group):
    def fail():
        raise ValueError("as it may")

    with pytest.raises(ValueError, match="as it may"):
        run_distributed(fail, num_gpus=1, num_machines=1, machine_rank=0, dist_url="auto", args=())
    assert torch.distributed.group.WORLD is group
