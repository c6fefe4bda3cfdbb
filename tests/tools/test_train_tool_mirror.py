"""Runs that are mirrored to S3 while they train, and go on from there; the protocol is moto's."""

import json
import os
import re
import signal
import time

import pytest
import torch

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")

from helpers.s3_server import BUCKET, objects, s3_server, store
from helpers.same_state import same
from helpers.train_tool import arguments, call, lines, reproducible, start, succeed, wait_for

from loradet.remote import UnreachableError
from loradet.remote.folder import RemoteFolder
from loradet.training.hooks.mirror import INDEX, MirrorUpload
from loradet.training.trainer import Trainer

SETTINGS = ["train.max_iter=4", "train.eval_period=2", "train.checkpointer.period=2", "train.validation_pictures=0"]


@pytest.fixture(scope="module")
def running():
    with s3_server() as server:
        yield server


@pytest.fixture
def server(running):
    yield running
    running.fault = lambda *_: None


@pytest.fixture
def mirror(server, request):
    """Name of a mirror under the bucket, empty."""
    assert server.asked
    return re.sub(r"\W", "_", request.node.name)


def at(mirror):
    return f"train.mirror.url=s3://{BUCKET}/{mirror}"


def log(folder):
    return (folder / "log.txt").read_text()


def here(folder):
    """What of a run's folder is mirrored, and the same content there at its end."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not path.name.startswith((".", "log"))}


def there(mirror):
    return {name: content for name, content in objects(mirror).items() if name not in (INDEX, "log.txt")}


def fail(*words):
    status, stderr = call(*words)
    assert status == 1
    assert len(stderr.splitlines()) == 1, stderr
    return stderr


def test_a_run_goes_on_from_its_mirror_on_an_empty_machine(mirror, train_data, tmp_path):
    words = [*SETTINGS, at(mirror)]
    succeed(*arguments(train_data, tmp_path / "first", *words))
    assert there(mirror) == here(tmp_path / "first")
    folder = tmp_path / "second"
    succeed(*arguments(train_data, folder, *words, "train.max_iter=6", "train.checkpointer.max_to_keep=1", "--resume"))
    assert [line["iteration"] for line in lines(folder)] == list(range(6))
    assert lines(folder)[:4] == lines(tmp_path / "first")
    assert there(mirror) == here(folder), "older checkpoints have left the mirror too"
    assert f"Fetched the run at model_final.pth from s3://{BUCKET}/{mirror}." in log(folder)
    assert f"Everything is in s3://{BUCKET}/{mirror}." in log(folder)


@pytest.mark.slow
def test_an_empty_machine_does_not_go_on_with_another_run(mirror, train_data, tmp_path):
    words = [*SETTINGS, "train.max_iter=1", "train.eval_period=0", at(mirror)]
    succeed(*arguments(train_data, tmp_path / "first", *words, "train.seed=-1"))
    before = objects(mirror)
    folder = tmp_path / "second"
    for other in ("optimizer.lr=1e-4", "train.seed=5"):
        line = fail(*arguments(train_data, folder, *words, "train.seed=-1", other, "--resume"))
        assert "holds another run; choose another place, or go on with its config." in line
        assert objects(mirror) == before and not (folder / "run.json").exists()
    # Drawn by chance, the seed is the run's own.
    succeed(*arguments(train_data, folder, *words, "train.seed=-1", "--resume"))
    assert "is finished; nothing is left to do" in log(folder)


@pytest.mark.slow
def test_a_run_that_is_replaced_is_not_gone_on_with(mirror, train_data, tmp_path, at_iteration):
    words = [*SETTINGS, "train.eval_period=0", at(mirror)]
    succeed(*arguments(train_data, tmp_path / "first", *words))
    seen = []
    at_iteration(_0=lambda: seen.append(objects(mirror)))
    succeed(*arguments(train_data, tmp_path / "first", *words, "train.overwrite=True"))
    # Had it been killed there:
    assert "last_checkpoint" not in seen[0]
    for name in objects(mirror).keys() - seen[0].keys():
        store().rm_file(f"{BUCKET}/{mirror}/{name}")
    for name, content in seen[0].items():
        store().pipe_file(f"{BUCKET}/{mirror}/{name}", content)
    folder = tmp_path / "second"
    succeed(*arguments(train_data, folder, *words, "--resume"))
    assert "Fetched" not in log(folder) and "Starting at iteration 0" in log(folder)
    assert there(mirror) == here(folder)


LONG = [
    *("train.max_iter=15", "train.accumulate=2", "train.eval_period=4", "train.checkpointer.period=3"),
    *("train.ema.enabled=True", "dataloader.train.num_workers=2", "model.backbone.bottom_up.dropout=0.3"),
    *("train.validation_pictures=0", "model.test_score_thresh=0.0"),
]
FILES = ("model_final.pth", "model_best.pth")


@pytest.mark.slow
def test_killed_and_gone_on_with_on_an_empty_machine_it_is_the_run_that_was_never_stopped(
    server, mirror, train_data, tmp_path
):
    whole, first, second = (tmp_path / name for name in ("whole", "first", "second"))
    succeed(*arguments(train_data, whole, *LONG))
    process = start(*arguments(train_data, first, *LONG, at(mirror)), **server.environment)
    # While what follows its second checkpoint is on its way.
    fs, name = store(), f"{BUCKET}/{mirror}/last_checkpoint"

    def is_far_enough():
        time.sleep(0.2)
        return fs.exists(name) and fs.cat_file(name) >= b"model_0000005.pth"

    wait_for(is_far_enough, process, seconds=600)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    last = objects(mirror)["last_checkpoint"].decode()
    process = start(*arguments(train_data, second, *LONG, at(mirror), "--resume"), **server.environment)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stderr
    assert f"Fetched the run at {last} from" in log(second)
    final, best = ([torch.load(folder / name, weights_only=True) for folder in (second, whole)] for name in FILES)
    assert same(*(content["model"] for content in final)) and same(*(content["model"] for content in best))
    for part in ("optimizer", "ema", "ranks"):
        assert same(*(content["trainer"][part] for content in final)), part
    assert [reproducible(line) for line in lines(second)] == [reproducible(line) for line in lines(whole)]
    assert (second / "adapter.safetensors").read_bytes() == (whole / "adapter.safetensors").read_bytes()
    ours, theirs = (json.loads((folder / "val_metrics.json").read_text()) for folder in (second, whole))
    assert {**ours, "checkpoint": ""} == {**theirs, "checkpoint": ""}
    assert there(mirror) == here(second)


@pytest.fixture
def at_iteration(monkeypatch):
    """Do something just before an iteration, when no upload runs."""

    def arm(**actions):
        step = Trainer.run_step

        def run_step(self):
            if (action := actions.get(f"_{self.iter}")) is not None:
                for hook in self._hooks:
                    if isinstance(hook, MirrorUpload) and hook._thread is not None:
                        hook._thread.join()
                action()
            step(self)

        monkeypatch.setattr(Trainer, "run_step", run_step)

    return arm


def complete(mirror):
    """Whether the mirror's last checkpoint is there and can be read."""
    found = objects(mirror)
    name = found["last_checkpoint"].decode()
    return name in found and len(found[name]) == json.loads(found[INDEX])["files"][name][0]


