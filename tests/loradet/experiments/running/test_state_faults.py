"""What `status`, `collect` and `report` read of damaged run folders: a line that names the file, or its numbers."""

import json
import random
from collections import Counter
from dataclasses import replace

import pytest
from helpers.engine_study import METRICS, entry, leave_attempt, leave_metrics, leave_record, study
from helpers.run_file_faults import damaged_bytes, dumped, odd_json

from loradet.errors import is_user_error, one_line
from loradet.experiments.pages.cost import cost_section
from loradet.experiments.results.curves import curves, read_logs
from loradet.experiments.results.dynamics import run_dynamics
from loradet.experiments.results.results_file import result_to_dict
from loradet.experiments.results.split_files import read_calibration
from loradet.experiments.results.table import rows, to_tsv
from loradet.experiments.running.ledger import status_table
from loradet.experiments.running.planning import plan
from loradet.experiments.running.state import inspect
from loradet.run_folder import RunFolder

FAST, SLOW = 8, 100  # cases of each file
CALIBRATION = {
    "table": [{"score_threshold": 0.1, "match_iou": 0.5, "count": 3, "ece": 0.1, "nll": None}],
    "before": {"reliability": {"count": [1, 2], "mean_score": [0.2, None], "precision": [0.5, None]}},
    "after": None,
}
RECORD = {
    "iteration": 5,
    "iterations_per_epoch": 2,
    "parameters": {part: {"trainable": 10, "total": 20} for part in ("backbone", "neck", "head", "all")},
    "data": {"val": {"source": "val.json", "fingerprint": "ab", "num_images": 4, "num_classes": 6}},
    "best": {"metric": "bbox/AP", "value": 25.0, "iteration": 5},
    "efficiency": {"split": "val", "images/s": 3.5, "batch": 1, "device": "CPU"},
    "images_per_s": 4.5,
    "train_seconds": 3.0,
    "wall_time_s": 6.0,
    "peak_memory_mb": 100.0,
    "device": "CPU, 1 threads",
    "processes": 1,
    "git_revision": "abc",
    "finished_at": "2026-11-30T00:00:00+00:00",
}


@pytest.fixture(scope="module")
def planned():
    (run,) = plan(study(entry(overrides=("data.root=nowhere",), splits=("val",))))
    _ = run.config
    return run


@pytest.fixture
def run(planned, tmp_path):
    moved = replace(planned, root=tmp_path)
    moved.__dict__["config"] = planned.config
    leave_record(moved, **RECORD)
    leave_metrics(moved, **{"calibration/ece": 0.1, "checkpoint": "model_best.pth", "iteration": 5})
    leave_attempt(moved, 0)
    folder = RunFolder(moved.folder)
    lines = [{"iteration": i, "total_loss": 1.0 / (i + 1), "bbox/AP": 5.0 * i, "grad_norm": 1.0} for i in range(6)]
    folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    predictions = folder.predictions("val")
    predictions.parent.mkdir(parents=True)
    predictions.write_text("[]")
    predictions.with_name("calibration.json").write_text(json.dumps(CALIBRATION))
    return moved


def look(run):
    """What status, collect and report look at."""
    result = inspect(run)
    status_table([result])
    result_to_dict(result)
    run_dynamics(result)
    table = rows([result])
    to_tsv(run.study, table)
    cost_section(table)
    curves(read_logs([result]), "total_loss")
    read_calibration(result, "val")
    return result


def files(run):
    """Each file by a name, and whether its lines are JSON each."""
    folder = RunFolder(run.folder)
    return {
        "run.json": (folder.record, False),
        "attempts.json": (folder.path / "attempts.json", False),
        "val_metrics.json": (folder.split_metrics("val"), False),
        "calibration.json": (folder.predictions("val").with_name("calibration.json"), False),
        "metrics.json": (folder.metrics, True),
    }


def check(run, name, cases):
    file, by_line = files(run)[name]
    content = file.read_bytes()
    counts = Counter()
    for seed in range(cases):
        rng = random.Random(f"{name} {seed}")
        if seed % 4 == 0:
            file.write_bytes(damaged_bytes(content, rng))
        elif by_line:
            lines = content.splitlines()
            place = rng.randrange(len(lines))
            lines[place] = dumped(odd_json(json.loads(lines[place]), rng))
            file.write_bytes(b"\n".join(lines))
        else:
            file.write_bytes(dumped(odd_json(json.loads(content), rng)))
        where = f"{name}, seed {seed}: {file.read_bytes()[:300]}"
        try:
            result = look(run)
        except Exception as error:
            assert is_user_error(error), f"{where}: {type(error).__name__}: {error}"
            assert str(file) in one_line(error), f"{where}: {error}"
            counts["refused"] += 1
        else:
            counts["read"] += 1
            if name != "val_metrics.json" and result.state == "finished":
                assert result.metrics["val"]["coco/bbox_mAP"] == METRICS["coco/bbox_mAP"], where
    assert counts["refused"], "no fault was found: the test looks at nothing"


NAMES = ("run.json", "attempts.json", "val_metrics.json", "calibration.json", "metrics.json")


def test_the_whole_folder_is_read(run):
    assert look(run).state == "finished"


@pytest.mark.parametrize("name", NAMES)
def test_some_faults(run, name):
    check(run, name, FAST)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_all_faults(run, name):
    check(run, name, SLOW)
