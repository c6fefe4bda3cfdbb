"""What one whole run of the training tool leaves behind, and what `--eval-only` makes of it."""

import fnmatch
import json
import re
import shutil
from pathlib import Path

import detectron2
import pytest
import torch
from detectron2.config import LazyConfig
from detectron2.data import DatasetCatalog
from detectron2.engine import default_argument_parser
from helpers.train_tool import CONFIG, arguments, call, lines, snapshot, succeed, tool
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import detectron2_embedded
from loradet.cli import evaluate
from loradet.evaluation import coco_metrics
from loradet.run_folder import RunFolder
from loradet.training.folder import metrics_log

SPLITS = ("val", "test")
SETTINGS = ["train.eval_splits=[val,test]", "train.checkpointer.max_to_keep=2", "model.test_score_thresh=0.0"]


@pytest.fixture(scope="module")
def run(train_data, tmp_path_factory):
    """Output folder of a finished run; tests that write take a copy."""
    folder = tmp_path_factory.mktemp("run") / "out"
    succeed(*arguments(train_data, folder, *SETTINGS, "train.max_iter=9", "train.clip_grad.max_norm=5.0"))
    return folder


@pytest.fixture
def own_run(run, tmp_path):
    """A copy of it, free to change."""
    return shutil.copytree(run, tmp_path / "own")


def read(path):
    return json.loads(path.read_text())


def forget_data():
    """A user's next command is another process, which has registered nothing."""
    for name in ("tiny_train", "tiny_val", "tiny_test"):
        DatasetCatalog.pop(name, None)


def best_iteration(run):
    values = [(line["bbox/AP"], -line["iteration"]) for line in lines(run) if "bbox/AP" in line]
    return -max(values)[1]


def test_the_folder_holds_what_a_run_leaves_and_no_temporary_file(run):
    names = {path.name for path in run.iterdir()}
    events = {name for name in names if name.startswith("events.out.tfevents.")}
    assert len(events) == 1
    assert names - events == {
        *("config.yaml", "log.txt", "metrics.json", "run.json", "parameters.json", "last_checkpoint"),
        *("model_0000007.pth", "model_final.pth", "model_best.pth", "adapter.safetensors", "operating_point.json"),
        *("val_metrics.json", "test_metrics.json", "predictions", ".lock"),
    }
    for split in SPLITS:
        assert (run / "predictions" / split / "coco_instances_results.json").is_file()
    assert (run / "last_checkpoint").read_text() == "model_final.pth"


def test_metrics_json_has_a_line_for_each_period(run):
    written = lines(run)
    assert [line["iteration"] for line in written] == list(range(9))
    for line in written:
        assert line["total_loss"] == pytest.approx(line["loss_cls"] + line["loss_box_reg"], rel=0.5)  # medians
        assert {"lr", "grad_norm", "data_time", "time", "memory_mb"} <= line.keys()
        assert line["memory_mb"] > 50
        assert line["grad_norm"] > 0
    # Evaluated every 4 iterations and after the last one.
    assert [line["iteration"] for line in written if "bbox/AP" in line] == [3, 7, 8]


def test_tensorboard_holds_the_same_numbers(run):
    events = EventAccumulator(str(run)).Reload()
    written = {line["iteration"]: line for line in lines(run)}
    for tag in ("total_loss", "loss_cls", "loss_box_reg", "lr", "grad_norm", "data_time", "memory_mb", "bbox/AP"):
        scalars = {event.step: event.value for event in events.Scalars(tag)}
        assert scalars == pytest.approx({i: line[tag] for i, line in written.items() if tag in line}, rel=1e-5)


