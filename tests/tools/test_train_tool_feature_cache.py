"""Runs of the training tool with kept features: the same numbers, from an empty, a full, a half or a broken cache."""

import errno
import math
import os
import re
import shutil

import pytest
from helpers.paths import TEST_CONFIGS
from helpers.train_tool import arguments, call, lines, reproducible, start, succeed

import loradet.datasets.mapper
from loradet.cli import evaluate
from loradet.feature_cache import stores
from loradet.feature_cache.cache import FeatureCache
from loradet.training.trainer import Trainer

CONFIG = TEST_CONFIGS / "tiny_cached.py"
SHORT = ("train.max_iter=6", "train.eval_period=3", "train.validation_pictures=0", "model.test_score_thresh=0.0")
ENTRIES = "*/??/*.safetensors"


@pytest.fixture(scope="module")
def train(train_data, tmp_path_factory):
    """Runs a training with a cache in a folder; returns what it logged, and its folder."""

    def run(cache, *words, name="run"):
        folder = tmp_path_factory.mktemp(name) / "out"
        words = [*SHORT, *words, f"train.feature_cache.folder={cache}"]
        succeed(*arguments(train_data, folder, *words, config=CONFIG))
        return folder

    return run


@pytest.fixture(scope="module")
def plain(train):
    return numbers(train("", "train.feature_cache.enabled=False"))


@pytest.fixture(scope="module")
def filled(train, tmp_path_factory):
    """A cache that a run has filled; tests that write take a copy."""
    cache = tmp_path_factory.mktemp("filled") / "cache"
    train(cache)
    return cache


@pytest.fixture
def own_cache(filled, tmp_path):
    return shutil.copytree(filled, tmp_path / "cache")


def numbers(folder):
    """What a run logs besides times, NaN as text."""
    found = [reproducible(line) for line in lines(folder)]
    return [{k: "nan" if isinstance(v, float) and math.isnan(v) else v for k, v in line.items()} for line in found]


