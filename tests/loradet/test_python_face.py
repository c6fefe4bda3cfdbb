"""Training, evaluation and prediction in a few lines of Python, with the numbers of the tools."""

import json

import numpy as np
import pytest
from helpers.paths import TEST_CONFIGS
from PIL import Image

import loradet
from loradet.cli.predict import main as predict
from loradet.datasets.synthetic import generate
from loradet.errors import UserError

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


def test_names_are_public():
    assert set(loradet.__all__) <= set(dir(loradet)) and callable(loradet.load)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        loradet.lode  # noqa: B018
