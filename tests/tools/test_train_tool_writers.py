"""Runs reported to Trackio and Weights & Biases: what is there can be read back, however the run ends."""

import importlib.util
import json
import os
import socket
import subprocess
import sys

import pytest
import yaml
from helpers.train_tool import arguments, call, lines, reproducible, succeed

from loradet.training.trainer import Trainer

SETTINGS = ["train.max_iter=6", "train.eval_period=3", "train.checkpointer.period=2"]
needs_trackio = pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is not installed")


@pytest.fixture
def crash_at(monkeypatch):
    """Let the training fail at an iteration, once."""

    def arm(iteration):
        step = Trainer.run_step

        def run_step(self):
            if self.iter == iteration:
                monkeypatch.setattr(Trainer, "run_step", step)
                raise ValueError("the lights went out")
            step(self)

        monkeypatch.setattr(Trainer, "run_step", run_step)

    return arm


@pytest.fixture(scope="module")
def trackio(tmp_path_factory):
    """Trackio with its database in a temporary folder; any look at another machine is an error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))
        patch.setenv("HF_TOKEN", "hf_of_somebody")  # with which trackio would ask the Hub who that is
        reached = []
        connect = socket.socket.connect

        def refuse(*address, **_):
            reached.append(address)
            raise OSError("this test has no network")

        def connect_locally(self, address):
            # Data workers use sockets that are files.
            return connect(self, address) if self.family == socket.AF_UNIX else refuse(address)

        patch.setattr(socket.socket, "connect", connect_locally)
        patch.setattr(socket, "getaddrinfo", refuse)
        import trackio

        yield trackio
    assert not reached


@pytest.fixture(scope="module")
def finished(trackio, train_data, tmp_path_factory):  # noqa: ARG001 (its database)
    folder = tmp_path_factory.mktemp("finished") / "first_run"
    succeed(*arguments(train_data, folder, *SETTINGS, "train.trackio.project=crowd"))
    return folder


def metric(project, run, name):
    """Values of a metric as (step, value), as trackio's own command line tells them."""
    words = ["get", "metric", "--project", project, "--run", run, "--metric", name, "--json"]
    command = [sys.executable, "-c", "from trackio.cli import main; main()", *words]
    result = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr + result.stdout
    return [(row["step"], row["value"]) for row in json.loads(result.stdout)["values"]]


@needs_trackio
def test_config_and_metrics_are_read_back(trackio, finished):
    (run,) = trackio.Api().runs("crowd")
    assert run.name == "first_run"
    assert run.alerts() == []
    written = yaml.safe_load((finished / "config.yaml").read_text())
    assert run.config["optimizer.lr"] == written["optimizer"]["lr"] == 1e-3
    assert run.config["train.max_iter"] == 6
    assert run.config["model.backbone.bottom_up.targets"] == ["mlp.fc1", "mlp.fc2"]
    assert run.config["model.backbone.bottom_up._target_"].endswith("lora")
    for name in ("total_loss", "lr", "grad_norm", "bbox/AP"):
        ours = [(line["iteration"], line[name]) for line in lines(finished) if name in line]
        assert metric("crowd", "first_run", name) == ours, name
    assert len(metric("crowd", "first_run", "bbox/AP")) == 2
    assert [step for step, _ in metric("crowd", "first_run", "val/total_loss")] == [2, 5]
    pictures = metric("crowd", "first_run", "val/3")
    assert [step for step, _ in pictures] == [2, 5]
    assert all(value["_type"] == "trackio.image" for _, value in pictures)
    noted = json.loads((finished / "run.json").read_text())["run_ids"]
    assert noted == {"trackio": run.id, "trackio_name": "first_run"}


@needs_trackio
def test_a_writer_changes_nothing_of_a_run(finished, train_data, tmp_path):
    succeed(*arguments(train_data, tmp_path / "without", *SETTINGS))
    ours, theirs = lines(finished), lines(tmp_path / "without")
    assert [reproducible(line) for line in ours] == [reproducible(line) for line in theirs]
    records = [json.loads((folder / "run.json").read_text()) for folder in (finished, tmp_path / "without")]
    assert records[0]["config_sha256"] == records[1]["config_sha256"]
    # Two runs that are the same leave the same adapter, byte for byte.
    adapters = {(folder / "adapter.safetensors").read_bytes() for folder in (finished, tmp_path / "without")}
    assert len(adapters) == 1


