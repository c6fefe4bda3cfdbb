"""Checkpoints that go to a Hub repository while a run trains; the Hub is a server of the test."""

import json
import re
import threading

import huggingface_hub
import pytest
import torch
from helpers.hub_server import REPO, TOKEN, hub_server, log_in
from helpers.train_tool import arguments, call, lines, start, succeed

from loradet.training.hooks import hub
from loradet.training.hooks.hub import HubUpload
from loradet.training.trainer import Trainer

SETTINGS = [
    *("train.max_iter=6", "train.eval_period=3", "train.checkpointer.period=2", "train.checkpointer.max_to_keep=2"),
    f"train.hub.repo_id={REPO}",
]
AT_THE_END = {
    *("config.yaml", "last_checkpoint", "metrics.json", "parameters.json", "run.json"),
    *(
        "adapter.safetensors",
        "operating_point.json",
        "val_metrics.json",
        "model_best.pth",
        "model_0000003.pth",
        "model_final.pth",
    ),
    ".hub_sent.json",
}


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A Hub to which this process's huggingface_hub speaks, and which is logged in to."""
    with hub_server() as server:
        log_in(server, monkeypatch, tmp_path / "hub_cache")
        yield server


def log(folder):
    return (folder / "log.txt").read_text()


@pytest.fixture
def at_iteration(monkeypatch):
    """Do something just before an iteration."""

    def arm(iteration, action):
        step = Trainer.run_step

        def run_step(self):
            if self.iter == iteration:
                action(self)
            step(self)

        monkeypatch.setattr(Trainer, "run_step", run_step)

    return arm