def test_metrics_files_name_the_best_checkpoint_and_its_iteration(run):
    expected = best_iteration(run)
    assert torch.load(run / "model_best.pth", weights_only=True)["iteration"] == expected
    for split in SPLITS:
        metrics = read(run / f"{split}_metrics.json")
        assert metrics["checkpoint"] == str(run / "model_best.pth")
        assert metrics["iteration"] == expected
        assert metrics["split"] == split
        assert {"coco/bbox_mAP", "coco/bbox_mAP_50", "coco/bbox_AR@100", "coco/bbox_mAP/ship"} <= metrics.keys()
    ap = next(line["bbox/AP"] for line in lines(run) if line["iteration"] == expected)
    assert read(run / "val_metrics.json")["coco/bbox_mAP"] == pytest.approx(ap / 100, abs=1e-6)


def test_run_json_is_complete(run):
    record = read(run / "run.json")
    assert record["status"] == "finished"
    assert record["seed"] == 0
    assert record["iteration"] == 8
    assert record["device"].startswith("CPU")
    assert record["images_per_s"] > 0
    assert record["peak_memory_mb"] > 50
    assert record["wall_time_s"] > 0
    assert record["best"]["iteration"] == best_iteration(run)
    assert {"loradet", "detectron2", "torch", "python"} <= record["versions"].keys()
    assert "git_revision" in record
    parts = record["parameters"]
    assert 0 < parts["backbone"]["trainable"] < parts["backbone"]["total"]
    assert parts["all"]["total"] == sum(parts[name]["total"] for name in ("backbone", "neck", "head"))
    assert read(run / "parameters.json")["all"] == parts["all"]


def test_log_and_record_say_which_detectron2_is_in_use(run):
    version, kind = detectron2.__version__, "embedded" if detectron2_embedded.is_embedded() else "installed"
    first, second = (run / "log.txt").read_text().splitlines()[:2]
    folder = Path(detectron2.__file__).resolve().parent
    assert f"Detectron2 in use: {kind} {version} ({folder}" in first and "Process 0 of 1" in second
    label, _, revision = read(run / "run.json")["versions"]["detectron2"].partition(" (")
    assert label == f"{kind} {version}"
    assert not revision or re.fullmatch(r"[0-9a-f]{12}(\+changes)?\)", revision)


def test_what_trains_is_in_the_log(run):
    log = (run / "log.txt").read_text()
    assert "What trains:" in log
    assert "trainable (M)" in log


def test_the_adapter_is_small_and_names_the_classes(run):
    with safe_open(run / "adapter.safetensors", "pt") as file:
        names = set(file.keys())
        header = json.dumps(file.metadata())
    assert "ship" in header
    assert any(name.endswith("lora_a") for name in names)
    state = torch.load(run / "model_best.pth", weights_only=True)["model"]
    assert not any(name.endswith("mlp.fc1.weight") for name in names)
    assert names < state.keys()


def test_all_that_a_run_leaves_is_described(run):
    files = [path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()]
    files = [file for file in files if not file.startswith("eval_")]  # of tests that evaluate it
    assert [file for file in files if not _is_described(file, RunFolder.CONTENTS)] == []
    numbers = {key for line in lines(run) for key in line}
    assert [name for name in numbers if not _is_described(name, metrics_log.MEANINGS)] == []
    metrics = [name for name in read(run / "val_metrics.json") if "/" in name]
    assert [name for name in metrics if not _is_described(name, coco_metrics.MEANINGS)] == []


def _is_described(name, meanings):
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in meanings)


def test_the_saved_config_is_resolved_and_runs(run, tmp_path):
    cfg = LazyConfig.load(str(run / "config.yaml"))
    assert cfg.train.max_iter == 9
    assert cfg.lr_multiplier.max_iter == 9
    output = tmp_path / "metrics.json"
    overrides = [f"train.output_dir={tmp_path / 'elsewhere'}"]
    saved = ["--config-file", str(run / "config.yaml"), "--eval-only", "--checkpoint", str(run / "model_best.pth")]
    succeed(*saved, "--split", "val", "--output-json", str(output), *overrides)
    ours, runs = read(output), read(run / "val_metrics.json")
    assert ours == {**runs, "checkpoint": str(run / "model_best.pth")}