@needs_trackio
@pytest.mark.parametrize(("when", "rate"), [("at the first iteration", 1e-3), ("in the middle", 1e20)])
def test_a_run_that_fails_is_finished_all_the_same(trackio, train_data, tmp_path, crash_at, when, rate):
    if rate < 1:
        crash_at(0)
    project = f"fails-{when.replace(' ', '-')}"
    words = [*SETTINGS, f"optimizer.lr={rate}", f"train.trackio.project={project}", "train.trackio.name=a name"]
    status, stderr = call(*arguments(train_data, tmp_path / "out", *words))
    assert status == 1
    assert len(stderr.splitlines()) == 1, stderr
    (run,) = trackio.Api().runs(project)
    assert run.name == "a name"
    assert run.config["optimizer.lr"] == rate
    (alert,) = run.alerts()
    assert (alert["title"], alert["level"]) == ("Run failed", "error")
    assert ("not finite" if rate > 1 else "the lights went out") in alert["text"]
    assert trackio.context_vars.current_run.get() is None
    if rate > 1:
        steps = [step for step, _ in metric(project, "a name", "total_loss")]
        assert steps == [line["iteration"] for line in lines(tmp_path / "out") if "total_loss" in line] == [0]


@needs_trackio
@pytest.mark.slow
def test_a_resumed_run_goes_on_with_its_own_history(trackio, train_data, tmp_path, crash_at):
    folder = tmp_path / "out"
    words = [*SETTINGS, "train.trackio.project=resumed"]
    crash_at(5)
    assert call(*arguments(train_data, folder, *words))[0] == 1
    # Iteration 4 was reported, and is after the last checkpoint. Another name makes no other run of it.
    succeed(*arguments(train_data, folder, *words, "train.trackio.name=other", "--resume"))
    (run,) = trackio.Api().runs("resumed")
    assert run.name == "out"
    assert [step for step, _ in metric("resumed", "out", "total_loss")] == list(range(6))
    succeed(*arguments(train_data, folder, *words, "train.overwrite=true"))
    assert [run.name for run in trackio.Api().runs("resumed")] == ["out", "out"]