@pytest.mark.slow
def test_an_upload_that_fails_is_made_good_by_the_next(server, mirror, train_data, tmp_path, at_iteration):
    seen = []

    def look():
        found = objects(mirror)
        seen.append((found["last_checkpoint"].decode(), complete(mirror), "model_0000003.pth" in found))

    def break_():
        look()
        server.fault = lambda method, path: 403 if method == "PUT" and "model_0000003" in path else None

    def mend():
        server.fault = lambda *_: None
        look()

    folder = tmp_path / "out"
    at_iteration(_3=break_, _4=mend, _6=look)
    succeed(*arguments(train_data, folder, *SETTINGS, "train.max_iter=7", at(mirror)))
    assert seen == [
        ("model_0000001.pth", True, False),
        ("model_0000001.pth", True, False),
        ("model_0000005.pth", True, True),
    ]
    assert len(re.findall(r"WARNING.*Upload to .* failed, the next one makes up for it", log(folder))) == 1
    assert there(mirror) == here(folder)


@pytest.mark.slow
def test_a_mirror_that_is_out_of_reach_does_not_stop_a_run(server, mirror, train_data, tmp_path, at_iteration):
    folder = tmp_path / "out"
    at_iteration(_1=lambda: setattr(server, "fault", lambda *_: 403))
    succeed(*arguments(train_data, folder, *SETTINGS, at(mirror)))
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    assert re.search(r"ERROR.*The last upload to s3://.* failed \(.+not allowed.+\)\. All files are in", log(folder))
    server.fault = lambda *_: None
    words = [*SETTINGS, at(mirror), "train.max_iter=5", "--resume"]
    succeed(*arguments(train_data, folder, *words))
    assert there(mirror) == here(folder)