@pytest.mark.parametrize("checkpoint", [None, "adapter.safetensors", "model_0000007.pth"])
def test_evaluation_alone_replaces_nothing_of_the_run(run, train_data, checkpoint):
    before = snapshot(run)
    chosen = ["--checkpoint", str(run / checkpoint)] if checkpoint else []
    settings = ["train.eval_splits=[val,test]", "model.test_score_thresh=0.0"]
    succeed(*arguments(train_data, run, "--eval-only", *chosen, *settings))
    after = snapshot(run)
    folder = f"eval_{(checkpoint or 'model_best').partition('.')[0]}"
    assert {name: digest for name, digest in after.items() if not name.startswith("eval_")} == {
        name: digest for name, digest in before.items() if not name.startswith("eval_")
    }
    for split in SPLITS:
        metrics = read(run / folder / f"{split}_metrics.json")
        expected = read(run / f"{split}_metrics.json")
        if checkpoint == "model_0000007.pth":
            assert metrics["iteration"] == 7
            continue
        assert metrics["coco/bbox_mAP"] == pytest.approx(expected["coco/bbox_mAP"], abs=1e-9)
        assert metrics["coco/bbox_AR@100"] == pytest.approx(expected["coco/bbox_AR@100"], abs=1e-9)


def test_an_evaluation_goes_to_the_folder_that_is_named(run, train_data, tmp_path, monkeypatch):
    output, before = tmp_path / "later", snapshot(run)
    monkeypatch.setattr(tool, "parse_arguments", evaluate.parse_arguments)
    words = arguments(train_data, run, "--split", "val", "model.test_score_thresh=0.0")
    succeed(*words, "--output", str(output))
    assert read(output / "val_metrics.json")["coco/bbox_mAP"] == read(run / "val_metrics.json")["coco/bbox_mAP"]
    assert (output / "predictions" / "val" / "coco_instances_results.json").is_file()
    status, stderr = call(*words, "--output", str(run))
    assert status == 1 and f"{run} is the folder of a run" in stderr
    assert snapshot(run) == before


def test_a_second_run_does_not_touch_the_first(own_run, train_data):
    before = snapshot(own_run)
    status, stderr = call(*arguments(train_data, own_run, "train.max_iter=2"))
    assert status == 1
    assert str(own_run) in stderr
    assert "--resume" in stderr
    assert "train.overwrite=True" in stderr
    assert snapshot(own_run) == before


def test_resuming_a_finished_run_changes_nothing(own_run, train_data):
    settings = ["train.eval_splits=[val,test]", "train.checkpointer.max_to_keep=2", "model.test_score_thresh=0.0"]
    before = snapshot(own_run)
    words = [*settings, "train.max_iter=9", "train.clip_grad.max_norm=5.0"]
    succeed(*arguments(train_data, own_run, "--resume", *words))
    after = snapshot(own_run)
    assert {**after, "log.txt": ""} == {**before, "log.txt": ""}


def test_a_finished_run_goes_on_where_more_iterations_are_asked_for(own_run, train_data):
    succeed(*arguments(train_data, own_run, "--resume", "train.max_iter=12", "model.test_score_thresh=0.0"))
    assert [line["iteration"] for line in lines(own_run)] == list(range(12))
    record = read(own_run / "run.json")
    assert (record["resumed_at"], record["iteration"], record["status"]) == (9, 11, "finished")


def test_overwriting_begins_anew_and_leaves_other_files_alone(own_run, train_data):
    for name in ("notes.json", "model_zoo.pth"):
        (own_run / name).write_text("mine")
    succeed(*arguments(train_data, own_run, "train.overwrite=True", "train.max_iter=3"))
    assert [line["iteration"] for line in lines(own_run)] == [0, 1, 2]
    assert not (own_run / "test_metrics.json").exists()
    assert not (own_run / "model_0000007.pth").exists()
    assert (own_run / "notes.json").read_text() == (own_run / "model_zoo.pth").read_text() == "mine"
    assert sorted(e.step for e in EventAccumulator(str(own_run)).Reload().Scalars("total_loss")) == [0, 1, 2]


