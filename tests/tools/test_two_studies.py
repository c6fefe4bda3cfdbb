"""Two studies on one host at the same time, with two processes a run: they share nothing but the machine."""

import json
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import pytest
import torch
from helpers.experiments_tool import attempts, call, iterations, write_study
from helpers.train_tool import ENVIRONMENT


@pytest.mark.slow
def test_two_studies_at_the_same_time_do_not_meet(tmp_path):
    """The same names and settings, the same folder for temporary files."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    words = ["train.max_iter=6", "train.eval_period=0"]
    studies = [write_study(tmp_path / name, {"id": "r2", "words": words, "seeds": [0]}) for name in ("a", "b")]
    with patch.dict(ENVIRONMENT, TMPDIR=str(temporary)), ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda study: call(study, "run", "--num-gpus", "2", seconds=1200), studies))
    folders = [study / "runs" / "r2_full" for study in studies]
    for folder in folders:
        found = json.loads((folder / "run.json").read_text())
        assert (found["status"], found["processes"]) == ("finished", 2)
        assert [attempt["exit_code"] for attempt in attempts(folder)] == [0]
        assert iterations(folder) == list(range(6))
    began = [json.loads((folder / "attempts.json").read_text())[0] for folder in folders]
    assert max(one["began"] for one in began) < min(one["ended"] for one in began), "they did not meet"
    ours, theirs = (torch.load(f / "model_final.pth", weights_only=True)["model"] for f in folders)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    metrics = [json.loads((folder / "val_metrics.json").read_text()) for folder in folders]
    assert metrics[0]["coco/bbox_mAP"] == metrics[1]["coco/bbox_mAP"]
    assert not list(temporary.glob("loradet_*"))
