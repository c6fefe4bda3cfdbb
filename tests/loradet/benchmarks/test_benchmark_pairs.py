"""Training steps taking turns, and steps without a data set."""

import itertools
import json
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.benchmark_tool import DETR, RANDOM, tool

from loradet.benchmarks.pairs import against_config
from loradet.benchmarks.parts import benchmark
from loradet.benchmarks.scan import benchmark_scan
from loradet.benchmarks.training_step import RandomImages, TrainingStep, training_loader
from loradet.benchmarks.turns import interleave, ratio_figures
from loradet.config import load_config

IMAGES = RandomImages(48, 64, 3)


def config(*overrides, file=DETR):
    return load_config(file, ["model.num_classes=2", "train.device=cpu", *overrides])


@pytest.mark.parametrize("objects", [0, 5])
def test_random_images_are_endless_and_the_same_each_time(objects):
    images = RandomImages(40, 70, objects)
    loader = images.loader(3)
    first, again = (list(itertools.islice(loader, 4)) for _ in range(2))
    for batch, other in zip(first, again):
        assert len(batch) == 3
        for sample, same in zip(batch, other):
            assert torch.equal(sample["image"], same["image"])
            assert sample["image"].shape == (3, 40, 70) and sample["image"].dtype == torch.uint8
            boxes = sample["instances"].gt_boxes.tensor
            assert boxes.shape == (objects, 4) and torch.equal(boxes, same["instances"].gt_boxes.tensor)
            assert (boxes[:, :2] >= 0).all() and (boxes[:, 2] <= 70).all() and (boxes[:, 3] <= 40).all()
            assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert not torch.equal(first[0][0]["image"], first[0][1]["image"])
    assert not torch.equal(first[0][0]["image"], first[1][0]["image"])


@pytest.mark.parametrize("size", [(0, 64, 3), (64, 64, -1)])
def test_impossible_random_images_are_errors(size):
    with pytest.raises(ValueError, match="Random images"):
        RandomImages(*size)


def test_sides_take_turns_on_the_same_images_and_alternate_who_is_first():
    calls = []
    steps = [[{"number": i}] for i in range(3)]
    ours, theirs = interleave(
        lambda images: calls.append(("ours", images[0]["number"])),
        lambda images: calls.append(("theirs", images[0]["number"])),
        steps,
        pairs=4,
        warmup=1,
    )
    assert len(ours) == len(theirs) == 4
    pairs = [calls[i : i + 2] for i in range(0, len(calls), 2)]
    assert [[number for _, number in pair] for pair in pairs] == [[0, 0], [1, 1], [2, 2], [0, 0], [1, 1]]
    first = [pair[0][0] for pair in pairs]
    assert all({name for name, _ in pair} == {"ours", "theirs"} for pair in pairs)
    assert all(a != b for a, b in itertools.pairwise(first))


def test_seconds_are_those_of_each_side():
    ours, theirs = interleave(lambda _: time.sleep(0.03), lambda _: None, [[]], pairs=3, warmup=0)
    assert min(ours) >= 0.03 > min(theirs)


def test_figures_are_of_the_ratios_of_pairs():
    figures = ratio_figures([2.0, 3.0, 8.0], [1.0, 1.0, 2.0])
    assert (figures["median_ratio"], figures["pairs"], figures["enough_pairs"]) == (3, 3, False)
    assert (figures["ratio_lower_quartile"], figures["ratio_upper_quartile"]) == (2, 4)
    alone = ratio_figures([3.0], [2.0])
    assert alone["ratio_lower_quartile"] == alone["median_ratio"] == alone["ratio_upper_quartile"] == 1.5
    assert ratio_figures([1.0] * 50, [1.0] * 50)["enough_pairs"]


