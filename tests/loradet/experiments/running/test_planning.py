"""Which runs are asked for, in which folders, with which configs and command lines."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.engine_study import CONFIG, entry, on_scenes, study

from loradet.config import load_config
from loradet.datasets.synthetic import generate
from loradet.experiments.running.planning import plan
from loradet.experiments.running.run import Launch
from loradet.experiments.study.definition import Scenes, Smoke
from loradet.training.folder.record import config_hash


@pytest.fixture
def data(tmp_path):
    return (f"data.root={tmp_path / 'data'}",)


def names(runs):
    return [run.name for run in runs]


def test_a_run_is_named_by_entry_mode_and_seed(tmp_path, data):
    whole = study(entry("one", overrides=data), entry("many", overrides=data, seeds=(0, 1, 2)))
    assert names(plan(whole, root=tmp_path)) == ["one_full", "many_full_seed0", "many_full_seed1", "many_full_seed2"]
    assert names(plan(whole, mode="smoke", root=tmp_path)) == ["one_smoke", "many_smoke"]
    assert names(plan(whole, ["one"], seeds=[0, 3], root=tmp_path)) == ["one_full", "one_full_seed3"]
    assert names(plan(whole, ["many"], seeds=[2, 2], root=tmp_path)) == ["many_full_seed2"]
    assert names(plan(whole, ["many", "one"], mode="smoke", seeds=[1], root=tmp_path)) == [
        "one_smoke_seed1",
        "many_smoke_seed1",
    ]
    (first, _) = plan(whole, ["one"], seeds=[0, 3], root=tmp_path)
    assert first.folder == tmp_path / "one_full"


def test_unknown_ids_and_negative_seeds_are_errors(data):
    whole = study(entry(overrides=data))
    with pytest.raises(ValueError, match="has no entry b; it has: a"):
        plan(whole, ["b"])
    with pytest.raises(ValueError, match="-1"):
        plan(whole, seeds=[-1])


def test_an_override_that_changes_nothing_is_an_error(data):
    for word in ("model.backbone.bottom_up.rank=2", "train.max_iter=8"):
        with pytest.raises(ValueError, match=rf"Entry a: the override {word} changes nothing in {CONFIG}"):
            plan(study(entry(overrides=(*data, word))))
    twice = [f"model.backbone.bottom_up.rank={rank}" for rank in (4, 3)]
    with pytest.raises(ValueError, match=r"rank=4 changes nothing"):
        plan(study(entry(overrides=(*data, *twice))))
    (run,) = plan(study(entry(overrides=(*data, twice[1]))))
    assert run.config.model.backbone.bottom_up.rank == 3


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"overrides": ("model.backbone.rank=3",)}, ["model.backbone.rank", "no key"]),
        ({"overrides": ("rank",)}, ["'rank'", "key=value"]),
        ({"overrides": ("train.max_iter=[",)}, ["train.max_iter"]),
        ({"overrides": (), "splits": ("val",)}, ["data.root"]),
        ({"splits": ("val", "hidden")}, ["data.hidden_json"]),
    ],
)
def test_a_mistake_in_a_config_names_the_entry(values, words, data):
    with pytest.raises(ValueError) as caught:
        plan(study(entry("good", overrides=data), entry(**{"overrides": data, **values})))
    assert str(caught.value).startswith("Entry a: ")
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_full_run_is_that_of_the_plain_command(tmp_path, data):
    """`train.seed=N train.output_dir=…` and what the entry overrides is all that a person types."""
    rank = "model.backbone.bottom_up.rank=3"
    runs = plan(study(entry(overrides=(*data, rank), seeds=(0, 1))), root=tmp_path / "runs")
    for seed, run in enumerate(runs):
        plain = load_config(CONFIG, [*data, rank, f"train.seed={seed}", f"train.output_dir={tmp_path}/mine_{seed}"])
        assert config_hash(run.config) == config_hash(plain)
    assert config_hash(runs[0].config) != config_hash(runs[1].config)


def test_a_moved_folder_of_data_leaves_the_hash(tmp_path):
    moved = [plan(study(entry(overrides=(f"data.root={tmp_path}/{name}",))))[0] for name in ("here", "there")]
    assert config_hash(moved[0].config) == config_hash(moved[1].config)
    other = plan(study(entry(overrides=(f"data.root={tmp_path}", "data.name=other"))))[0]
    assert config_hash(other.config) != config_hash(moved[0].config)


def test_a_change_of_the_config_changes_the_hash(data):
    hashes = {
        config_hash(plan(study(entry(overrides=(*data, *words))))[0].config)
        for words in ((), ("optimizer.lr=0.5",), ("train.max_iter=9",), ("model.backbone.bottom_up.freeze_base=False",))
    }
    assert len(hashes) == 4


def test_how_a_run_is_carried_out_is_no_part_of_its_config(tmp_path, data):
    (run,) = plan(study(entry(overrides=data)), root=tmp_path)
    (command,) = run.commands(Launch(num_gpus=2, max_batch_per_gpu=1))
    assert command[:6] == ["tools/lazyconfig_train_net.py", "--config-file", CONFIG, "--num-gpus", "2", "--resume"]
    words = command[6:]
    assert words == [*run.overrides, "train.max_batch_per_gpu=1"]
    assert config_hash(load_config(CONFIG, words)) == config_hash(run.config)
    (afresh,) = run.commands(Launch(overwrite=True))
    assert "--resume" not in afresh
    assert afresh[-1] == "train.overwrite=True"
    evaluations = run.commands(evaluate_only=["val", "test"])
    assert [c[c.index("--split") + 1] for c in evaluations] == ["val", "test"]
    assert str(run.folder / "test_metrics.json") in evaluations[1]


def test_a_smoke_run_is_short(tmp_path):
    whole = on_scenes(tmp_path / "data", entry(overrides=(f"data.root={tmp_path}/data",), splits=("val", "test")))
    whole = replace(whole, smoke=Smoke(train_images=3, val_images=2, epochs=0.5))
    (run,) = plan(whole, mode="smoke", root=tmp_path / "runs")
    train = run.config.train
    assert (train.max_iter, list(train.eval_splits), train.smoke) == ("0.5 epochs", ["val"], True)
    assert run.config.model.test_score_thresh == 0.0
    assert run.splits == ("smoke",)
    run.data.prepare(run.entry)
    for split, count in (("train", 3), ("val", 2)):
        assert len(json.loads(Path(run.config.data[f"{split}_json"]).read_text())["images"]) == count
    (full,) = plan(whole, root=tmp_path / "runs")
    assert (full.config.train.max_iter, full.splits) == (8, ("val", "test"))
    assert full.config.data.train_json == f"{tmp_path}/data/Annotations/train.json"


def test_a_smoke_subset_is_the_same_again_and_follows_its_source(tmp_path):
    (run,) = plan(on_scenes(tmp_path / "data", entry(overrides=(f"data.root={tmp_path}/data",))), mode="smoke")
    run = plan(run.study, mode="smoke", root=tmp_path / "runs")[0]
    run.data.prepare(run.entry)
    subset = tmp_path / "runs" / "smoke_data" / "tiny" / "train_4.json"
    content, written = subset.read_bytes(), subset.stat().st_mtime_ns
    run.data.prepare(run.entry)
    assert subset.stat().st_mtime_ns == written
    subset.unlink()
    run.data.prepare(run.entry)
    assert subset.read_bytes() == content
    # Other data take the place of the first; being older does not hide that.
    source = tmp_path / "data" / "Annotations" / "train.json"
    source.write_text(source.read_text().replace('"synthetic":true', '"synthetic":true,"version":"other"'))
    os.utime(source, (1, 1))
    run.data.prepare(run.entry)
    assert json.loads(subset.read_text())["info"]["version"] == "other"


def test_the_full_run_of_a_smoke_only_entry_is_short(tmp_path):
    whole = on_scenes(tmp_path / "data", entry(overrides=(f"data.root={tmp_path}/data",), smoke_only=True))
    smoke, full = (plan(whole, mode=mode, root=tmp_path)[0] for mode in ("smoke", "full"))
    assert (smoke.name, full.name) == ("a_smoke", "a_full")
    assert full.splits == ("smoke",)
    assert config_hash(full.config) == config_hash(smoke.config)


def test_synthetic_data_stand_in_where_the_data_are_missing_alone(tmp_path):
    stand_in = Scenes(root=str(tmp_path / "stand_in"), size=64, counts={"train": 3, "val": 2})
    there = generate(tmp_path / "there", size=64, counts={"train": 3, "val": 2})
    for root, synthetic in ((there, False), (tmp_path / "nowhere", True)):
        whole = study(entry(overrides=(f"data.root={root}",)), stand_in=stand_in)
        (run,) = plan(whole, mode="smoke", root=tmp_path)
        assert (run.data.scenes is not None) == synthetic
        assert (run.config.data.name == "tiny_synthetic") == synthetic
        (full,) = plan(whole, root=tmp_path)
        assert full.data.scenes is None
        assert full.config.data.root == str(root)
    with pytest.raises(FileNotFoundError, match=rf"Entry a: no annotations at {tmp_path}/nowhere/"):
        full.data.prepare(full.entry)
    assert not (tmp_path / "stand_in").exists()  # planning makes nothing


def test_a_larger_stand_in_is_a_set_of_its_own(tmp_path):
    stand_in = Scenes(root=str(tmp_path / "stand_in"), size=64, counts={"train": 3, "val": 2})
    whole = study(entry(overrides=(f"data.root={tmp_path}/nowhere",)), stand_in=stand_in)
    for smoke in (Smoke(train_images=4, val_images=2), Smoke(train_images=2, val_images=1)):
        (run,) = plan(replace(whole, smoke=smoke), mode="smoke", root=tmp_path / "runs")
        run.data.prepare(run.entry)
        drawn = json.loads((tmp_path / f"runs/smoke_data/tiny_synthetic/train_{smoke.train_images}.json").read_text())
        assert len(drawn["images"]) == smoke.train_images
    assert {path.name for path in tmp_path.iterdir()} >= {"stand_in", "stand_in_4_2"}


@pytest.mark.slow
def test_pictures_come_from_one_run_of_each_source(tmp_path, data):
    sources = entry("a", overrides=data, seeds=(0, 1)), entry("b", overrides=data)
    pictures = entry("p", kind="pictures", config="", sources=("b", "a"), images=7)
    whole = study(*sources, pictures, smoke=Smoke(val_images=3))
    run = plan(whole, ["p"], root=tmp_path)[0]
    assert (run.name, names(run.sources)) == ("p_full", ["b_full", "a_full_seed0"])
    first, second = run.commands()
    assert first[0] == "tools/visualize.py"
    assert first[first.index("--checkpoint") + 1] == str(tmp_path / "b_full" / "model_best.pth")
    assert first[first.index("--subset") + 1] == second[second.index("--subset") + 1] == "7"
    assert second[second.index("--output") + 1] == str(tmp_path / "p_full" / "a_full_seed0")
    elsewhere = study(*sources, replace(pictures, splits=("test",)))
    paint = plan(elsewhere, ["p"], root=tmp_path)[0].commands()[0]
    assert (first[first.index("--split") + 1], paint[paint.index("--split") + 1]) == ("val", "test")
    (smoke,) = plan(whole, ["p"], mode="smoke", root=tmp_path)[0].sources[:1]
    assert smoke.name == "b_smoke"
    assert names(plan(whole, ["p"], seeds=[1], root=tmp_path)[0].sources) == ["b_full_seed1", "a_full_seed1"]
