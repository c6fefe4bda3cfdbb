"""A study over the tests' tiny detector, and run folders as its trainings leave them."""

import json
from pathlib import Path

from loradet.experiments.running.run import Run
from loradet.experiments.study.definition import Entry, Scenes, Smoke, Study
from loradet.run_folder import RunFolder
from loradet.training.folder import record

CONFIG = "tests/configs/tiny.py"
METRICS = {"coco/bbox_mAP": 0.25, "coco/bbox_mAP_50": 0.5, "coco/bbox_mAP_s": None}
SHORT = ("train.max_iter=6",)


def entry(id: str = "a", **values) -> Entry:
    return Entry(**{"id": id, "title": id.upper(), "objective": "try", "config": CONFIG, **values})


def study(*entries: Entry, **values) -> Study:
    return Study(**{"name": "trial", "title": "A trial", "entries": entries, **values})


def on_scenes(folder: Path, *entries: Entry, **values) -> Study:
    """A study whose data are synthetic scenes in a folder; entries without overrides train there."""
    scenes = Scenes(root=str(folder), size=64, counts={"train": 6, "val": 4})
    return study(*entries, scenes=scenes, smoke=Smoke(train_images=4, val_images=2), **values)


def leave_record(run: Run, status: str = "finished", **values) -> None:
    """The run.json of a run."""
    run.folder.mkdir(parents=True, exist_ok=True)
    counts = {"backbone": {"trainable": 1_000_000, "total": 2_000_000}}
    content = {"status": status, "config_sha256": record.config_hash(run.config), "parameters": counts, **values}
    RunFolder(run.folder).record.write_text(json.dumps(content))


def leave_metrics(run: Run, **values) -> None:
    """The metrics files of a run."""
    for split in run.splits:
        (run.folder / f"{split}_metrics.json").write_text(json.dumps({"split": split, **METRICS, **values}))


def leave_attempt(run: Run, exit_code: int, *tail: str, ended: float = 2e9) -> None:
    """A try, by default after everything else in the folder was written."""
    run.folder.mkdir(parents=True, exist_ok=True)
    attempt = {"command": [], "began": 0.0, "ended": ended, "exit_code": exit_code, "log_tail": list(tail)}
    (run.folder / "attempts.json").write_text(json.dumps([attempt]))
