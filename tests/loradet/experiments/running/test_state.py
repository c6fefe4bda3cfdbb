"""How far a run is, told from its folder."""

import json
import os
from dataclasses import replace

import pytest
from helpers.engine_study import entry, leave_attempt, leave_metrics, leave_record, study

from loradet.experiments.running.execution import execute
from loradet.experiments.running.lock import run_lock
from loradet.experiments.running.planning import plan
from loradet.experiments.running.state import inspect


@pytest.fixture(scope="module")
def planned():
    (run,) = plan(study(entry(overrides=("data.root=nowhere",), splits=("val", "test"))))
    _ = run.config
    return run


@pytest.fixture
def run(planned, tmp_path):
    """A run without files in a folder of its own; where it is written is no part of its identity."""
    moved = replace(planned, root=tmp_path)
    moved.__dict__["config"] = planned.config
    return moved


def with_entry(run, **values):
    changed = replace(run, entry=replace(run.entry, **values))
    changed.__dict__["config"] = run.config
    return changed


def state(run):
    result = inspect(run)
    return result.state, result.detail


def test_an_empty_folder_is_a_missing_run(run):
    assert state(run) == ("missing", "")
    run.folder.mkdir()
    assert state(run) == ("missing", "")


def test_a_finished_run_gives_its_numbers(run):
    leave_record(run, wall_time_s=5.0)
    leave_metrics(run, data="synthetic")
    result = inspect(run)
    assert (result.state, result.detail, result.synthetic) == ("finished", "", True)
    assert result.metrics["val"]["coco/bbox_mAP"] == 0.25
    assert result.metrics["test"]["coco/bbox_mAP_s"] != result.metrics["test"]["coco/bbox_mAP_s"]  # NaN
    assert set(result.metrics["val"]) == {"coco/bbox_mAP", "coco/bbox_mAP_50", "coco/bbox_mAP_s"}
    assert result.record["wall_time_s"] == 5.0


def test_a_run_of_another_config_is_never_a_finished_one(run):
    leave_record(run)
    leave_metrics(run)
    other = replace(run, seed=7, root=run.root)
    other.__dict__["config"] = run.config.copy()
    other.config.train.seed = 7
    found = replace(other, entry=replace(run.entry, seeds=(7,)))
    found.__dict__["config"] = other.config
    assert found.folder == run.folder
    result = inspect(found)
    assert result.state == "changed"
    assert str(run.folder) in result.detail
    assert result.metrics == {}


def test_a_run_that_stands_still_was_interrupted(run):
    for status in ("running", "interrupted"):
        leave_record(run, status, iteration=3)
        assert state(run) == ("interrupted", "after iteration 3")
    leave_attempt(run, 130, "Interrupted; everything is saved.")
    assert state(run)[0] == "interrupted"


def test_a_failed_try_counts_until_the_training_begins_again(run):
    leave_attempt(run, 1, "Traceback", "error: no data")
    assert state(run) == ("failed", "error: no data")
    leave_record(run, "running")
    leave_attempt(run, -9, "iteration 3")
    assert state(run) == ("failed", "ended by SIGKILL")
    leave_attempt(run, -9, "iteration 3", ended=1.0)  # the record was written after that
    assert state(run)[0] == "interrupted"
    leave_attempt(run, 130)
    os.remove(run.folder / "run.json")  # noqa: PTH107
    assert state(run) == ("missing", "")  # interrupted before it began


def test_training_says_itself_that_it_failed(run):
    leave_record(run, "failed", error="NonFiniteLossError: loss_cls is nan")
    assert state(run) == ("failed", "NonFiniteLossError: loss_cls is nan")


def test_a_finished_run_without_a_split_is_incomplete(run):
    leave_record(run)
    assert state(run) == ("incomplete", "finished, but not evaluated on val, test")
    leave_metrics(run)
    assert state(run)[0] == "finished"
    (run.folder / "test_metrics.json").unlink()
    assert state(run) == ("incomplete", "finished, but not evaluated on test")


