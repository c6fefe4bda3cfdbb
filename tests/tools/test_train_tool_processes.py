"""Several processes: `--num-gpus 2` and torchrun over gloo, and what one process must not do to the others."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from helpers.paths import TESTS
from helpers.train_tool import (
    arguments,
    call,
    descendants_alive,
    lines,
    reproducible,
    snapshot,
    start,
    succeed,
    wait_for,
)

HERE = str(Path(__file__).parent)
# With the project that these tests are of, where another one is installed.
PATH = os.pathsep.join(filter(None, (HERE, str(TESTS), os.environ.get("PYTHONPATH"))))
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
STEPS = 12
WORDS = [
    *(f"train.max_iter={STEPS}", "train.eval_period=6", "train.checkpointer.period=6", "model.test_score_thresh=0.0"),
    *("dataloader.train.num_workers=0", "+dataloader.train.aspect_ratio_grouping=false"),
]


def probe(folder, **settings):
    """Overrides that put ProbingMapper into the training loader."""
    given = {"folder": folder, **settings}
    return [
        "dataloader.train.mapper._target_=helpers.train_tool_parts.ProbingMapper",
        *(f"+dataloader.train.mapper.{key}={value}" for key, value in given.items()),
    ]


def launch(data, folder, *words, torchrun=False, probing=None):
    words = [*WORDS, *probe(folder.with_name(f"{folder.name}_seen"), **(probing or {})), *words]
    if torchrun:
        return start(*arguments(data, folder, *words), launcher=TORCHRUN, PYTHONPATH=PATH)
    return start(*arguments(data, folder, "--num-gpus", "2", *words), PYTHONPATH=PATH)


def finish(processes, seconds=240):
    """Standard error of each process by name; all must have ended in time, and nothing that they started is left."""
    texts = {}
    for name, process in processes.items():
        _, texts[name] = process.communicate(timeout=seconds)
    deadline = time.monotonic() + 20
    for process in processes.values():
        while descendants_alive(process.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert descendants_alive(process.pid) == []
    return texts


def seen(folder):
    """Image ids by process, in the order of mapping."""
    files = sorted(folder.with_name(f"{folder.name}_seen").iterdir())
    return [[int(number) for number in file.read_text().split()] for file in files]


def finished(train_data, folder, **probing):
    process = launch(train_data, folder, probing=probing)
    text = finish({"run": process})["run"]
    assert process.returncode == 0, text
    return folder


@pytest.fixture(scope="module")
def launched(train_data, tmp_path_factory):
    """A finished run of two processes."""
    return finished(train_data, tmp_path_factory.mktemp("processes") / "launched")


@pytest.fixture(scope="module")
def alone(train_data, tmp_path_factory):
    """The same run in one process."""
    folder = tmp_path_factory.mktemp("processes") / "alone"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        succeed(*arguments(train_data, folder, *WORDS, *probe(folder.with_name("alone_seen"))))
    return folder


def assert_shared(folder, alone):
    """Both processes together see, step by step, the images of one."""
    (whole,) = seen(alone)
    shares = seen(folder)
    assert len(shares) == 2
    for step in range(STEPS):
        together = [number for share in shares for number in share[2 * step : 2 * step + 2]]
        assert sorted(together) == sorted(whole[4 * step : 4 * step + 4])


def test_processes_share_the_stream_of_one(launched, alone):
    assert_shared(launched, alone)
    record = json.loads((launched / "run.json").read_text())
    assert (record["status"], record["processes"]) == ("finished", 2)


def test_there_is_one_set_of_files(launched, alone):
    ours, single = ({path.name for path in folder.iterdir()} for folder in (launched, alone))
    assert {name for name in ours if not name.startswith("events.")} == {
        name for name in single if not name.startswith("events.")
    } | {"log.txt.rank1"}
    assert len(list(launched.glob("events.*"))) == 1
    assert [line["iteration"] for line in lines(launched)] == list(range(STEPS))


def test_evaluation_on_two_processes_is_that_of_one(launched, train_data):
    folder = launched
    succeed(*arguments(train_data, folder, "--eval-only", "--split", "val", "model.test_score_thresh=0.0"))
    alone = json.loads((folder / "eval_model_best" / "val_metrics.json").read_text())
    together = json.loads((folder / "val_metrics.json").read_text())
    assert alone == together
    assert together["coco/bbox_AR@100"] >= 0


@pytest.mark.slow
def test_a_process_without_boxes_trains_on(train_data, alone, tmp_path):
    """Beside another run, on the same host at the same time; in steps that take their images one by one."""
    folders = (tmp_path / "boxless", tmp_path / "other")
    processes = {
        "boxless": launch(train_data, folders[0], "train.max_batch_per_gpu=1", probing={"boxless_rank": 1}),
        "other": launch(train_data, folders[1]),
    }
    texts = finish(processes)
    for (name, process), folder in zip(processes.items(), folders):
        assert process.returncode == 0, (name, texts[name])
        assert_shared(folder, alone)
    values = [line["total_loss"] for line in lines(folders[0])]
    assert len(values) == STEPS
    assert all(value > 0 for value in values)
    state = torch.load(folders[0] / "model_final.pth", weights_only=True)["trainer"]
    assert state["images_seen"] == 4 * STEPS
    normalizers = [rank["loss_normalizers"][""] for rank in state["ranks"]]
    assert normalizers[0] != normalizers[1]


def error_lines(text):
    return [line for line in text.splitlines() if line.startswith("error")]


@pytest.mark.slow
def test_an_unreadable_image_of_one_process_stops_all(train_data, tmp_path):
    broken = shutil.copytree(train_data, tmp_path / "data")
    image = broken / "JPEGImages" / "train" / "000005.png"
    image.write_bytes(b"no image")
    process = launch(broken, tmp_path / "out")
    text = finish({"run": process})["run"]
    assert process.returncode == 1
    (line,) = error_lines(text)
    assert str(image) in line
    assert "Traceback" not in text


@pytest.mark.slow
def test_a_bad_loss_on_one_process_stops_all(train_data, tmp_path):
    folder = tmp_path / "out"
    process = launch(train_data, folder, "train.checkpointer.period=2", probing={"nan_rank": 1, "nan_from": 6})
    text = finish({"run": process})["run"]
    assert process.returncode == 1
    (line,) = error_lines(text)
    assert "Traceback" not in text
    assert "at iteration 3" in line
    assert "process 1:" in line
    assert f"images of the batch: {seen(folder)[1][6:8]}" in line
    assert str(folder / "model_0000001.pth") in line
    assert torch.load(folder / "model_0000001.pth", weights_only=True)["iteration"] == 1
    assert json.loads((folder / "run.json").read_text())["status"] == "failed"


@pytest.mark.slow
def test_an_interrupt_reaches_all_processes_and_the_run_goes_on(train_data, launched, tmp_path):
    folder = tmp_path / "out"
    process = launch(train_data, folder)
    wait_for(lambda: any(line["iteration"] >= 3 for line in lines(folder)), process)
    process.send_signal(signal.SIGINT)
    text = finish({"run": process})["run"]
    assert process.returncode == 130, text
    assert "Traceback" not in text
    command = next(line for line in text.splitlines() if "--resume" in line)
    assert "--num-gpus 2" in command
    saved = torch.load(folder / (folder / "last_checkpoint").read_text(), weights_only=True)
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["iteration"]) == ("interrupted", saved["iteration"])
    assert len(saved["trainer"]["ranks"]) == 2

    # Whichever way the processes are started, the run is the same.
    process = launch(train_data, folder, "--resume", torchrun=True)
    text = finish({"run": process})["run"]
    assert process.returncode == 0, text
    assert [reproducible(line) for line in lines(folder)] == [reproducible(line) for line in lines(launched)]
    ours, theirs = (torch.load(f / "model_final.pth", weights_only=True)["model"] for f in (folder, launched))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.slow
@pytest.mark.parametrize("torchrun", [False, True])
def test_a_mistake_that_all_processes_meet_is_told_once(train_data, tmp_path, torchrun):
    for data, word in {
        tmp_path / "nowhere": "data.root",
        train_data: "dataloader.train.total_batch_size=5",
    }.items():
        folder = tmp_path / "out"
        process = launch(data, folder, *([word] if "=" in word else []), torchrun=torchrun)
        text = finish({"run": process})["run"]
        assert process.returncode == 1
        (line,) = error_lines(text)
        assert (word if "=" in word else str(data)) in line
        assert torchrun or "Traceback" not in text  # torchrun adds its own


def test_more_processes_than_gpus_is_an_error(train_data, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    status, text = call(*arguments(train_data, tmp_path, "--num-gpus", "3"))
    assert status == 1
    assert error_lines(text) == ["error: --num-gpus 3: this machine has 1."]
    assert snapshot(tmp_path) == {}
