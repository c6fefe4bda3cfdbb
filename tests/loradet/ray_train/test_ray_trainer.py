"""A training in Ray Train is the training of `loradet train`, and goes on where a worker is killed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.train_tool import CONFIG, ROOT, arguments, lines, reproducible, start

import loradet.ray
from loradet.config import load_config
from loradet.datasets.synthetic import generate
from loradet.errors import UserError
from loradet.ray import worker
from loradet.ray.worker import restore
from loradet.run_folder import RunFolder


def weights(file):
    return torch.load(file, weights_only=True)["model"]


def assert_same(ours: RunFolder, theirs: RunFolder):
    for name in (RunFolder.FINAL, RunFolder.BEST):
        one, other = weights(ours.path / name), weights(theirs.path / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[key]) for key, value in one.items())
    assert [reproducible(line) for line in lines(ours.path)] == [reproducible(line) for line in lines(theirs.path)]
    metrics = [json.loads(folder.split_metrics("val").read_text()) for folder in (ours, theirs)]
    assert metrics[0]["coco/bbox_mAP"] == metrics[1]["coco/bbox_mAP"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("ray") / "scenes", size=64, counts={"train": 12, "val": 4})


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine, small."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        # Ray's workers have a niceness of 15, with which they starve beside other tests.
        variables = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
        for name, value in variables.items():
            patch.setenv(name, value)
        small = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 100_000_000}
        for number in range(4):
            try:
                ray.init(address="local", log_to_driver=False, **small)
                break
            except Exception as error:  # a busy machine is not ready within Ray's 30 s
                ray.shutdown()
                if number == 3 or "timed out during startup" not in str(error):
                    raise
        try:
            yield ray
        finally:
            ray.shutdown()


@pytest.fixture(scope="module")
def torchrun(data, tmp_path_factory):
    """The same training by `--num-gpus 2`."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    process = start(*arguments(data, folder, "--num-gpus", "2"))
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stderr
    return RunFolder(folder)


def overrides(data, folder):
    return [f"data.root={data}", f"train.output_dir={folder}", "train.device=cpu"]


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_two_workers_train_what_two_processes_train(data, torchrun, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the folder is relative to where the driver stands
    result = loradet.ray.trainer(str(ROOT / CONFIG), overrides(data, "run"), num_workers=2).fit()
    folder = RunFolder(tmp_path / "run")
    assert_same(folder, torchrun)
    expected = json.loads(torchrun.split_metrics("val").read_text())["coco/bbox_mAP"]
    assert result.metrics["val/coco/bbox_mAP"] == expected
    assert result.metrics["status"] == "finished"
    with result.checkpoint.as_directory() as kept:
        names = {file.name for file in Path(kept).iterdir()}
    assert {"adapter.safetensors", "model_best.pth", "model_final.pth", "last_checkpoint", "val_metrics.json"} <= names
    assert not list(folder.path.glob(".report_*"))


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_killed_worker_is_replaced_and_goes_on_from_the_last_checkpoint(data, torchrun, tmp_path):
    folder = RunFolder(tmp_path / "run")
    trainer = loradet.ray.trainer(str(ROOT / CONFIG), overrides(data, folder.path), num_workers=2, max_failures=1)
    pid_file = tmp_path / "killer.py"
    pid_file.write_text(_KILLER)
    killer = subprocess.Popen([sys.executable, str(pid_file), str(folder.path)])
    result = trainer.fit()
    assert killer.wait(60) == 0
    assert_same(folder, torchrun)
    assert result.metrics["status"] == "finished"
    assert "Resumed from" in folder.log.read_text()


# Kills the main process of the training, which holds the folder's lock, when a few iterations are logged.
_KILLER = """
import os, signal, sys, time
folder = sys.argv[1]
deadline = time.monotonic() + 500
while time.monotonic() < deadline:
    try:
        count = len(open(f"{folder}/metrics.json").readlines())
        pid = int(open(f"{folder}/.lock").read())
    except (OSError, ValueError):
        count = 0
    if count >= 5:
        os.kill(pid, signal.SIGKILL)
        sys.exit(0)
    time.sleep(0.01)
sys.exit(1)
"""


def test_without_ray_one_line_says_how_it_comes(monkeypatch, tmp_path):
    for name in ("ray", "ray.train"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"^loradet\.ray needs Ray Train: pip install -e '\.\[ray\]'\.$"):
        loradet.ray.trainer(CONFIG, [f"train.output_dir={tmp_path}"])


def test_what_is_wrong_is_told_before_any_worker_begins(tmp_path):
    pytest.importorskip("ray")
    RunFolder(tmp_path).record.write_text("{}")
    words = [f"train.output_dir={tmp_path}", f"data.root={tmp_path}"]
    with pytest.raises(UserError, match=r"holds a run \(run\.json\)\. Go on with it by resume=True"):
        loradet.ray.trainer(CONFIG, words)
    with pytest.raises(UserError, match=r"has no key 'train\.nothing'"):
        loradet.ray.trainer(CONFIG, ["train.nothing=1"])
    with pytest.raises(UserError, match="num_workers=0"):
        loradet.ray.trainer(CONFIG, words, num_workers=0)


def test_relative_folders_become_absolute_and_the_config_stays(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    cfg = load_config(str(ROOT / CONFIG), [f"data.root={tmp_path}", "train.output_dir=here"])
    trainer = loradet.ray.trainer(cfg)
    job = trainer.train_loop_config["job"]
    assert job.cfg.train.output_dir == str(tmp_path / "here")
    assert cfg.train.output_dir == "here"
    assert job.folder == str(tmp_path)


def test_a_checkpoint_takes_the_place_of_what_a_folder_holds(tmp_path):
    source, folder = tmp_path / "source", RunFolder(tmp_path / "run")
    source.mkdir()
    folder.path.mkdir()
    for name, text in {"last_checkpoint": "model_0000003.pth", "model_0000003.pth": "new"}.items():
        (source / name).write_text(text)
    folder.last.write_text("model_0000005.pth")
    restore(source, folder)
    assert folder.last_checkpoint() == "model_0000003.pth"
    assert (folder.path / "model_0000003.pth").read_text() == "new"
    shutil.rmtree(source)
    assert {file.name for file in folder.path.iterdir()} == {"last_checkpoint", "model_0000003.pth"}


def test_only_what_was_begun_or_is_asked_for_is_gone_on_with(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    import ray.train
    import ray.train.torch

    seen = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray.train, "get_checkpoint", lambda: None)
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(worker, "run_distributed", lambda main, *, args, **_: main(*args))
    monkeypatch.setattr(worker, "train", lambda *_, resume, **__: seen.append(resume))
    monkeypatch.setattr(worker.ReportToRay, "end", lambda _: None)
    words = [f"data.root={tmp_path}", f"train.output_dir={tmp_path / 'run'}", "train.mirror.url=s3://bucket/mine"]
    fresh, resumed, anew = (
        loradet.ray.trainer(str(ROOT / CONFIG), [*words, *more], resume=resume).train_loop_config
        for more, resume in (([], False), ([], True), (["train.overwrite=True"], False))
    )
    worker.train_worker(fresh)
    worker.train_worker(resumed)
    (tmp_path / "run").mkdir()
    RunFolder(tmp_path / "run").record.write_text("{}")
    worker.train_worker(fresh)  # in the place of one that was lost
    worker.train_worker(anew)
    assert seen == [False, True, True, False]