@pytest.mark.parametrize("name", ["val_metrics.json", "run.json", "attempts.json"])
@pytest.mark.parametrize("part", [0.5, 0.0])
def test_a_file_cut_in_half_is_an_error_that_names_it(run, name, part):
    leave_record(run)
    leave_metrics(run)
    leave_attempt(run, 0)
    file = run.folder / name
    text = file.read_text()
    file.write_text(text[: int(part * len(text))])
    with pytest.raises(ValueError) as caught:
        inspect(run)
    assert str(caught.value).startswith("Entry a: ")
    assert str(file) in str(caught.value)
    before = sorted(path.name for path in run.folder.iterdir())
    with pytest.raises(ValueError):
        execute(run)  # carries nothing out
    assert sorted(path.name for path in run.folder.iterdir() if path.name != ".lock") == before


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"checks": {"trainable": {"backbone": 1.002}}}, ["check trainable", "1.000 M", "1.002 M"]),
        ({"checks": {"trainable": {"neck": 0.5}}}, ["check trainable", "neck", "0.000 M"]),
        ({"checks": {"metric_at_least": {"val coco/bbox_mAP": 0.26}}}, ["metric_at_least", "0.250", "0.26"]),
        ({"checks": {"metric_at_least": {"val coco/bbox_mAP_s": 0.1}}}, ["metric_at_least", "nan"]),
        ({"checks": {"metric_at_least": {"val coco/bbox_mAPS": 0.1}}}, ["metric_at_least", "no coco/bbox_mAPS"]),
        ({"metrics": ("coco/bbox_mAP", "coco/bbox_AR@1")}, ["val_metrics.json", "no coco/bbox_AR@1"]),
    ],
)
def test_a_check_can_fail_a_finished_run(run, values, words):
    leave_record(run)
    leave_metrics(run)
    found = inspect(with_entry(run, **values))
    assert (found.state, found.metrics) == ("failed", {})
    assert all(word in found.detail for word in words), found.detail
    # It would fail again: nothing is carried out.
    assert execute(with_entry(run, **values)).detail == found.detail
    assert not (run.folder / "attempts.json").exists()


def test_checks_that_hold_pass(run):
    leave_record(run)
    leave_metrics(run)
    checks = {"trainable": {"backbone": 1.0004}, "metric_at_least": {"val coco/bbox_mAP": 0.25}}
    assert inspect(with_entry(run, checks=checks)).state == "finished"


def test_a_bound_of_a_split_that_a_smoke_run_lacks_is_passed_over(run):
    smoke = replace(run, mode="smoke")
    smoke.__dict__["config"] = run.config
    leave_record(smoke)
    leave_metrics(smoke)
    checks = {"metric_at_least": {"val coco/bbox_mAP": 0.9}}
    assert inspect(with_entry(smoke, checks=checks)).state == "finished"
    assert inspect(with_entry(smoke, checks={"metric_at_least": {"smoke coco/bbox_mAP": 0.9}})).state == "failed"


def test_a_locked_folder_is_running(run):
    leave_record(run)
    leave_metrics(run)
    with run_lock(run.folder):
        assert state(run) == ("running", f"process {os.getpid()}")
        assert inspect(run, ignore_lock=True).state == "finished"
    assert state(run) == ("finished", "")


def test_waiting_for_a_lock_can_be_stopped(run):
    with run_lock(run.folder), pytest.raises(InterruptedError), run_lock(run.folder, is_stopped=lambda: True):
        pass


def pictures_of(run):
    shown = entry("p", kind="pictures", config="", sources=("a",))
    return replace(run, entry=shown, sources=(run,))


def test_pictures_wait_for_a_source_and_follow_it(run):
    pictures = pictures_of(run)
    assert state(pictures) == ("waiting", "for a finished run of a")
    leave_record(run)
    leave_metrics(run)
    (run.folder / "model_best.pth").touch()
    assert state(pictures) == ("missing", "to paint: a_full")
    leave_attempt(pictures, 1, "error: no space")
    assert state(pictures) == ("failed", "error: no space")
    leave_attempt(pictures, 0)
    manifest = pictures.folder / "a_full" / "manifest.json"
    manifest.parent.mkdir()
    manifest.write_text(json.dumps({}))
    os.utime(run.folder / "model_best.pth", (1.0, 1.0))
    assert state(pictures) == ("finished", "")
    os.utime(run.folder / "model_best.pth", (2e9, 2e9))  # trained afresh
    assert state(pictures)[0] == "missing"