def test_overwriting_with_a_mistake_loses_nothing(own_run, train_data):
    before = snapshot(own_run)
    mistake = "train.init_checkpoint=nowhere.pth"
    status, stderr = call(*arguments(train_data, own_run, "train.overwrite=True", mistake))
    assert status == 1
    assert "nowhere.pth" in stderr
    assert {**snapshot(own_run), "log.txt": ""} == {**before, "log.txt": ""}


def test_every_flag_of_detectron2_is_there():
    theirs = {flag for action in default_argument_parser()._actions for flag in action.option_strings}
    values = {"--num-gpus": "2", "--num-machines": "2", "--machine-rank": "1", "--dist-url": "tcp://a:1"}
    for flag in theirs - {"-h", "--help", "--config-file"}:
        words = ["--config-file", CONFIG, flag, *([values[flag]] if flag in values else []), "a.b=1"]
        parsed = tool.parse_arguments(words)
        assert parsed.overrides == ["a.b=1"]
        assert (
            getattr(parsed, flag[2:].replace("-", "_"))
            != tool.parse_arguments(["--config-file", "x"]).__dict__[flag[2:].replace("-", "_")]
        )


@pytest.mark.parametrize(
    "words", [["--split", "val"], ["--eval-only", "--resume"], ["--eval-only", "--output-json", "x.json"], []]
)
def test_contradicting_arguments_are_refused(words, capsys):
    with pytest.raises(SystemExit) as stop:
        tool.parse_arguments([*(["--config-file", "x"] if words else []), *words])
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_the_record_says_on_what_data(run, train_data):
    data = read(run / "run.json")["data"]
    assert list(data) == ["train", "val", "test"]
    for split, described in data.items():
        content = read(train_data / "Annotations" / f"{split}.json")
        assert described["source"] == str(train_data / "Annotations" / f"{split}.json")
        assert described["num_images"] == len(content["images"])
        assert described["synthetic"]
        assert read(run / f"{split}_metrics.json")["data"] == "synthetic" if split != "train" else True
    assert len({described["fingerprint"] for described in data.values()}) == 3


def test_a_smoke_run_leaves_smoke_metrics(train_data, tmp_path):
    succeed(*arguments(train_data, tmp_path / "out", "train.max_iter=1", "train.smoke=True"))
    metrics = read(tmp_path / "out" / "smoke_metrics.json")
    assert metrics["split"] == "val" and "coco/bbox_mAP" in metrics
    assert not (tmp_path / "out" / "val_metrics.json").exists()
    code, text = call(*arguments(train_data, tmp_path / "two", "train.smoke=True", "train.eval_splits=[val,test]"))
    assert code == 1 and "train.smoke=True: expected one split" in text


def test_a_finished_run_on_data_that_have_changed_since_is_not_the_same_run(own_run, train_data, tmp_path):
    data = shutil.copytree(train_data, tmp_path / "data")
    words = [*SETTINGS, "train.max_iter=9", "train.clip_grad.max_norm=5.0"]
    moved = arguments(data, own_run, "--resume", *words)
    forget_data()
    assert call(*moved)[0] == 0  # the same data at another place
    forget_data()
    file = data / "Annotations" / "train.json"
    file.write_text(file.read_text().replace('"synthetic"', '"painted"'))
    before = snapshot(own_run)
    code, text = call(*moved)
    assert code == 1 and "made on other data" in text
    assert {k: v for k, v in snapshot(own_run).items() if "log" not in str(k)} == {
        k: v for k, v in before.items() if "log" not in str(k)
    }