@pytest.mark.slow
def test_what_a_mirror_refuses(mirror, train_data, tmp_path):
    words = [*SETTINGS, at(mirror)]
    succeed(*arguments(train_data, tmp_path / "first", *words))
    before = objects(mirror)
    folder = tmp_path / "second"
    assert "holds this run already. Go on with it by --resume" in fail(*arguments(train_data, folder, *words))
    line = fail(*arguments(train_data, folder, *words, "train.overwrite=True", "optimizer.lr=1e-4"))
    assert "its run.json is of another run" in line
    assert objects(mirror) == before and not (folder / "run.json").exists()
    # Of the same config it begins anew, if that is said; what the former one has sent, and this one has not, goes.
    index = json.loads(before[INDEX])
    index["files"]["model_0000009.pth"] = None
    left = {INDEX: json.dumps(index).encode(), "model_0000009.pth": b"", "others.txt": b"another's"}
    for name, content in left.items():
        store().pipe_file(f"{BUCKET}/{mirror}/{name}", content)
    succeed(*arguments(train_data, tmp_path / "first", *words, "train.overwrite=True"))
    assert there(mirror) == here(tmp_path / "first") | {"others.txt": b"another's"}
    # The folder of another run is not made up of the two.
    succeed(*arguments(train_data, folder, *SETTINGS, "train.seed=5"))
    assert "holds another run than" in fail(*arguments(train_data, folder, *words, "train.seed=5", "--resume"))


@pytest.mark.slow
def test_the_one_that_took_a_run_over_is_the_one_that_writes(mirror, train_data, tmp_path, at_iteration):
    folder = tmp_path / "out"

    def take_over():
        index = json.loads(objects(mirror)[INDEX])
        store().pipe_file(f"{BUCKET}/{mirror}/{INDEX}", json.dumps(index | {"writer": "elsewhere:7:x"}).encode())

    at_iteration(_3=take_over)
    succeed(*arguments(train_data, folder, *SETTINGS, at(mirror)))
    assert objects(mirror)["last_checkpoint"] == b"model_0000001.pth"
    assert "another training (elsewhere:7) goes on with this run" in log(folder) and "ERROR" in log(folder)


@pytest.mark.slow
def test_one_that_comes_back_late_does_not_delete_what_is_newer(
    mirror, train_data, tmp_path, at_iteration, monkeypatch
):
    folder, words = tmp_path / "out", [*SETTINGS, "train.eval_period=0", at(mirror)]
    succeed(*arguments(train_data, folder, *words, "train.max_iter=6"))
    before = objects(mirror)
    # As if another machine had gone on from here.
    (folder / "last_checkpoint").write_text("model_0000001.pth")

    def read(self, name):
        raise UnreachableError(f"{self.url}/{name}: no answer.")

    with monkeypatch.context() as patch:  # a server that answers nothing is asked for a minute
        patch.setattr(RemoteFolder, "read", read)
        at_iteration(_3=patch.undo)
        succeed(*arguments(train_data, folder, *words, "train.max_iter=8", "--resume"))
    assert objects(mirror) == before, "though it has come further than the other one"
    said = r"ERROR.*the run there is at iteration 5 \(by .+\), this training goes on from iteration 1 and leaves"
    assert re.search(said, log(folder))


