"""Weights are paired with data by the names of classes, at every door, and travel without the data."""

import json
import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.train_tool import ROOT, call, succeed
from PIL import Image

from loradet.adapters import read_adapter
from loradet.config import load_config
from loradet.experiments.running.config_changes import config_changes
from loradet.inference.command import predict_checkpoint, predict_exported
from loradet.inference.export import export_checkpoint
from loradet.inference.model_cost import count_config

CONFIG = str(ROOT / "configs" / "custom_coco.py")
BOXES = {"cat": [30, 20, 60, 40], "dog": [100, 70, 50, 40], "horse": [100, 70, 50, 40], "cow": [5, 5, 20, 20]}
# The same data, exported twice: ids are given by order of names the second time.
BEFORE, AFTER, OTHER = {"cat": 1, "dog": 2}, {"dog": 1, "cat": 2}, {"cat": 1, "horse": 2}


def annotations(path: Path, ids: dict[str, int], images: int = 3) -> Path:
    """Three pictures, an object of each class on each."""
    objects = [(image, ids[name], BOXES[name]) for image in range(1, images + 1) for name in sorted(ids)]
    content = {
        "images": [{"id": i, "file_name": f"im{i}.png", "width": 160, "height": 120} for i in range(1, images + 1)],
        "annotations": [
            {"id": n, "image_id": image, "category_id": number, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for n, (image, number, box) in enumerate(objects, start=1)
        ],
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
    }
    path.write_text(json.dumps(content))
    return path


def words(data: Path, output: Path, name: str, *more: str) -> list[str]:
    """Command line of a run; a data set's name stands for one order of classes in a process."""
    keys = {f"data.{split}_{kind}" for split in ("train", "val") for kind in ("json", "images")}
    places = [f"{key}={data / ('data.json' if key.endswith('json') else 'images')}" for key in sorted(keys)]
    small = ["data.image_size=64", "data.max_size=96", "dataloader.train.total_batch_size=2"]
    small += [f"dataloader.{split}.num_workers=0" for split in ("train", "val")]
    fixed = [f"data.root={data}", "train.device=cpu", f"train.output_dir={output}", f"data.name={name}"]
    return [*fixed, *places, *small, *more]


SHORT = ("train.max_iter=2", "train.eval_period=0")


def train(data: Path, output: Path, name: str, *more: str) -> tuple[int, str]:
    return call("--config-file", CONFIG, *words(data, output, name, *SHORT, *more))


def use(data: Path, ids: dict[str, int], images: int = 3) -> None:
    annotations(data / "data.json", ids, images)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Data of the first export, and a run on them whose best weights find cats everywhere."""
    data, run = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("runs") / "run"
    (data / "images").mkdir()
    noise = np.random.default_rng(0)
    for i in range(1, 5):
        Image.fromarray(noise.integers(0, 255, (120, 160, 3), dtype=np.uint8)).save(data / "images" / f"im{i}.png")
    use(data, BEFORE)
    status, error = train(data, run, "first")
    assert status == 0, error
    content = torch.load(run / "model_best.pth")
    bias = content["model"]["head.cls_score.bias"]
    bias.copy_(torch.tensor([2.0, -12.0]).repeat(len(bias) // 2))
    torch.save(content, run / "cats.pth")
    return data, run


@pytest.fixture
def data(first, tmp_path):
    """A copy of the data, to be changed."""
    return shutil.copytree(first[0], tmp_path / "data")


def found(run: Path, checkpoint: str, split: str = "val") -> set[str]:
    """Names of the classes of an evaluation's detections, and by them the annotations that they are numbered as."""
    folder = run / f"eval_{checkpoint}" / "predictions" / split
    names = json.loads((folder / "numbering.json").read_text())["categories"]
    detections = json.loads((folder / "coco_instances_results.json").read_text())
    return {names[str(one["category_id"])] for one in detections}


def test_every_file_of_a_run_names_the_classes(first):
    data, run = first
    for name in ("model_best.pth", "model_final.pth"):
        assert torch.load(run / name)["classes"] == {"names": ["cat", "dog"], "ids": [1, 2]}
    info = read_adapter(run / "adapter.safetensors")[0]
    assert (info["classes"], info["class_ids"]) == (["cat", "dog"], [1, 2])
    config = yaml.unsafe_load((run / "config.yaml").read_text())
    assert config["data"]["classes"] == ["cat", "dog"]
    assert config["model"]["num_classes"] == config["model"]["head"]["num_classes"] == 2
    noted = json.loads((run / "run.json").read_text())["data"]["train"]
    assert (noted["classes"], noted["num_annotations"]) == (["cat", "dog"], 6)
    # What was worked out of the data is no change of the config.
    assert config_changes(load_config(CONFIG, words(data, run, "first", *SHORT)), run) == []
    other = load_config(CONFIG, words(data, run, "first", *SHORT, "optimizer.lr=0.5"))
    assert config_changes(other, run) == ["optimizer.lr is 0.5, was 0.001"]


@pytest.mark.parametrize("checkpoint", ["cats.pth", "adapter.safetensors"])
def test_an_evaluation_reads_the_data_in_the_order_of_the_weights(first, data, checkpoint, tmp_path):
    use(data, AFTER)
    shutil.copytree(first[1], tmp_path / "run")
    arguments = words(data, tmp_path / "run", f"eval_{checkpoint}", "model.test_score_thresh=0.0")
    succeed("--config-file", CONFIG, "--eval-only", "--checkpoint", str(tmp_path / "run" / checkpoint), *arguments)
    log = (tmp_path / "run" / f"eval_{Path(checkpoint).stem}" / "log.txt").read_text()
    assert "numbers its classes as cat, dog" in log and "as dog, cat: the data are read in the order of the" in log
    if checkpoint == "cats.pth":
        assert found(tmp_path / "run", "cats") == {"cat"}


def test_weights_of_other_classes_are_refused_with_both(first, data, tmp_path):
    use(data, OTHER)
    checkpoint = str(first[1] / "cats.pth")
    arguments = words(data, tmp_path / "run", "other")
    status, error = call("--config-file", CONFIG, "--eval-only", "--checkpoint", checkpoint, *arguments)
    assert status == 1 and "trained on the classes cat, dog" in error and "has cat, horse" in error
    with pytest.raises(ValueError, match=r"trained on the classes cat, dog; .*has cat, horse"):
        predict_checkpoint(load_config(CONFIG, arguments), checkpoint, [str(data / "images")], str(tmp_path / "out"))


def test_predictions_have_the_names_of_the_weights(first, data, tmp_path, caplog):
    use(data, AFTER)
    cfg = load_config(CONFIG, words(data, tmp_path / "run", "predict"))
    with caplog.at_level(logging.WARNING):
        predict_checkpoint(cfg, str(first[1] / "cats.pth"), [str(data / "images")], str(tmp_path / "out"))
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert content["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert {one["category_id"] for one in content["annotations"]} == {1}
    assert "the answers have those of the weights (cat 1, dog 2)" in caplog.text


def test_older_weights_are_told_of_and_counted(first, data, tmp_path):
    content = torch.load(first[1] / "cats.pth")
    del content["classes"]
    torch.save(content, tmp_path / "old.pth")
    evaluate = ["--config-file", CONFIG, "--eval-only", "--checkpoint", str(tmp_path / "old.pth")]
    succeed(*evaluate, *words(data, tmp_path / "run", "old"))
    assert "old.pth does not say its classes" in (tmp_path / "run" / "eval_old" / "log.txt").read_text()
    use(data, BEFORE | {"cow": 3})
    status, error = call(*evaluate, *words(data, tmp_path / "run", "old3"))
    assert status == 1 and "cls_score" in error


def test_a_run_goes_on_with_changed_data_on_demand_only(first, data, tmp_path):
    run = shutil.copytree(first[1], tmp_path / "run")
    more = ["train.max_iter=3"]
    use(data, BEFORE, images=4)
    status, error = call("--config-file", CONFIG, "--resume", *words(data, run, "more", *more))
    assert status == 1 and f"{data / 'data.json'} (train: 3 images before, 4 now; 6 annotations before, 8 now)" in error
    assert "train.accept_changed_data=True" in error
    use(data, AFTER)
    status, error = call("--config-file", CONFIG, "--resume", *words(data, run, "swapped", *more))
    assert status == 1 and "classes cat, dog before, dog, cat now" in error
    accepted = words(data, run, "accepted", *more, "train.accept_changed_data=True", "train.eval_period=0")
    succeed("--config-file", CONFIG, "--resume", *accepted)
    assert torch.load(run / "model_final.pth")["classes"]["names"] == ["cat", "dog"]
    assert json.loads((run / "run.json").read_text())["data"]["train"]["classes"] == ["cat", "dog"]
    assert "Changed since the run began, and accepted" in (run / "log.txt").read_text()


@pytest.mark.slow
def test_a_friend_needs_no_data(first, tmp_path):
    data, run = first
    for name in ("config.yaml", "adapter.safetensors"):
        shutil.copy(run / name, tmp_path / name)
    config = tmp_path / "config.yaml"
    config.write_text(config.read_text().replace(str(data), "/nowhere"))
    cfg, adapter = load_config(str(config), ["train.device=cpu"]), str(tmp_path / "adapter.safetensors")
    assert predict_checkpoint(cfg, adapter, [str(data / "images")], str(tmp_path / "found")).images == 4
    exported = export_checkpoint(cfg, adapter, str(tmp_path / "model.pt2"), dynamic=False)
    assert (exported["classes"], exported["category_ids"]) == (["cat", "dog"], [1, 2])
    assert (
        predict_exported(
            str(tmp_path / "model.pt2"), [str(data / "images")], str(tmp_path / "more"), trusted=True, device="cpu"
        ).images
        == 4
    )
    assert count_config(cfg).parameters.all.total > 3e6
    sys.path.insert(0, str(ROOT / "tools"))
    import adapters

    for command in ("merge", "apply"):
        output = tmp_path / f"{command}.pth"
        given = [command, "--config-file", str(config), "--adapter", adapter, "--output", str(output)]
        getattr(adapters, command)(adapters.parse_arguments(given))
        assert torch.load(output)["classes"] == {"names": ["cat", "dog"], "ids": [1, 2]}


def test_a_run_is_known_again_by_its_own_config(first, tmp_path):
    copy = shutil.copytree(first[1], tmp_path / "run")
    succeed("--config-file", str(copy / "config.yaml"), "--resume", f"train.output_dir={copy}")
    log = (copy / "log.txt").read_text()
    assert "is finished; nothing is left to do" in log and "differs" not in log


def test_a_run_from_another_keeps_the_rows_of_classes_that_both_have(first, data, tmp_path):
    use(data, {"dog": 7, "cow": 8, "cat": 9})
    start = f"train.init_checkpoint={first[1] / 'model_final.pth'}"
    status, error = train(data, tmp_path / "run", "three", start, "train.max_iter=0")
    assert status == 0, error
    before, after = (torch.load(folder / "model_final.pth")["model"] for folder in (first[1], tmp_path / "run"))
    for name in ("head.cls_score.weight", "head.cls_score.bias"):
        old, new = before[name].unflatten(0, (-1, 2)), after[name].unflatten(0, (-1, 3))
        assert torch.equal(new[:, 0], old[:, 1]) and torch.equal(new[:, 2], old[:, 0])
        assert not torch.equal(new[:, 1], old[:, 0]) and not torch.equal(new[:, 1], old[:, 1])
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "rows of the head by class name: dog, cat kept, cow new" in log
