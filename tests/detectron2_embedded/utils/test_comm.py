"""Communication, alone and between two processes."""

import datetime
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.engine import launch
from detectron2.utils import comm


def test_alone() -> None:
    assert comm.get_world_size() == comm.get_local_size() == 1
    assert comm.get_rank() == comm.get_local_rank() == 0
    assert comm.is_main_process()
    comm.synchronize()
    value = object()
    assert comm.all_gather(value) == comm.gather(value) == [value]
    assert comm.reduce_dict({"a": torch.tensor(3.0)}) == {"a": torch.tensor(3.0)}
    np.random.seed(7)
    expected = int(np.random.randint(2**31))
    np.random.seed(7)
    assert comm.shared_random_seed() == expected
    with pytest.raises(AssertionError, match="create_local_process_group"):
        comm.get_local_process_group()


def _report(folder: str) -> None:
    rank = comm.get_rank()
    np.random.seed(rank)
    keys = ["b", "a"] if rank else ["a", "b"]
    losses = {key: torch.tensor(float(ord(key) + 10 * rank)) for key in keys}
    means = comm.reduce_dict(losses)
    sums = comm.reduce_dict(losses, average=False)
    comm.synchronize()
    found = {
        "world": comm.get_world_size(),
        "local": [comm.get_local_rank(), comm.get_local_size()],
        "main": comm.is_main_process(),
        "all_gather": comm.all_gather({"rank": rank, "more": "x" * (1 + 1000 * rank)}),
        "gather": comm.gather(rank),
        "gather_1": comm.gather(rank, dst=1),
        "local_group": comm.all_gather(rank, group=comm.get_local_process_group()),
        "seed": comm.shared_random_seed(),
        "means": {key: value.item() for key, value in means.items()},
        "sums": {key: value.item() for key, value in sums.items()},
    }
    Path(folder, f"{rank}.json").write_text(json.dumps(found))


def test_two_processes(tmp_path: Path) -> None:
    launch(_report, 2, dist_url="auto", args=(str(tmp_path),), timeout=datetime.timedelta(seconds=60))
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for rank, report in enumerate(found):
        assert report["world"] == 2
        assert report["local"] == [rank, 2]
        assert report["main"] == (rank == 0)
        assert [part["rank"] for part in report["all_gather"]] == [0, 1]
        assert len(report["all_gather"][1]["more"]) == 1001
        assert report["gather"] == ([0, 1] if rank == 0 else [])
        assert report["gather_1"] == ([0, 1] if rank == 1 else [])
        assert report["local_group"] == [0, 1]
    assert found[0]["seed"] == found[1]["seed"]
    assert found[0]["means"] == {"a": 102.0, "b": 103.0}
    assert found[0]["sums"] == {"a": 204.0, "b": 206.0}
