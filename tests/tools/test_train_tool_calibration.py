"""One run with COCO's metrics, calibration and the speed of inference: what it leaves, and its evaluation alone."""

import json
import re
import shutil

import pytest
from helpers.paths import TEST_CONFIGS
from helpers.train_tool import arguments, call, lines, succeed

from loradet.config import load_config
from loradet.training.folder.record import config_hash

CONFIG = TEST_CONFIGS / "tiny_calibration.py"
WORDS = ["train.eval_splits=[val,test]", "train.max_iter=4"]


@pytest.fixture(scope="module")
def run(train_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrated") / "out"
    succeed(*arguments(train_data, folder, *WORDS, config=CONFIG))
    return folder


def read(path):
    return json.loads(path.read_text())


def test_both_evaluators_are_logged_and_printed(run):
    logged = [line for line in lines(run) if "bbox/AP" in line]
    assert logged and all("calibration/ECE" in line for line in logged)
    text = (run / "log.txt").read_text()
    assert re.search(r"Task: bbox\n.*AP,AP50,.*\n(.*\n)*.*Task: calibration\n.*ECE,NLL,Brier,D_ECE", text)


@pytest.mark.parametrize(("split", "source"), [("val", "halves of val"), ("test", "val")])
def test_metrics_files_have_all_figures(run, split, source):
    metrics = read(run / f"{split}_metrics.json")
    assert metrics["temperature_fitted_on"] == source
    coco = {name for name in metrics if name.startswith("coco/")}
    assert len({name for name in coco if "/" not in name.removeprefix("coco/")}) == 12
    assert {"coco/bbox_mAP/ship", "coco/bbox_AR@100/ship"} <= coco
    stored = read(run / "predictions" / split / "calibration.json")
    for name in ("ece", "nll", "brier", "d_ece"):
        assert metrics[f"calibration/{name}"] == stored["before"][name]
        assert metrics[f"calibration/{name}_scaled"] == stored["after"][name]
    assert metrics["calibration/temperature"] == stored["temperature"]["value"]
    assert ("halves" in stored["temperature"]) == (split == "val")
    assert (run / "predictions" / split / "reliability_diagram.png").is_file()


def test_a_temperature_is_the_one_of_the_first_split(run):
    val, test = (read(run / f"{split}_metrics.json") for split in ("val", "test"))
    assert test["calibration/temperature"] == val["calibration/temperature"]


def test_evaluating_one_split_alone_gives_the_same(run, train_data):
    succeed(*arguments(train_data, run, *WORDS, "--eval-only", "--split", "test", config=CONFIG))
    alone, metrics = read(run / "eval_model_best" / "test_metrics.json"), read(run / "test_metrics.json")
    assert alone["temperature_fitted_on"] == "val"
    for name in metrics:
        assert alone[name] == pytest.approx(metrics[name], nan_ok=True) or name == "checkpoint"


@pytest.mark.slow
def test_other_weights_are_fitted_on_their_own_detections(run, train_data, tmp_path):
    other = shutil.copy(run / "model_final.pth", tmp_path / "other.pth")
    words = ("--eval-only", "--checkpoint", other, "--split", "test")
    succeed(*arguments(train_data, run, *WORDS, *words, config=CONFIG))
    assert read(run / "eval_other" / "test_metrics.json")["temperature_fitted_on"] == "halves of test"


def test_the_record_has_the_speed_of_inference(run):
    record = read(run / "run.json")
    found = record["efficiency"]
    assert (found["split"], found["steps"], found["batch"], found["device"]) == ("val", 3, 1, "cpu")
    assert found["images/s"] > 0 and found["peak_memory_mb"] > 50
    assert found["data_share"] + found["forward_share"] + found["postprocessing_share"] == pytest.approx(1)
    assert found["smallest_image"] and found["largest_image"]
    assert 0 < record["train_seconds"] < record["wall_time_s"]


@pytest.mark.slow
def test_measuring_speed_does_not_make_it_another_run(train_data, tmp_path):
    words = [f"data.root={train_data}", f"train.output_dir={tmp_path}"]
    measured, plain = (load_config(str(CONFIG), [*words, f"train.efficiency.enabled={on}"]) for on in (True, False))
    del plain.train.efficiency  # as a run of an earlier version has it
    assert config_hash(measured) == config_hash(plain)


@pytest.mark.parametrize(
    ("word", "message"),
    [("train.efficiency.steps=0", "more than 0"), ("train.efficiency.warmup=1.5", "a whole number")],
)
def test_what_cannot_be_measured_is_said_at_once(train_data, tmp_path, word, message):
    status, stderr = call(*arguments(train_data, tmp_path / "out", word, config=CONFIG))
    assert status == 1
    assert word.partition("=")[0] in stderr and message in stderr
