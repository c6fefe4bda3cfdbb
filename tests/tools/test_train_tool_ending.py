"""What a training says at its end, typed as it stands there; the score thresholds that it leaves are the tools' own."""

import contextlib
import io
import json
import logging
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog
from helpers.train_tool import CONFIG, ROOT, arguments, lines, reproducible, succeed
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from loradet.adapters import read_adapter
from loradet.config import load_config
from loradet.evaluation.operating_point import OperatingPoint
from loradet.evaluation.score_thresholds import find_operating_point
from loradet.model import build_model

# Scores of a detector that has hardly been trained lie at its prior, and its boxes at the anchors.
SETTINGS = ["train.eval_splits=[val,test]", "model.test_score_thresh=0.0", "train.operating_point.match_iou=0.1"]


@pytest.fixture(scope="module")
def run(train_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ending")
    model = build_model(load_config(CONFIG, [f"data.root={train_data}"]).model)
    torch.save({"model": model.state_dict()}, folder / "a.pth")
    start = f"train.init_checkpoint={folder}/a.pth"
    succeed(*arguments(train_data, folder / "out", *SETTINGS, start, "dataloader.train.num_workers=0"))
    return folder / "out"


def call(*words: object) -> tuple[int | str | None, str]:
    """A tool of the repository in this process: what it leaves by, and what it printed."""
    for name in ("tiny_train", "tiny_val", "tiny_test"):
        DatasetCatalog.pop(name, None)  # a user's next command is another process
    tool, *rest = map(str, words)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr(sys, "argv", [tool, *rest])
        try:
            runpy.run_path(str(Path(tool)), run_name="__main__")
        except SystemExit as stop:
            return stop.code, printed.getvalue()
    return 0, printed.getvalue()


def ending(folder: Path) -> str:
    return (folder / "log.txt").read_text().partition("The end of the training.")[2]


def test_best_and_last_are_those_of_the_files(run):
    rows = [line.rsplit(maxsplit=2) for line in ending(run).splitlines() if len(line.split()) > 2]
    table = {name.strip(): values for name, *values in rows}
    metrics = {split: json.loads((run / f"{split}_metrics.json").read_text()) for split in ("val", "test")}
    last = [line for line in lines(run) if "bbox/AP" in line][-1]
    best = json.loads((run / "run.json").read_text())["best"]["iteration"]
    assert table["iteration"] == [str(best), str(last["iteration"])]
    assert table["AP (val)"] == [f"{metrics['val']['coco/bbox_mAP']:.3f}", f"{last['bbox/AP'] / 100:.3f}"]
    assert table["AP50 (test)"] == [f"{metrics['test']['coco/bbox_mAP_50']:.3f}", "-"]
    assert f"Files in {run}: model_best.pth" in ending(run)
    assert "operating_point.json" in ending(run)


def test_what_it_says_to_type_works_as_it_stands(run, monkeypatch):
    monkeypatch.chdir(ROOT)
    commands = [line.strip() for line in ending(run).splitlines() if "python" in line and "tools/" in line]
    assert [Path(shlex.split(line)[1]).name for line in commands] == [
        *("predict.py", "visualize.py", "lazyconfig_train_net.py", "adapters.py")
    ]
    for line in commands:
        status, printed = call(*shlex.split(line)[1:])
        assert status in (0, None), line
        assert printed, line
    assert (run / "found" / "predictions.json").is_file()
    assert (run / "detections.png").is_file()
    assert (run / "eval_model_best" / "test_metrics.json").is_file()
    # The test split chooses no thresholds.
    assert not (run / "eval_model_best" / "operating_point.json").exists()


def test_predict_takes_the_thresholds_of_the_weights(run, train_data, tmp_path):
    point = find_operating_point(run / "model_best.pth")
    names = [one.name for one in point.classes]
    thresholds = dict(zip(names, point.thresholds(names)))
    assert any(one.threshold is not None for one in point.classes)
    written = json.loads((run / "operating_point.json").read_text())
    assert OperatingPoint.parse(written, "") == point
    assert (written["checkpoint"], written["split"], written["data"]) == ("model_best.pth", "val", "synthetic")
    info, _ = read_adapter(run / "adapter.safetensors")
    assert OperatingPoint.parse(info["metadata"]["operating_point"], "") == point

    merged = tmp_path / "merged.pth"
    start = ["--config-file", run / "config.yaml"]
    words = [*start, "--adapter", run / "adapter.safetensors", "--output", merged]
    assert call("tools/adapters.py", "merge", *words)[0] in (0, None)
    for weights in (run / "model_best.pth", run / "adapter.safetensors", merged):
        output = tmp_path / f"found_by_{weights.stem}"
        words = [*start, "--checkpoint", weights, "--no-pictures", "--output", output, train_data / "JPEGImages/val"]
        status, printed = call("tools/predict.py", *words)
        assert status in (0, None)
        assert f"{names[0]} {thresholds[names[0]]:g}" in printed and "best F1 on val" in printed
        content = json.loads((output / "predictions.json").read_text())
        assert content["info"]["score_threshold"] == thresholds
        ids = {category["id"]: category["name"] for category in content["categories"]}
        assert content["annotations"]
        assert all(row["score"] >= thresholds[ids[row["category_id"]]] for row in content["annotations"])
    assert call("tools/predict.py", *words, "--threshold", "0.5")[1].endswith("score threshold: 0.5 (given)\n")


def test_a_later_evaluation_chooses_anew(run, tmp_path, caplog):
    checkpoint = tmp_path / "weights.pth"
    checkpoint.write_bytes((run / "model_best.pth").read_bytes())
    assert find_operating_point(checkpoint) is None
    words = ["--config-file", run / "config.yaml", "--eval-only", "--checkpoint", checkpoint, "--split", "val"]
    overrides = ["train.operating_point.precision=0.3", f"train.output_dir={tmp_path}"]
    assert call("tools/lazyconfig_train_net.py", *words, *overrides)[0] in (0, None)
    assert find_operating_point(checkpoint).wished_precision == 0.3
    assert "Operating point (precision 0.3 on val)" in (tmp_path / "eval_weights" / "log.txt").read_text()

    torch.save(torch.load(checkpoint, weights_only=True) | {"more": 1}, tmp_path / "other.pth")
    words = ["--config-file", run / "config.yaml", "--checkpoint", tmp_path / "other.pth", "--num-images", "1"]
    logging.getLogger("loradet").propagate = True  # which the evaluation's own log files have ended
    assert call("tools/visualize.py", *words, "--output", tmp_path / "one.png")[0] in (0, None)
    assert "other.pth has no operating point: detections with a score of 0.3" in caplog.text


def test_validation_losses_and_pictures_are_reported_and_change_nothing(run, train_data, tmp_path):
    losses = [line for line in lines(run) if "val/total_loss" in line]
    assert [line["iteration"] for line in losses] == [line["iteration"] for line in lines(run) if "bbox/AP" in line]
    for line in losses:
        assert line["val/total_loss"] == pytest.approx(line["val/loss_cls"] + line["val/loss_box_reg"])
    events = EventAccumulator(str(run))
    events.Reload()
    assert events.Tags()["images"] == [f"val/{number}" for number in range(4)]
    assert [event.value for event in events.Scalars("val/total_loss")] == pytest.approx(
        [line["val/total_loss"] for line in losses]
    )
    picture = events.Images("val/2")[-1]
    assert (picture.width, picture.height > 100) == (6 + 320 + 2 + 320 + 6, True)

    start = f"train.init_checkpoint={run.parent}/a.pth"
    off = ["train.validation_loss.max_images=3", "train.validation_pictures=0", "dataloader.train.num_workers=0"]
    succeed(*arguments(train_data, tmp_path / "off", *SETTINGS, start, *off))
    ours, theirs = ([reproducible(line) for line in lines(folder)] for folder in (run, tmp_path / "off"))
    assert [{key: line[key] for key in line if not key.startswith("val/")} for line in ours] == theirs
    assert (run / "adapter.safetensors").read_bytes() == (tmp_path / "off" / "adapter.safetensors").read_bytes()
    log = (tmp_path / "off" / "log.txt").read_text()
    assert "No validation loss: val has 4 images, train.validation_loss.max_images is 3." in log
    events = EventAccumulator(str(tmp_path / "off"))
    events.Reload()
    assert events.Tags()["images"] == []
    same = [json.loads((folder / "run.json").read_text())["config_sha256"] for folder in (run, tmp_path / "off")]
    assert same[0] == same[1]


@pytest.mark.slow
def test_the_best_may_be_the_least_validation_loss(run, train_data, tmp_path):
    start = f"train.init_checkpoint={run.parent}/a.pth"
    words = ["train.best.metric=val/total_loss", "train.best.mode=min", "dataloader.train.num_workers=0"]
    succeed(*arguments(train_data, tmp_path / "out", *SETTINGS, start, *words, "train.eval_period=2"))
    found = {line["iteration"]: line["val/total_loss"] for line in lines(tmp_path / "out") if "val/total_loss" in line}
    best = json.loads((tmp_path / "out" / "run.json").read_text())["best"]
    assert (best["metric"], best["iteration"]) == ("val/total_loss", min(found, key=found.get))
    assert "val/total_loss" in ending(tmp_path / "out")
