"""Training, evaluation and prediction in a few lines of Python, with the numbers of the tools."""

import csv
import json
import logging
import shutil

import numpy as np
import pytest
import torch
from helpers.paths import TEST_CONFIGS
from omegaconf import OmegaConf
from PIL import Image

import loradet
from loradet.cli.evaluate import main as evaluate
from loradet.cli.predict import main as predict
from loradet.datasets.synthetic import generate
from loradet.errors import UserError
from loradet.evaluation.score_thresholds import find_operating_point
from loradet.views import Views

CONFIG = TEST_CONFIGS / "tiny.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("face")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORADET_CACHE", str(root / "cache"))
        data = generate(root / "data", size=96, counts={"train": 4, "val": 3, "test": 0})
        words = [f"data.root={data}", f"train.output_dir={root / 'run'}", "train.eval_splits=[val]"]
        steps = ["train.max_iter=4", "train.eval_period=2", "train.checkpointer.period=2", "train.device=cpu"]
        folder = loradet.train(CONFIG, [*words, *steps, "model.test_score_thresh=0", "dataloader.train.num_workers=0"])
        yield folder, data


@pytest.fixture(scope="module")
def images(run):
    return sorted((run[1] / "JPEGImages" / "val").iterdir())


def test_evaluate_gives_the_metrics_of_the_run(run):
    folder, _ = run
    assert folder.name == "run" and json.loads((folder / "run.json").read_text())["status"] == "finished"
    metrics = loradet.evaluate(folder)
    written = json.loads((folder / "val_metrics.json").read_text())
    assert metrics["coco/bbox_mAP"] == written["coco/bbox_mAP"] and metrics["split"] == "val"


def boxes(found):
    return np.round(np.column_stack([found.pred_boxes.tensor.numpy(), found.scores.numpy()]), 4).tolist()


