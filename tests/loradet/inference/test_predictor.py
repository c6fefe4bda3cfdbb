"""Images in, COCO JSON and pictures out."""

import json
import struct

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from helpers.deep_images import write_png, write_tiff
from helpers.random_detector import NAMES, config, picture
from PIL import Image
from pycocotools.coco import COCO

from loradet.config.splits import evaluation_mapper
from loradet.datasets.synthetic import generate
from loradet.evaluation import Split
from loradet.export.resizing import Resizing
from loradet.inference.classes import Classes
from loradet.inference.command import predict_checkpoint, predict_exported
from loradet.inference.exported import CheckedMapper, ExportedDetector
from loradet.inference.image_files import common_folder, find_images
from loradet.inference.predictor import predict
from loradet.model import load_detector
from loradet.run_folder import RunFolder
from loradet.views import Views


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Images of three sizes in two folders, and a file that is none."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "sub").mkdir()
    for i, size in enumerate([(100, 120), (100, 120), (120, 100), (80, 170)]):
        Image.fromarray(picture(*size, seed=i)).save(folder / f"{'sub/' if i % 2 else ''}im{i}.png")
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def done(weights, images, tmp_path_factory):
    output = tmp_path_factory.mktemp("done")
    outcome = predict_checkpoint(config(), str(weights / "model.pth"), [str(images)], str(output))
    return outcome, json.loads(outcome.output.read_text())


def by_image(content):
    rows = sorted(content["annotations"], key=lambda row: (row["image_id"], -row["score"]))
    return (
        [(row["image_id"], row["category_id"]) for row in rows],
        torch.tensor([[row["score"], *row["bbox"]] for row in rows], dtype=torch.float64),
    )


def assert_same(content, other, tolerance=1e-4):
    (keys, numbers), (other_keys, other_numbers) = by_image(content), by_image(other)
    assert keys == other_keys and len(keys) > 100
    torch.testing.assert_close(numbers, other_numbers, atol=tolerance, rtol=0)


def test_the_file_is_coco(done, images):
    outcome, content = done
    coco = COCO(str(outcome.output))
    assert [image["file_name"] for image in content["images"]] == ["im0.png", "im2.png", "sub/im1.png", "sub/im3.png"]
    assert content["images"][1] == {"id": 2, "file_name": "im2.png", "width": 100, "height": 120}
    assert content["info"]["image_root"] == str(images) and content["info"]["source"] == "model.pth"
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == NAMES
    assert len(coco.loadRes(content["annotations"]).anns) == outcome.boxes > 100
    for row in content["annotations"]:
        image, (x, y, w, h) = coco.imgs[row["image_id"]], row["bbox"]
        assert w > 0 and h > 0 and x >= 0 and y >= 0
        assert x + w <= image["width"] + 1e-3 and y + h <= image["height"] + 1e-3


def test_evaluation_finds_the_same(weights, tmp_path):
    root = generate(tmp_path / "data", size=(80, 100), counts={"train": 1, "val": 3, "test": 0})
    classes = "[ship,aircraft,car]"
    cfg = config(f"data.root={root}", f"data.classes={classes}", "data.name=predicted")
    model = load_detector(cfg, weights / "model.pth")
    Split(cfg, "val").evaluate(model, tmp_path)
    wanted = json.loads(RunFolder(tmp_path).predictions("val").read_text())
    outcome = predict_checkpoint(cfg, str(weights / "model.pth"), [str(root / "JPEGImages/val")], str(tmp_path / "out"))
    content = json.loads(outcome.output.read_text())
    truth = {i["file_name"]: i["id"] for i in json.loads((root / "Annotations/val.json").read_text())["images"]}
    ids = {image["id"]: truth[image["file_name"]] for image in content["images"]}
    for row in content["annotations"]:
        row["image_id"] = ids[row["image_id"]]
    assert_same(content, {"annotations": wanted})
    assert content["info"]["synthetic"] is True


@pytest.mark.slow
def test_an_exported_model_finds_the_same(exported, images, done, tmp_path):
    outcome = predict_exported(str(exported), [str(images)], str(tmp_path), trusted=True, batch_size=3, device="cpu")
    assert_same(json.loads(outcome.output.read_text()), done[1])
    assert outcome.images == 4