@pytest.mark.slow
def test_a_folder_that_is_further_than_its_mirror_goes_on_by_itself(mirror, train_data, tmp_path):
    folder, words = tmp_path / "out", [*SETTINGS, at(mirror)]
    succeed(*arguments(train_data, folder, *words))
    store().pipe_file(f"{BUCKET}/{mirror}/last_checkpoint", b"model_0000001.pth")
    succeed(*arguments(train_data, folder, *words, "train.max_iter=5", "--resume"))
    assert json.loads((folder / "run.json").read_text())["resumed_at"] == 4
    # And one that is behind takes the mirror's state.
    (folder / "last_checkpoint").write_text("model_0000001.pth")
    succeed(*arguments(train_data, folder, *words, "train.max_iter=6", "--resume"))
    assert [line["iteration"] for line in lines(folder)] == list(range(6))
    assert json.loads((folder / "run.json").read_text())["resumed_at"] == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://no-such-bucket/runs/mine", "there is no such bucket"),
        ("s3://bucket-of-the-test", "expected a name behind the bucket"),
        ("nothing://a/b", "no protocol nothing://"),
        ("gs://bucket/mine", "Please install gcsfs"),
        ("work_dirs/mine", "is no URL"),
        ("''", "train.mirror.url is empty"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--resume"]])
@pytest.mark.usefixtures("server")
def test_a_mirror_that_cannot_be(url, said, more, train_data, tmp_path):
    line = fail(*arguments(train_data, tmp_path / "out", *SETTINGS, f"train.mirror.url={url}", *more))
    assert said in line
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.slow
def test_no_rights_and_no_answer(server, mirror, train_data, tmp_path, monkeypatch):
    server.fault = lambda method, _: 403 if method in ("PUT", "POST") else None
    words = arguments(train_data, tmp_path / "out", *SETTINGS, at(mirror))
    assert re.search(r"cannot be written: not allowed .*AWS_ACCESS_KEY_ID", fail(*words))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "AWS_ENDPOINT_URL=http://127.0.0.1:9 names it" in fail(*words)
    assert "AWS_ENDPOINT_URL=http://127.0.0.1:9 names it" in fail(*words, "--resume")


@pytest.mark.slow
def test_annotations_weights_and_adapter_from_s3(mirror, train_data, tmp_path):
    folder = tmp_path / "out"
    succeed(*arguments(train_data, folder, *SETTINGS))
    fs, root = store(), f"s3://{BUCKET}/{mirror}"
    for name in ("model_best.pth", "adapter.safetensors"):
        fs.put_file(str(folder / name), f"{root}/{name}")
    fs.put_file(str(train_data / "Annotations/train.json"), f"{root}/train.json")
    words = [*SETTINGS, f"train.init_checkpoint={root}/model_best.pth", f"data.train_json={root}/train.json"]
    words.append("data.name=by_url")
    succeed(*arguments(train_data, tmp_path / "second", *words))
    assert "model_best.pth: backbone" in log(tmp_path / "second")
    record = json.loads((tmp_path / "second" / "run.json").read_text())
    assert record["data"]["train"]["source"] == f"{root}/train.json"
    json_file = tmp_path / "val.json"
    for checkpoint in (f"{root}/model_best.pth", str(folder / "model_best.pth")):
        words = ["--eval-only", "--checkpoint", checkpoint, "--split", "val", "--output-json", str(json_file)]
        succeed(*arguments(train_data, folder, *SETTINGS, *words))
        found = json.loads(json_file.read_text())
        assert found["checkpoint"] == checkpoint
        assert found["coco/bbox_mAP"] == json.loads((folder / "val_metrics.json").read_text())["coco/bbox_mAP"]
    words = ["--eval-only", "--checkpoint", f"{root}/none.pth", "--split", "val"]
    assert "none.pth: there is no such object" in fail(*arguments(train_data, folder, *SETTINGS, *words))