def test_tiles_are_the_same_in_python_and_on_the_command_line(run, images, tmp_path, capsys):
    folder, _ = run
    words = ["--config-file", f"{folder}/config.yaml", "--output", str(tmp_path / "tiles")]
    assert evaluate([*words, "--tiles", "64", "--overlap", "0.3", "--flip", "--batch-size", "3"]) == 0
    views = Views(tiles=64, overlap=0.3, flip=True)
    metrics = json.loads((tmp_path / "tiles" / "val_metrics.json").read_text())
    assert metrics["views"] == views.to_dict()
    again = loradet.evaluate(folder, views=views)
    assert again["coco/bbox_mAP"] == pytest.approx(metrics["coco/bbox_mAP"], abs=1e-6)
    # Each in a folder of its own, beside what an evaluation of whole images leaves.
    assert (folder / "eval_model_best_tiles64_overlap0.3_flip" / "operating_point.json").is_file()

    words = ["--config-file", f"{folder}/config.yaml", "--checkpoint", f"{folder}/model_best.pth", "--no-pictures"]
    predict(
        [*words, "--threshold", "0", "--output", str(tmp_path), *map(str, images), "--tiles", "64", "--save", "csv"]
    )
    assert f"{tmp_path / 'detections.csv'}: " in capsys.readouterr().out
    with (tmp_path / "detections.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    predictor = loradet.load(folder, score_threshold=0.0)
    for image, found in zip(images, predictor([str(image) for image in images], tiles=64)):
        own = [row for row in rows if row["image"] == image.name]
        assert [row["class"] for row in own] == list(found.class_names) and len(own) > 100
        corners = [[float(row[key]) for key in ("x0", "y0", "x1", "y1", "score")] for row in own]
        np.testing.assert_allclose(corners, boxes(found), atol=1e-3)
    with pytest.raises(UserError, match="tiles=64 and views were given"):
        predictor(images[0], tiles=64, views=views)


def test_the_operating_point_of_the_same_views_comes_first(run, tmp_path, images, capsys):
    folder, _ = run
    own = find_operating_point(folder / "model_best.pth", views="flip")
    point = json.loads((folder / "operating_point.json").read_text())
    target = folder / "eval_model_best_flip"
    target.mkdir()
    point["classes"] = [{**one, "threshold": 0.123} for one in point["classes"]]
    (target / "operating_point.json").write_text(json.dumps(point))
    found = find_operating_point(folder / "model_best.pth", views="flip")
    assert {one.threshold for one in found.classes} == {0.123}
    assert find_operating_point(folder / "model_best.pth").to_dict() == own.to_dict()
    words = ["--config-file", f"{folder}/config.yaml", "--checkpoint", f"{folder}/model_best.pth", "--no-pictures"]
    predict([*words, "--output", str(tmp_path), str(images[0]), "--flip"])
    assert " 0.123" in capsys.readouterr().out


def test_views_of_kept_features_are_refused(run, capsys):
    words = ["--config-file", str(run[0] / "config.yaml"), "--flip", "train.feature_cache.enabled=True"]
    with pytest.raises(SystemExit) as stopped:
        evaluate(words)
    assert stopped.value.code == 1
    assert "error: Features are kept of whole images" in capsys.readouterr().err


def test_a_predictor_finds_what_the_tool_finds(run, images, tmp_path, capsys):
    folder, _ = run
    words = ["--config-file", f"{folder}/config.yaml", "--checkpoint", f"{folder}/model_best.pth", "--no-pictures"]
    predict([*words, "--threshold", "0", "--output", str(tmp_path), *map(str, images)])
    capsys.readouterr()
    written = json.loads((tmp_path / "predictions.json").read_text())
    names = {category["id"]: category["name"] for category in written["categories"]}
    predictor = loradet.load(folder, score_threshold=0.0)
    for number, image in enumerate(images, start=1):
        own = [a for a in written["annotations"] if a["image_id"] == number]
        found = predictor(image)
        assert len(found) == len(own) > 0
        assert found.class_names.tolist() == [names[a["category_id"]] for a in own]
        assert np.allclose(found.scores.numpy(), [a["score"] for a in own])
        xyxy = np.array([a["bbox"] for a in own])
        xyxy[:, 2:] += xyxy[:, :2]
        assert np.allclose(found.pred_boxes.tensor.numpy(), xyxy, atol=1e-4)


def test_files_arrays_pictures_lists_and_folders_are_alike(run, images):
    predictor = loradet.load(run[0] / "model_best.pth", score_threshold=0.0)
    by_file = [boxes(predictor(str(image))) for image in images]
    arrays = [np.asarray(Image.open(image).convert("RGB")) for image in images]
    assert boxes(predictor(arrays[0])) == by_file[0]
    assert boxes(predictor(Image.open(images[1]))) == by_file[1]
    assert [boxes(found) for found in predictor([images[0], arrays[1]])] == by_file[:2]
    assert [boxes(found) for found in predictor(images[0].parent)] == by_file
    middle = float(predictor(arrays[0]).scores.median())
    few = predictor(arrays[0], score_threshold=middle)
    assert 0 < len(few) < len(by_file[0]) and few.scores.min() >= middle and len(few.class_names) == len(few)


def test_a_pillow_image_is_read_as_its_file(run, images, tmp_path):
    predictor = loradet.load(run[0], score_threshold=0.0)
    picture = Image.open(images[0]).convert("RGB").resize((80, 60))
    turned = Image.Exif()
    turned[0x0112] = 6  # a camera held upright
    files = {}
    for mode, suffix, options in [("RGB", "jpg", {"exif": turned}), ("CMYK", "jpg", {}), ("YCbCr", "jpg", {})]:
        files[mode] = tmp_path / f"{mode}.{suffix}"
        picture.convert(mode).save(files[mode], quality=95, **options)
        assert boxes(predictor(Image.open(files[mode]))) == boxes(predictor(files[mode]))
    assert predictor(Image.open(files["RGB"])).image_size == (80, 60)
    deep = np.asarray(picture.convert("L")).astype(np.uint16) * 257
    assert boxes(predictor(Image.fromarray(deep.astype(np.int32)))) == boxes(predictor(deep))
    with pytest.raises(UserError, match="mode F: expected 1, L"):
        predictor(picture.convert("F"))
    with pytest.raises(UserError, match="holds 0 to 70000: expected 0 to 65535"):
        predictor(Image.fromarray(np.array([[0, 70000]], np.int32)))


def test_what_is_no_image_is_said(run, images):
    predictor = loradet.load(run[0])
    for wrong in (None, 3, torch.zeros(3, 8, 8), {"image": images[0]}):
        with pytest.raises(UserError, match=f"an object of type {type(wrong).__name__}: expected a file, a folder"):
            predictor(wrong)
    with pytest.raises(UserError, match="holds an object of type list"):
        predictor([[images[0]]])
    with pytest.raises(UserError, match="which is a folder: give it alone"):
        predictor([images[0], images[0].parent])
    with pytest.raises(UserError, match="score_threshold=2: expected a number from 0 to 1"):
        predictor(images[0], score_threshold=2)
    with pytest.raises(UserError, match=r"score_threshold='0\.3'"):
        loradet.load(run[0], score_threshold="0.3")
    assert predictor([]) == [] and len(predictor(file for file in images)) == len(images)


def test_a_config_edited_in_python_trains_as_its_file(run, tmp_path):
    _, data = run
    cfg = loradet.get_config(CONFIG)
    cfg.model.backbone.bottom_up.rank = 1
    before = OmegaConf.to_container(cfg)
    steps = ["train.max_iter=2", "train.eval_period=2", "train.device=cpu", "dataloader.train.num_workers=0"]
    words = [f"data.root={data}", "train.eval_splits=[val]", *steps]
    edited = loradet.train(cfg, [*words, f"train.output_dir={tmp_path / 'edited'}"])
    assert OmegaConf.to_container(cfg) == before
    by_word = ["model.backbone.bottom_up.rank=1", f"train.output_dir={tmp_path / 'words'}"]
    told = loradet.train(CONFIG, [*words, *by_word])
    assert all((one / "log.txt").read_text().count("is finished") == 1 for one in (edited, told))
    assert not [handler for handler in logging.getLogger("loradet").handlers if hasattr(handler, "stream")]
    losses = [
        [
            json.loads(line)["total_loss"]
            for line in (one / "metrics.json").read_text().splitlines()
            if "total_loss" in line
        ]
        for one in (edited, told)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 2
    metrics = [loradet.evaluate(cfg, told / "model_final.pth", overrides=words), loradet.evaluate(edited)]
    assert metrics[0]["coco/bbox_mAP"] == metrics[1]["coco/bbox_mAP"]


def test_one_text_is_no_list_of_overrides(run):
    for call in (
        lambda: loradet.train(CONFIG, "train.max_iter=1"),
        lambda: loradet.evaluate(run[0], overrides="train.max_iter=1"),
        lambda: loradet.load(run[0], overrides="train.max_iter=1"),
    ):
        with pytest.raises(UserError, match=r"expected a list of key=value texts, for example \['train.max_iter=1'\]"):
            call()


def test_what_cannot_be_loaded_or_read_is_said(run, tmp_path):
    with pytest.raises(UserError, match="holds no weights"):
        loradet.load(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        loradet.load(tmp_path / "absent")
    predictor = loradet.load(run[0])
    with pytest.raises(UserError, match=r"shape \(3, 8, 8\).*expected \(H, W\)"):
        predictor(np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(UserError, match="float64"):
        predictor(np.zeros((8, 8)))


@pytest.mark.subset  # an installed Detectron2 goes on writing into the file that is gone
def test_a_folder_that_was_removed_is_logged_into_again(run, tmp_path):
    _, data = run
    words = [f"data.root={data}", "train.eval_period=0", "train.eval_splits=[]", "train.max_iter=1", "train.device=cpu"]
    for _ in range(2):
        folder = loradet.train(
            CONFIG, [*words, "dataloader.train.num_workers=0", f"train.output_dir={tmp_path / 'run'}"]
        )
        assert (folder / "log.txt").read_text().count("is finished") == 1
        shutil.rmtree(folder)