@pytest.mark.slow
def test_an_exported_model_finds_the_same_in_tiles(exported, weights, images, tmp_path):
    views = Views(tiles=80, flip=True, scales=(1, 1.2), merge="fusion")
    one = predict_checkpoint(config(), str(weights / "model.pth"), [str(images)], str(tmp_path / "a"), views=views)
    options = {"trusted": True, "batch_size": 3, "device": "cpu", "views": views}
    other = predict_exported(str(exported), [str(images)], str(tmp_path / "b"), **options)
    # Fusion may turn over where a box lies just on either side of an IoU.
    found, wanted = (json.loads(outcome.output.read_text()) for outcome in (other, one))
    assert found["info"]["views"] == wanted["info"]["views"] == views.to_dict()
    assert_same(found, wanted, tolerance=1e-3)


def test_batches_do_not_change_results(weights, images, done, tmp_path):
    options = {"batch_size": 4, "pictures": False}
    outcome = predict_checkpoint(config(), str(weights / "merged.pth"), [str(images)], str(tmp_path), **options)
    assert_same(json.loads(outcome.output.read_text()), done[1])
    assert not (tmp_path / "pictures").exists()


def test_pictures_are_painted_beside_the_file(done):
    pictures = done[0].output.parent / "pictures"
    assert sorted(str(p.relative_to(pictures)) for p in pictures.rglob("*.png")) == [
        "im0.png",
        "im2.png",
        "sub/im1.png",
        "sub/im3.png",
    ]
    painted = np.asarray(Image.open(pictures / "im2.png"))
    plain = np.asarray(Image.fromarray(picture(120, 100, seed=2)).resize(painted.shape[1::-1]))
    assert painted.shape == (400, 333, 3) and np.abs(painted.astype(int) - plain).max() > 100


def small(cfg, weights, files, output, **options):
    model = load_detector(cfg, weights / "merged.pth")
    return predict(
        detector=model,
        mapper=instantiate(evaluation_mapper(cfg)),
        classes=Classes(NAMES, [1, 2, 3]),
        files=files,
        output=output,
        **options,
    )


def test_broken_images_are_named_and_the_others_done(weights, images, tmp_path, capfd):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes((images / "im0.png").read_bytes()[:300])
    gone = tmp_path / "gone.png"
    outcome = small(config(), weights, [broken, images / "im0.png", gone], tmp_path / "out")
    assert outcome.images == 1 and len(outcome.failures) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(lines) == 2 and str(broken) in lines[0] and str(gone) in lines[1]
    content = json.loads(outcome.output.read_text())
    assert [image["id"] for image in content["images"]] == [2] and content["info"]["images_failed"] == 2