def test_the_scan_is_measured_the_same_way():
    figures = benchmark_scan("lean", pairs=3, channels=4, state=2, length=16)
    assert {"chunked_s", "lean_s", *ratio_figures([1.0], [1.0])} <= figures.keys()
    assert figures["pairs"] == 3
    assert figures["ratio_lower_quartile"] <= figures["median_ratio"] <= figures["ratio_upper_quartile"]
    assert figures["largest_difference"] < 1e-5


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_bare_loop_trains_the_same_model_the_same_way(accumulate, amp):
    trained = []
    for how in ("run_on", "run_bare"):
        torch.manual_seed(0)
        settings = [f"train.accumulate={accumulate}", f"train.amp.enabled={amp}"]
        cfg = config(*settings, "model.transformer.dropout=0.0", "model.backbone.dropout=0.0")
        step = TrainingStep(cfg, training_loader(cfg, IMAGES))
        before = {name: p.detach().clone() for name, p in step.trainer.trainable.items()}
        prepared = step.prepare(2)
        assert [len(images) for images in prepared] == [4, 4]
        assert [len(batch) for batch in step.micro_batches(prepared[0])] == [4 // accumulate] * accumulate
        for images in prepared:
            getattr(step, how)(images)
        after = dict(step.trainer.trainable)
        assert all(not torch.equal(before[name], p) for name, p in after.items() if name.startswith("class_embed"))
        trained.append(after)
    for name, parameter in trained[0].items():
        assert torch.equal(parameter, trained[1][name]), name


def test_the_bare_loop_has_no_scaler_for_fp16():
    with pytest.raises(ValueError, match=r"train.amp.dtype=fp16 .*scaler.*train.amp.dtype=bf16"):
        benchmark(config("train.amp.enabled=True", "train.amp.dtype=fp16"), "train", bare=True, images=IMAGES)
    unused = config("train.amp.dtype=fp16")
    assert benchmark(unused, "train", steps=1, warmup=0, bare=True, images=IMAGES)["pairs"] == 1


def test_a_config_against_another():
    result = against_config(
        config(), config("model.num_queries=30", "train.accumulate=2"), pairs=3, warmup=1, images=IMAGES
    )
    assert result["pairs"] == 3 and result["enough_pairs"] is False
    assert result["images/s"] == pytest.approx(4 / result["s/iter"])
    assert 0 < result["ratio_lower_quartile"] <= result["median_ratio"] <= result["ratio_upper_quartile"]


def test_the_ratio_is_of_the_first_over_the_other():
    large = config("model.transformer.dim_feedforward=4000", "model.transformer.num_encoder_layers=6")
    result = benchmark(config(), "train", steps=3, warmup=1, against=large, images=IMAGES)
    assert result["s/iter"] < result["against_s_per_iter"] and result["median_ratio"] < 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dataloader.train.total_batch_size=2"], "total_batch_size is 4 in the one config and 2"),
        (["model.num_classes=3"], "2 and 3 classes"),
    ],
)
def test_configs_that_cannot_share_images_are_errors(overrides, message):
    with pytest.raises(ValueError, match=message):
        against_config(config(), config(*overrides), pairs=1, warmup=0, images=IMAGES)


@pytest.mark.parametrize("arguments", [{"images": IMAGES}, {"against": {}}])
def test_other_parts_take_no_such_arguments(arguments):
    with pytest.raises(ValueError, match="training steps only"):
        benchmark(config(), "infer", **arguments)
    with pytest.raises(ValueError, match="one at a time"):
        benchmark(config(), "train", bare=True, against=config())


@pytest.mark.parametrize("how", [[], ["--bare"], ["--against", DETR, "--against-overrides", "model.num_queries=30"]])
def test_the_tool_needs_no_data_set(tmp_path, monkeypatch, capsys, how):
    file = tmp_path / "figures.json"
    words = ["train", "--config-file", DETR, *RANDOM, "--steps", "2", "--warmup", "1", "--json", str(file), *how]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *words])
    tool.main()
    figures, shown = json.loads(file.read_text()), capsys.readouterr().out
    assert figures["s/iter"] > 0 and all(name in shown for name in figures)
    expected = {"": "data_wait_fraction", "--bare": "bare_s_per_iter", "--against": "against_s_per_iter"}
    assert figures[expected[how[0] if how else ""]] >= 0


def test_overrides_reach_both_configs_and_against_overrides_the_other_alone(monkeypatch):
    seen = {}

    def compared(cfg, part, *, against, **options):  # noqa: ARG001
        seen.update(ours=cfg.model, theirs=against.model, **options)
        return {}

    monkeypatch.setattr("loradet.benchmarks.command.benchmark", compared)
    words = ["--against", DETR, "--against-overrides", "model.num_queries=30", "--steps", "2"]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "train", "--config-file", DETR, *RANDOM, *words])
    tool.main()
    assert (seen["ours"].num_classes, seen["theirs"].num_classes) == (2, 2)
    assert (seen["ours"].num_queries, seen["theirs"].num_queries) == (7, 30)
    assert seen["images"] == RandomImages(64, 64, 3) and (seen["steps"], seen["warmup"]) == (2, 5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["infer", "--bare"], "--bare goes with train"),
        (["eval", "--against", "a.py"], "--against goes with train, memory"),
        (["loader", "--random-images", "8", "8"], "--random-images goes with train, cache, memory"),
        (["memory", "--warmup", "1"], "--warmup goes with train, cache, infer"),
        (["memory", "--steps", "1"], "--steps 1: expected at least 2"),
        (["train", "--steps", "0"], "--steps 0: expected at least 1"),
        (["train", "--objects", "3"], "--objects needs --random-images"),
        (["train", "--against-overrides", "a=1"], "--against-overrides needs --against"),
        (["train", "--bare", "--against", "a.py"], "one at a time"),
    ],
)
def test_options_that_do_not_go_together_are_refused(capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        tool.parse_arguments([*words, "--config-file", DETR])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_mistake_in_the_other_config_is_one_line(monkeypatch):
    words = ["train", "--config-file", DETR, *RANDOM, "--against", str(Path(DETR).with_name("absent.py"))]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *words])
    with pytest.raises(SystemExit, match=r"error: Config file .*absent\.py does not exist") as stop:
        tool.main()
    assert "\n" not in stop.value.code