def assert_close(found, expected):
    """Losses to 1e-5: batches of images of which some are kept are computed in other parts. Metrics to the digit."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        assert one.keys() == other.keys()
        exact = [name for name in other if name.startswith("bbox/") or name in ("iteration", "lr")]
        assert [one[name] for name in exact] == [other[name] for name in exact]
        rest = other.keys() - set(exact)
        assert {name: one[name] for name in rest} == pytest.approx({name: other[name] for name in rest}, rel=1e-5)


def log(folder):
    return (folder / "log.txt").read_text()


def forbid_reading(monkeypatch):
    def read(*_):
        raise AssertionError("An image was read.")

    monkeypatch.setattr(loradet.datasets.mapper, "read_image", read)


@pytest.mark.slow
def test_losses_over_50_iterations_and_metrics_are_to_the_digit(train, tmp_path, monkeypatch):
    long = ("train.max_iter=50", "train.eval_period=25")
    expected = numbers(train("", *long, "train.feature_cache.enabled=False"))
    assert len(expected) == 50 and "bbox/AP" in expected[-1]
    first = train(tmp_path / "cache", *long)
    assert_close(numbers(first), expected)
    assert re.search(
        r"Outputs of backbone\.bottom_up \(frozen\) are kept in .*cache: dataloader\.train: 12 images x 2 views x "
        r"0\.00614 MB; dataloader\.val: 4 images x 1 view x 0\.00614 MB = 0\.000172 GB\.",
        log(first),
    )
    forbid_reading(monkeypatch)
    assert_close(numbers(train(tmp_path / "cache", *long)), expected)  # another run, which reads no image


def test_memory_gives_the_same_and_leaves_nothing(train, plain, tmp_path):
    assert_close(numbers(train(tmp_path / "cache", "train.feature_cache.where=memory")), plain)
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_two_processes_share_a_cache_and_go_on_as_without(train_data, tmp_path):
    def run(name, *words):
        folder = tmp_path / name
        words = [*words, f"train.feature_cache.folder={tmp_path / 'cache'}", "train.max_iter=12"]
        process = start(*arguments(train_data, folder, "--num-gpus", "2", *SHORT, *words, config=CONFIG))
        assert process.wait(300) == 0, process.stderr.read()
        return folder

    expected = numbers(run("plain", "train.feature_cache.enabled=False"))
    assert_close(numbers(run("first")), expected)
    memory = run("memory", "train.feature_cache.where=memory")
    assert_close(numbers(memory), expected)
    assert "x 2 processes = " in log(memory)


@pytest.mark.slow
def test_accumulation_and_averages_are_as_without(train, own_cache):
    words = ("train.accumulate=2", "train.ema.enabled=True")
    expected = numbers(train("", *words, "train.feature_cache.enabled=False"))
    assert_close(numbers(train(own_cache, *words)), expected)


def test_a_resumed_run_goes_on_as_without(train_data, plain, own_cache, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    words = [*arguments(train_data, folder, *SHORT, config=CONFIG), f"train.feature_cache.folder={own_cache}"]
    own_step = Trainer.run_step

    def step_and_interrupt(trainer):
        own_step(trainer)
        if trainer.iter == 2:
            trainer.interrupt()

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_step", step_and_interrupt)
        status, _ = call(*words)
    assert status == 130 and len(lines(folder)) == 4
    succeed(*words, "--resume")
    assert_close(numbers(folder), plain)


def test_a_fill_that_ended_goes_on(train, own_cache, plain, monkeypatch):
    entries = sorted(own_cache.glob(ENTRIES))
    for entry in entries[::2]:
        entry.unlink()
    entries[1].write_bytes(entries[1].read_bytes()[:-3])
    abandoned = entries[3].parent / f".{entries[3].name}.12345678.tmp"
    abandoned.write_bytes(b"half of one")
    os.utime(abandoned, (0, 0))
    shutil.rmtree(own_cache / "images")
    folder = train(own_cache)
    assert_close(numbers(folder), plain)
    assert "is damaged or of something else; it is computed anew" in log(folder)
    assert not list(own_cache.rglob("*.tmp")) and sorted(own_cache.glob(ENTRIES)) == entries
    forbid_reading(monkeypatch)
    train(own_cache)


def test_a_folder_that_cannot_be_written_is_done_without(train, plain, tmp_path):
    (tmp_path / "cache").write_text("no folder")
    folder = train(tmp_path / "cache")
    assert_close(numbers(folder), plain)
    assert "Features cannot be kept in" in log(folder)


@pytest.mark.slow
def test_a_full_disk_is_done_without(train, plain, tmp_path, monkeypatch):
    kept, left = stores.atomic_open, [3]

    def fill_up(path, mode, **options):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return kept(path, mode, **options)

    monkeypatch.setattr(stores, "atomic_open", fill_up)
    folder = train(tmp_path / "cache")
    assert_close(numbers(folder), plain)
    assert log(folder).count("No space left on device") == 2  # training's store, and evaluation's
    assert len(list((tmp_path / "cache").glob(ENTRIES))) == 3


@pytest.mark.slow
def test_features_of_other_weights_are_not_taken(train, own_cache, plain):
    before = set(own_cache.iterdir())
    expected = numbers(train("", "train.seed=1", "train.feature_cache.enabled=False"))
    assert expected != plain
    assert_close(numbers(train(own_cache, "train.seed=1")), expected)  # of another random backbone
    assert len(set(own_cache.iterdir()) - before) == 1


def test_what_computes_otherwise_under_the_same_name_ends_in_a_line(train_data, own_cache, tmp_path, monkeypatch):
    monkeypatch.setattr("timm.models.convnext.ConvNeXtStage.forward", lambda self, x: -self.downsample(x))
    words = arguments(train_data, tmp_path / "out", f"train.feature_cache.folder={own_cache}", config=CONFIG)
    status, stderr = call(*words)
    assert status == 1
    assert re.search(
        r"error: .* holds features of backbone\.bottom_up:\w+ that this program computes otherwise", stderr
    )


def test_evaluation_by_itself_reads_what_the_training_kept(train, own_cache, monkeypatch):
    closed, own_close = [], FeatureCache.close
    monkeypatch.setattr(FeatureCache, "close", lambda cache: closed.append(cache.model) or own_close(cache))
    folder = train(own_cache)
    forbid_reading(monkeypatch)
    evaluate.main(["--config-file", str(folder / "config.yaml"), "--split", "val", "train.device=cpu"])
    ours, theirs = folder / "val_metrics.json", folder / "eval_model_best" / "val_metrics.json"
    kept = [re.findall(r'"coco/\S+": [^,\n]+', file.read_text()) for file in (ours, theirs)]
    assert kept[0] == kept[1] and kept[0]
    assert len(closed) == 2 and not any(model._forward_hooks or model._forward_pre_hooks for model in closed)


def test_what_takes_too_much_ends_in_a_line(train_data, tmp_path):
    words = arguments(train_data, tmp_path / "out", "train.feature_cache.max_gb=1e-4", config=CONFIG)
    status, stderr = call(*words)
    message = r"max_gb=0\.0001: outputs of backbone\.bottom_up would take more in work_dirs/feature_cache: dataloader"
    assert status == 1 and re.search(f"error: train.feature_cache.{message}", stderr) and stderr.count("\n") == 1
    assert not (tmp_path / "out" / "config.yaml").exists()


def test_what_forbids_it_is_named_before_training(train_data, tmp_path):
    folder, words = tmp_path / "out", ["train.feature_cache.enabled=True"]
    status, stderr = call(*arguments(train_data, folder, *words))  # LoRA, images as they are
    assert status == 1 and "trains, and nothing of backbone.bottom_up" in stderr
    config = tmp_path / "free.py"
    config.write_text(
        f"from loradet import get_config\ncfg = get_config({str(CONFIG)!r})\n"
        "model, data, dataloader, optimizer, lr_multiplier, train = (cfg[k] for k in "
        "('model', 'data', 'dataloader', 'optimizer', 'lr_multiplier', 'train'))\n"
        "import detectron2.data.transforms as T\nfrom detectron2.config import LazyCall as L\n"
        "dataloader.val.mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=64, max_size=64)]\n"
    )
    status, stderr = call(*arguments(train_data, folder, config=config))
    assert (
        status == 1 and "dataloader.val.mapper.augmentations (ResizeShortestEdge) leaves images of different" in stderr
    )
    assert not list(folder.glob("*.pth"))