def test_exif_orientation_is_honoured(weights, images, tmp_path):
    upright = Image.open(images / "im0.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    turned = small(config(), weights, [tmp_path / "turned.png"], tmp_path / "a")
    straight = small(config(), weights, [images / "im0.png"], tmp_path / "b")
    content = [json.loads(outcome.output.read_text()) for outcome in (turned, straight)]
    assert content[0]["images"][0]["width"] == content[1]["images"][0]["width"] == 120
    assert [row["bbox"] for row in content[0]["annotations"]] == [row["bbox"] for row in content[1]["annotations"]]


def test_the_score_threshold_cuts(weights, images, done, tmp_path):
    before = sorted(row["score"] for row in done[1]["annotations"] if row["image_id"] == 1)
    threshold = before[len(before) // 2] + 1e-3
    outcome = small(config(), weights, [images / "im0.png"], tmp_path, score_threshold=threshold, pictures=False)
    scores = [row["score"] for row in json.loads(outcome.output.read_text())["annotations"]]
    assert 0 < len(scores) == sum(score >= threshold for score in before) < len(before)


def test_images_too_large_for_a_fixed_model_are_named(weights, images, tmp_path, capfd):
    cfg = config()
    mapper = CheckedMapper(mapper=instantiate(evaluation_mapper(cfg)), about={"size": [192, 256]})
    outcome = predict(
        detector=load_detector(cfg, weights / "merged.pth"),
        mapper=mapper,
        classes=Classes(NAMES, [1, 2, 3]),
        files=find_images([images]),
        output=tmp_path,
    )
    assert outcome.images == 3 and "im2.png is 192x230" in outcome.failures[0]
    assert "--dynamic" in capfd.readouterr().err


def test_files_folders_and_patterns(images, monkeypatch):
    monkeypatch.chdir(images)
    names = lambda *inputs: [path.as_posix() for path in find_images(inputs)]  # noqa: E731
    assert names("sub") == ["sub/im1.png", "sub/im3.png"]
    assert names("im2.png", ".", "im2.png") == ["im2.png", "im0.png", "sub/im1.png", "sub/im3.png"]
    assert names("**/im[13].png") == ["sub/im1.png", "sub/im3.png"]
    assert names("notes.txt") == ["notes.txt"]  # named by the user: to be read, and to fail aloud
    for missing in ("none.png", "none/*.png"):
        with pytest.raises(FileNotFoundError, match="none"):
            find_images([missing])
    (images / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no image"):
        find_images(["empty"])
    assert common_folder(find_images(["sub/im1.png"])) == images / "sub"
    assert common_folder(find_images(["sub/im1.png", "im0.png"])) == images


def test_pictures_of_like_named_images_do_not_replace_each_other(weights, images, tmp_path):
    for name in ("a.jpg", "a.png", "b.jpg"):
        Image.open(images / "im0.png").save(tmp_path / name)
    small(config(), weights, find_images([tmp_path]), tmp_path / "out")
    written = {path.name for path in (tmp_path / "out" / "pictures").iterdir()}
    assert written == {"a.jpg.png", "a.png.png", "b.png"}


@pytest.mark.parametrize(("name", "pixels"), [("16.png", np.uint16([[600, 2000], [3150, 9]])), ("8.png", None)])
def test_an_exported_detector_reads_by_the_rule_of_its_training(tmp_path, name, pixels):
    shallow = np.uint8([[0, 140], [255, 0]])
    write_png(tmp_path / name, shallow if pixels is None else pixels)
    metadata = {"classes": NAMES, "category_ids": [1, 2, 3], "input": {"size": None}, "resize": Resizing().to_dict()}
    if pixels is not None:
        metadata["intensity"] = [600, 3150]
    mapper = ExportedDetector(program=None, metadata=metadata, device="cpu").mapper()
    assert mapper({"file_name": str(tmp_path / name)})["image"][0].tolist() == shallow.tolist()


def test_every_warning_names_its_file(weights, tmp_path, capsys):
    with_tag = write_tiff(tmp_path / "tag.tif", picture(60, 80))
    # The last tag but one becomes one that says to hold more than the file has.
    content = bytearray(with_tag.read_bytes())
    place = content.index(struct.pack("<H", 284))
    content[place : place + 12] = struct.pack("<HHII", 34665, 4, 1, 2**31 - 9)
    with_tag.write_bytes(content)
    (tmp_path / "broken.png").write_bytes(b"no image")
    outcome = predict_checkpoint(config(), str(weights / "model.pth"), [str(tmp_path)], str(tmp_path / "out"))
    assert outcome.images == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning" in line.lower()]
    assert len(lines) >= 2
    assert all(line.startswith("warning: ") for line in lines)
    assert all(str(with_tag) in line or "broken.png" in line for line in lines)


def test_a_long_name_of_an_image_costs_nothing(weights, tmp_path):
    stem = "é" * 100 + "x" * 51  # 251 bytes
    folder = tmp_path / "images"
    folder.mkdir()
    for ending in ("a.png", "b.png"):
        Image.fromarray(picture(60, 80)).save(folder / f"{stem[:-1]}{ending}"[-251:])
    outcome = predict_checkpoint(config(), str(weights / "model.pth"), [str(folder)], str(tmp_path / "out"))
    names = [image["file_name"] for image in json.loads(outcome.output.read_text())["images"]]
    assert names == sorted(file.name for file in folder.iterdir())
    pictures = sorted((tmp_path / "out" / "pictures").iterdir())
    assert len(pictures) == 2
    assert all(file.suffix == ".png" for file in pictures)


def test_a_picture_that_cannot_be_written_costs_no_detection(weights, images, tmp_path, capsys):
    (tmp_path / "pictures" / "im0.png").mkdir(parents=True)
    outcome = predict_checkpoint(config(), str(weights / "model.pth"), [str(images)], str(tmp_path))
    assert outcome.images == 4
    assert f"warning: {images / 'im0.png'}: no picture" in capsys.readouterr().err


def test_strips_are_images_too(weights, tmp_path):
    for height, width in ((1, 4000), (3000, 2)):
        Image.fromarray(np.full((height, width, 3), 99, np.uint8)).save(tmp_path / f"{height}.png")
    outcome = predict_checkpoint(config(), str(weights / "model.pth"), [str(tmp_path)], str(tmp_path / "out"))
    assert (outcome.images, outcome.failures) == (2, [])