@needs_trackio
@pytest.mark.slow
def test_the_older_of_two_runs_of_one_name_goes_on_by_its_id(trackio, train_data, tmp_path, crash_at):
    words = [*SETTINGS, "train.trackio.project=twice", "train.trackio.name=same"]
    crash_at(5)
    assert call(*arguments(train_data, tmp_path / "older", *words))[0] == 1
    succeed(*arguments(train_data, tmp_path / "newer", *words))
    ids = {
        folder: json.loads((tmp_path / folder / "run.json").read_text())["run_ids"]["trackio"]
        for folder in ("older", "newer")
    }
    before = metric("twice", "same", "total_loss")
    succeed(*arguments(train_data, tmp_path / "older", *words, "--resume"))
    runs = {run.id: run.name for run in trackio.Api().runs("twice")}
    assert runs == {ids["older"]: f"same-{ids['older'][:6]}", ids["newer"]: "same"}
    assert [step for step, _ in metric("twice", runs[ids["older"]], "total_loss")] == list(range(6))
    assert metric("twice", "same", "total_loss") == [
        (line["iteration"], line["total_loss"]) for line in lines(tmp_path / "newer") if "total_loss" in line
    ]
    assert len(before) >= 6
    log = (tmp_path / "older" / "log.txt").read_text()
    assert f"has a newer run that is called 'same' too; the one that goes on is called '{runs[ids['older']]}'" in log
    # One that is gone is not taken for another: a new one begins, and is said.
    (run,) = (one for one in trackio.Api().runs("twice") if one.id == ids["older"])
    run.delete()
    record = json.loads((tmp_path / "older" / "run.json").read_text())
    (tmp_path / "older" / "run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    succeed(*arguments(train_data, tmp_path / "older", *words, "--resume", "train.max_iter=8"))
    assert f"has no run with the id {ids['older']}" in (tmp_path / "older" / "log.txt").read_text()
    names = [one.name for one in trackio.Api().runs("twice")]
    assert names == ["same", "same"]
    assert len(metric("twice", "same", "total_loss")) == 2  # iterations 6 and 7, of the newest


@needs_trackio
@pytest.mark.slow
@pytest.mark.parametrize("names", [1, 2])
def test_a_run_that_was_noted_by_name_goes_on_where_it_is_alone(trackio, train_data, tmp_path, crash_at, names):
    words = [*SETTINGS, f"train.trackio.project=noted-{names}", "train.trackio.name=same"]
    crash_at(5)
    assert call(*arguments(train_data, tmp_path / "out", *words))[0] == 1
    for _ in range(names - 1):
        succeed(*arguments(train_data, tmp_path / "other", *words))
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    (tmp_path / "out" / "run.json").write_text(json.dumps(record | {"run_ids": {"trackio": "same"}}))
    succeed(*arguments(train_data, tmp_path / "out", *words, "--resume"))
    assert len(trackio.Api().runs(f"noted-{names}")) == (1 if names == 1 else 3)
    assert ("a new run begins" in (tmp_path / "out" / "log.txt").read_text()) == (names == 2)


@needs_trackio
def test_a_tracker_that_fails_does_not_stop_training(trackio, train_data, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("the database is gone")

    log = trackio.Run.log
    monkeypatch.setattr(trackio.Run, "log", lambda *a, **k: fail() if "total_loss" in a[1] else log(*a, **k))
    monkeypatch.setattr(trackio, "finish", fail)
    succeed(*arguments(train_data, tmp_path / "out", *SETTINGS, "train.trackio.project=gone"))
    log = (tmp_path / "out" / "log.txt").read_text()
    assert log.count("TrackioWriter fails (RuntimeError: the database is gone); training goes on") == 1
    assert len(lines(tmp_path / "out")) == 6


@needs_trackio
@pytest.mark.usefixtures("trackio")
def test_a_space_without_a_token_is_an_error_before_training(train_data, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr("huggingface_hub.utils._auth._get_token_from_file", lambda: None)
    words = ["train.trackio.project=remote", "train.trackio.space_id=somebodys"]
    status, stderr = call(*arguments(train_data, tmp_path / "out", *SETTINGS, *words))
    assert status == 1
    assert "train.trackio: run 'out' of project 'remote' cannot be opened" in stderr
    assert "logged in" in stderr
    assert not lines(tmp_path / "out")


FAKE_WANDB = '''
"""Notes what it is told, as lines of JSON."""
import json, os, pathlib

def note(**line):
    with open(os.environ["FAKE_WANDB"], "a") as file:
        file.write(json.dumps(line) + "\\n")

class Image:
    def __init__(self, pixels):
        self.shape = list(pixels.shape)

class Run:
    def __init__(self, id, step):
        self.id, self.step, self.summary = id or "run-of-wandb", step, {}
    def log(self, scalars, step):
        if pictures := {name: value.shape for name, value in scalars.items() if isinstance(value, Image)}:
            note(pictures=pictures, at=step)
            return
        if os.environ.get("FAKE_WANDB_FAILS"):
            raise ConnectionError("no answer")
        note(step=step, **scalars)
    def finish(self, exit_code):
        note(finish=exit_code, **self.summary)

def init(**arguments):
    if arguments["mode"] == "online":
        raise RuntimeError("No API key configured.")
    note(init=arguments)
    past = [json.loads(line) for line in open(os.environ["FAKE_WANDB"])] if arguments["resume"] else []
    return Run(arguments["id"], max([line["step"] + 1 for line in past if "step" in line], default=0))
'''


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    """A stand-in for wandb; gives the lines that it noted."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "wandb.py").write_text(FAKE_WANDB)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.syspath_prepend(tmp_path / "fake")
    monkeypatch.setenv("FAKE_WANDB", str(tmp_path / "noted"))
    yield lambda: [
        line for line in map(json.loads, (tmp_path / "noted").read_text().splitlines()) if "pictures" not in line
    ]
    sys.modules.pop("wandb", None)


def test_wandb_is_told_the_same(wandb, train_data, tmp_path, crash_at):
    folder = tmp_path / "out"
    words = [*SETTINGS, "train.wandb.project=crowd", "train.wandb.entity=us", "train.wandb.mode=offline"]
    crash_at(5)
    assert call(*arguments(train_data, folder, *words))[0] == 1
    first, *steps, last = wandb()
    told = first["init"]
    assert (told["project"], told["entity"], told["name"], told["mode"]) == ("crowd", "us", "out", "offline")
    assert (told["id"], told["resume"], told["dir"]) == (None, None, str(folder))
    assert told["config"]["optimizer.lr"] == 1e-3
    assert [line["step"] for line in steps] == list(range(5))
    assert {"step", "total_loss", "lr"} < set(steps[0])
    assert (last["finish"], last["status"]) == (1, "failed")
    assert "the lights went out" in last["error"]
    succeed(*arguments(train_data, folder, *words, "--resume"))
    pictures = [line for line in map(json.loads, (tmp_path / "noted").read_text().splitlines()) if "pictures" in line]
    assert [(line["at"], len(line["pictures"])) for line in pictures] == [(2, 4), (5, 4)]
    assert all(shape[2] == 3 for line in pictures for shape in line["pictures"].values())
    second, *steps, last = wandb()[7:]
    assert (second["init"]["id"], second["init"]["resume"]) == ("run-of-wandb", "allow")
    assert [line["step"] for line in steps] == [5]
    assert last == {"finish": 0, "status": "finished"}


def test_a_part_without_a_tracker_keeps_the_id_for_the_next(wandb, train_data, tmp_path, crash_at):
    folder = tmp_path / "out"
    words = [*SETTINGS, "train.wandb.project=crowd", "train.wandb.mode=offline"]
    crash_at(3)
    assert call(*arguments(train_data, folder, *words))[0] == 1
    crash_at(5)
    assert call(*arguments(train_data, folder, *SETTINGS, "--resume"))[0] == 1
    record = json.loads((folder / "run.json").read_text())
    assert (record["resumed_at"], record["run_ids"]) == (2, {"wandb": "run-of-wandb"})
    succeed(*arguments(train_data, folder, *words, "--resume"))
    assert [line["init"]["id"] for line in wandb() if "init" in line] == [None, "run-of-wandb"]
    assert json.loads((folder / "run.json").read_text())["run_ids"] == {"wandb": "run-of-wandb"}


@pytest.mark.usefixtures("wandb")
def test_what_wandb_does_not_take_is_one_line(train_data, tmp_path):
    words = [*SETTINGS, "train.wandb.project=crowd", "train.wandb.mode=online"]
    status, stderr = call(*arguments(train_data, tmp_path / "out", *words))
    assert status == 1
    assert "train.wandb: run 'out' of project 'crowd' cannot be opened: RuntimeError: No API key" in stderr
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "failed"


def test_wandb_that_does_not_answer_does_not_stop_training(wandb, train_data, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_WANDB_FAILS", "1")
    succeed(*arguments(train_data, tmp_path / "out", *SETTINGS, "train.wandb.project=crowd"))
    log = (tmp_path / "out" / "log.txt").read_text()
    assert log.count("WandbWriter fails (ConnectionError: no answer); training goes on") == 1
    assert wandb()[-1] == {"finish": 0, "status": "finished"}


@pytest.mark.parametrize("package", ["trackio", "wandb"])
def test_a_package_that_is_not_installed(package, train_data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # makes the import fail
    status, stderr = call(*arguments(train_data, tmp_path / "out", *SETTINGS, f"train.{package}.project=crowd"))
    assert status == 1
    assert len(stderr.splitlines()) == 1
    assert f"pip install -e '.[{package}]'" in stderr
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.trackio.projekt=crowd", "train.trackio.project"),
        ("train.trackio.project=3", "train.trackio.project=3: expected a text, or null"),
        ("train.trackio.project=' '", "train.trackio.project is empty"),
        ("train.trackio.space_id=a/b", "train.trackio.space_id='a/b' has no effect without train.trackio.project"),
        ("train.wandb.mode=offline", "no effect without train.wandb.project"),
        ("train.hub.private=3", "train.hub.private=3: expected true or false"),
        ("train.hub.repo_id=[a]", "train.hub.repo_id"),
    ],
)
def test_settings_that_make_no_sense(override, expected, train_data, tmp_path):
    status, stderr = call(*arguments(train_data, tmp_path / "out", override))
    assert status == 1
    assert expected in stderr
    assert not (tmp_path / "out").exists()


def test_an_unknown_mode_of_wandb(train_data, tmp_path):
    words = ["train.wandb.project=crowd", "train.wandb.mode=on"]
    assert '"offline"' in call(*arguments(train_data, tmp_path / "out", *words))[1]