@pytest.mark.slow
def test_a_run_as_a_user_starts_it(train_data, tmp_path):
    folder = tmp_path / "out"
    words = [*SETTINGS, "train.eval_splits=[val,test]"]
    with hub_server() as server:
        environment = {"HF_ENDPOINT": server.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
        process = start(*arguments(train_data, folder, *words), **environment)
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
    assert server.repositories[REPO]["visibility"] == "private"
    assert set(server.files) == AT_THE_END | {"test_metrics.json"}
    for name, content in server.files.items():
        assert content == (folder / name).read_bytes(), name
    by_lfs = {name for commit in server.commits for name in commit["lfs"]}
    assert {"model_final.pth", "model_best.pth"} <= by_lfs
    assert {"config.yaml", "run.json"} <= {name for commit in server.commits for name in commit["regular"]}
    assert server.commits[-1]["summary"] == "Run finished"
    assert json.loads(server.files["run.json"])["status"] == "finished"
    assert f"Everything is in {server.url}/{REPO}." in log(folder)
    assert not (folder / ".hub").exists()


def wait_for_upload(trainer):
    hook = next(hook for hook in trainer._hooks if type(hook).__name__ == "HubUpload")
    if hook._thread is not None:
        hook._thread.join()


def test_each_checkpoint_is_a_commit_and_old_ones_leave(server, train_data, tmp_path, monkeypatch):
    step = Trainer.run_step
    monkeypatch.setattr(Trainer, "run_step", lambda self: (wait_for_upload(self), step(self)))
    succeed(*arguments(train_data, tmp_path / "out", *SETTINGS))
    assert [commit["summary"] for commit in server.commits] == [
        *("Iteration 1", "Iteration 3", "Iteration 5", "Run finished")
    ]
    first, second, third, _ = server.commits
    assert first["lfs"] == ["model_0000001.pth"]
    assert {"config.yaml", "metrics.json", "run.json"} <= set(first["regular"])
    # What has not changed is not sent again.
    assert second["lfs"] == ["model_0000003.pth", "model_best.pth"]
    assert "model_0000001.pth" in third["deleted"]
    assert set(server.files) == AT_THE_END
    weights = tmp_path / "weights.pth"
    weights.write_bytes(server.files["model_best.pth"])
    assert "model" in torch.load(weights, weights_only=True)


def test_training_does_not_wait_for_an_upload(server, train_data, tmp_path, at_iteration):
    folder = tmp_path / "out"
    seen = []

    def release(trainer):
        # The checkpoint of iteration 1 is being sent since then, and has been deleted here meanwhile.
        seen.append([(folder / "model_0000001.pth").exists(), len(server.commits)])
        server.held.set()
        wait_for_upload(trainer)
        seen.append(sorted(server.files))

    at_iteration(1, lambda _: server.held.clear())
    at_iteration(6, release)
    succeed(*arguments(train_data, folder, *SETTINGS, "train.checkpointer.max_to_keep=1", "train.max_iter=8"))
    assert seen[0] == [False, 0]
    assert "model_0000001.pth" in seen[1]
    assert {name for name in server.files if name.startswith("model_")} == {"model_best.pth", "model_final.pth"}


@pytest.mark.parametrize("trouble", ["500", "close"])
def test_an_upload_that_fails_is_made_good_by_the_next(server, train_data, tmp_path, at_iteration, trouble):
    at_iteration(1, lambda _: setattr(server, "trouble", trouble))

    def mend(trainer):
        wait_for_upload(trainer)
        server.trouble = None

    at_iteration(3, mend)
    succeed(*arguments(train_data, tmp_path / "out", *SETTINGS))
    text = log(tmp_path / "out")
    assert len(re.findall("WARNING.*Upload to .* failed", text)) == 1
    assert set(server.files) == AT_THE_END
    assert "Everything is in" in text


def test_a_hub_that_never_answers(server, train_data, tmp_path):
    folder = tmp_path / "out"
    server.trouble = "close"
    succeed(*arguments(train_data, folder, *SETTINGS))
    assert len(lines(folder)) == 6
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    text = log(folder)
    assert "not made yet" in text
    assert re.search(r"ERROR.*The last upload to .* failed \(.+\)\. All files are in", text)
    assert f"hf upload {REPO} {folder} ." in text
    assert {path.name for path in folder.iterdir()} >= AT_THE_END - {".hub_sent.json"}


def test_a_run_that_fails_is_uploaded_all_the_same(server, train_data, tmp_path):
    words = ["optimizer.lr=1e20", "train.checkpointer.period=1"]
    assert call(*arguments(train_data, tmp_path / "out", *SETTINGS, *words))[0] == 1
    assert server.commits[-1]["summary"] == "Run failed"
    assert json.loads(server.files["run.json"])["status"] == "failed"
    assert "model_0000000.pth" in server.files


@pytest.mark.slow
def test_a_run_goes_on_from_its_repository_and_tidies_it_up(server, train_data, tmp_path):
    succeed(*arguments(train_data, tmp_path / "out", *SETTINGS))
    folder = tmp_path / "downloaded"
    folder.mkdir()
    for name, content in server.files.items():
        (folder / name).write_bytes(content)
    others = {"model_0000099.pth", "model_zoo/model_best.pth", "README.md"}
    server.files.update(dict.fromkeys(others, b"another's"))
    before = len(server.commits)
    words = ["train.max_iter=8", "train.checkpointer.max_to_keep=1", "--resume"]
    succeed(*arguments(train_data, folder, *SETTINGS, *words))
    assert [line["iteration"] for line in lines(folder)] == list(range(8))
    # What the first part sent and this one deleted is gone; what neither has sent is not theirs to delete.
    assert "model_0000003.pth" in {name for commit in server.commits[before:] for name in commit["deleted"]}
    checkpoints = {name for name in server.files if name.startswith("model_")}
    assert checkpoints - others == {path.name for path in folder.glob("model_*.pth")}
    assert others <= server.files.keys()
    # By now the config is not the one that the run began with; it is the same run all the same.
    succeed(*arguments(train_data, folder, *SETTINGS, "train.max_iter=9", "--resume"))
    assert json.loads(server.files["run.json"])["resumed_at"] == 8
    assert server.repositories.keys() == {REPO}


@pytest.mark.slow
def test_runs_of_one_config_keep_each_others_checkpoints(server, train_data, tmp_path):
    succeed(*arguments(train_data, tmp_path / "first", *SETTINGS))
    # As a run that had come further would have left them.
    ahead = {"model_0000009.pth", "model_0000011.pth"}
    server.files.update(dict.fromkeys(ahead, b"of the first"))
    succeed(*arguments(train_data, tmp_path / "second", *SETTINGS))
    assert ahead <= server.files.keys()
    assert server.files.keys() >= AT_THE_END


def run_of(config_sha256):
    return json.dumps({"config_sha256": config_sha256, "status": "finished"}).encode()


@pytest.mark.parametrize("content", [run_of("0" * 64), b"[1]", b"\xff"])
def test_a_repository_of_another_run_is_refused(server, train_data, tmp_path, content):
    server.repositories[REPO] = {}
    server.files.update({"run.json": content, "model_best.pth": b"another's"})
    line = fail_before_training(train_data, tmp_path / "out")
    assert f"train.hub.repo_id='{REPO}': its run.json is of another run" in line
    assert "Choose another name" in line
    assert not server.commits
    assert server.files == {"run.json": content, "model_best.pth": b"another's"}


def test_a_repository_found_to_be_another_runs_later_is_left_alone(server, train_data, tmp_path, at_iteration):
    folder = tmp_path / "out"
    server.repositories[REPO] = {}
    server.files["run.json"] = run_of("0" * 64)
    server.trouble = "close"
    at_iteration(1, lambda _: setattr(server, "trouble", None))
    succeed(*arguments(train_data, folder, *SETTINGS))
    assert not server.commits
    text = log(folder)
    assert "ERROR" in text
    assert "is of another run" in text
    assert f"hf upload USER/NAME {folder} ." in text


@pytest.mark.slow
def test_a_run_that_begins_anew_in_its_folder_has_sent_nothing(server, train_data, tmp_path):
    folder = tmp_path / "out"
    succeed(*arguments(train_data, folder, *SETTINGS))
    sent = (folder / ".hub_sent.json").read_text()
    assert "model_0000003.pth" in sent
    words = [*SETTINGS, "train.overwrite=True", "optimizer.lr=1e-3", "train.checkpointer.period=5"]
    assert "is of another run" in fail(*arguments(train_data, folder, *words))
    assert (folder / ".hub_sent.json").read_text() == sent
    del server.files["run.json"]
    succeed(*arguments(train_data, folder, *words))
    assert "model_0000003.pth" in server.files
    assert "model_0000003.pth" not in (folder / ".hub_sent.json").read_text()


@pytest.mark.usefixtures("server")
def test_hashes_are_taken_beside_training(train_data, tmp_path, monkeypatch):
    threads = {}
    made = hub.CommitOperationAdd

    def operation(name, content):
        threads.setdefault(name, set()).add(threading.current_thread())
        return made(name, content)

    monkeypatch.setattr(hub, "CommitOperationAdd", operation)
    monkeypatch.setattr(HubUpload, "finish", lambda self, _: self._thread.join())
    succeed(*arguments(train_data, tmp_path / "out", *SETTINGS, "train.max_iter=3"))
    assert "model_0000001.pth" in threads
    assert threading.main_thread() not in set().union(*threads.values())


def fail(*words):
    status, stderr = call(*words)
    assert status == 1
    assert len(stderr.splitlines()) == 1, stderr
    return stderr


def fail_before_training(train_data, folder, *words):
    stderr = fail(*arguments(train_data, folder, *SETTINGS, *words))
    assert not (folder / "run.json").exists()
    return stderr


def test_no_token(server, train_data, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr("huggingface_hub.utils._auth._get_token_from_file", lambda: None)
    line = fail_before_training(train_data, tmp_path / "out")
    assert "hf auth login" in line
    assert "HF_TOKEN" in line
    assert not server.requests


@pytest.mark.usefixtures("server")
def test_a_wrong_token(train_data, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    line = fail_before_training(train_data, tmp_path / "out")
    assert f"train.hub.repo_id='{REPO}': the Hub does not allow it (HTTP 401)" in line
    assert "hf_another" not in line


@pytest.mark.usefixtures("server")
def test_an_offline_hub(train_data, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in fail_before_training(train_data, tmp_path / "out")


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("name", ["detector", "a/b/c", "somebody/-x-"])
def test_an_impossible_name(tmp_path, name):
    with pytest.raises(ValueError, match=name):
        HubUpload(repo_id=name, folder=tmp_path)
