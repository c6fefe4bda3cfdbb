"""An exported split: whole, repeatable, never taken for finished where it is not."""

import json
import multiprocessing
import subprocess
import zipfile

import numpy as np
import pytest
from PIL import Image

from loradet.evaluation.coco_metrics import coco_metrics, read_metrics
from loradet.visualization.export.folder import read_export
from loradet.visualization.export.split import export_split
from loradet.visualization.loaded_split import choose_subset
from loradet.visualization.painting import class_colors

SHIP = (30, 30, 70, 70)


def files(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_holds_all(cfg, checkpoint_of, tmp_path):
    written = export_split(cfg, checkpoint_of(*SHIP), tmp_path / "out", config="a.py", overrides=["b=1"])
    assert written == [tmp_path / "out" / "manifest.json"]
    export = read_export(tmp_path / "out")
    manifest = export.manifest
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("coco_instances_results.json", "ground_truth.json", "manifest.json", "metrics.json", "pictures"),
    ]
    assert (manifest["config"], manifest["overrides"], manifest["split"]) == ("a.py", ["b=1"], "val")
    assert manifest["checkpoint"].endswith("model_best.pth")
    assert manifest["classes"] == ["ship", "car"]
    assert export.image_ids == [10, 11, 12, 13, 14, 15]
    assert "data" not in manifest
    for entry in manifest["images"]:
        image = np.asarray(Image.open(tmp_path / "out" / entry["picture"]).convert("RGB"))
        assert (image == np.array(class_colors(2)[1])).all(axis=2).any()  # the sure detection is a car
    predictions = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert len(predictions) == 12
    assert {entry["category_id"] for entry in predictions} == {5, 9}  # the file's own ids
    metrics = read_metrics(tmp_path / "out" / "metrics.json")
    assert metrics["num_images"] == 6
    assert metrics["split"] == "val"
    expected = coco_metrics(tmp_path / "data" / "val.json", tmp_path / "out" / "coco_instances_results.json")
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, nan_ok=True)
    assert metrics["coco/bbox_mAP/ship"] > 0


def test_a_subset_is_the_same_for_every_model(cfg, checkpoint_of, tmp_path, caplog):
    for name, corners in (("a", SHIP), ("b", (1, 1, 9, 9))):
        export_split(cfg, checkpoint_of(*corners, name=f"{name}.pth"), tmp_path / name, subset=3)
    first, second = (read_export(tmp_path / name) for name in "ab")
    assert first.image_ids == second.image_ids
    assert len(first.image_ids) == 3
    truth = json.loads((tmp_path / "a" / "ground_truth.json").read_text())
    assert [image["id"] for image in truth["images"]] == first.image_ids
    assert read_metrics(tmp_path / "a" / "metrics.json")["num_images"] == 3
    export_split(cfg, tmp_path / "a.pth", tmp_path / "c", subset=3, subset_seed=4)
    assert read_export(tmp_path / "c").image_ids != first.image_ids
    assert "all are taken" not in caplog.text
    export_split(cfg, tmp_path / "a.pth", tmp_path / "d", subset=500)
    assert len(read_export(tmp_path / "d").image_ids) == 6
    assert "500 images was asked for; the split has 6" in caplog.text


def test_a_subset_does_not_depend_on_the_order():
    records = [{"image_id": number} for number in range(40)]
    chosen = {record["image_id"] for record in choose_subset(records, 10)}
    assert {record["image_id"] for record in choose_subset(records[::-1], 10)} == chosen
    assert chosen < {record["image_id"] for record in choose_subset(records, 20)}
    with pytest.raises(ValueError, match="expected 1 or more"):
        choose_subset(records, 0)


def test_the_zip_file_is_checked_and_repeatable(cfg, checkpoint_of, tmp_path):
    checkpoint = checkpoint_of(*SHIP)
    written = export_split(cfg, checkpoint, tmp_path / "out", archive=True, with_analysis=True)
    archive = tmp_path / "out.zip"
    assert written[1].samefile(archive)
    subprocess.run(["sha256sum", "-c", "out.zip.sha256"], cwd=tmp_path, check=True, capture_output=True)
    with zipfile.ZipFile(archive) as packed:
        assert {name.partition("/")[0] for name in packed.namelist()} == {"out"}
        packed.extractall(tmp_path / "again")
    unpacked = tmp_path / "again" / "out"
    subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=unpacked, check=True, capture_output=True)
    sums = files(unpacked).pop("SHA256SUMS").decode().splitlines()
    contents = files(tmp_path / "out")
    assert sorted(line.split("  ")[1] for line in sums) == sorted(contents)
    assert {name: data for name, data in files(unpacked).items() if name != "SHA256SUMS"} == contents
    before = archive.read_bytes()
    export_split(cfg, checkpoint, tmp_path / "out", archive=True, with_analysis=True)
    assert archive.read_bytes() == before
    # An export without a zip file leaves none of another state behind.
    export_split(cfg, checkpoint, tmp_path / "out", subset=2)
    assert not archive.exists()
    assert not (tmp_path / "out" / "analysis").exists()


def test_a_killed_export_is_not_finished(cfg, checkpoint_of, tmp_path):
    checkpoint, out = checkpoint_of(*SHIP), tmp_path / "out"
    export_split(cfg, checkpoint, out)
    cfg.model.killed_at = 13
    process = multiprocessing.get_context("fork").Process(target=export_split, args=(cfg, checkpoint, out))
    process.start()
    process.join(60)
    assert process.exitcode == -9
    assert len(list((out / "pictures").iterdir())) == 3
    with pytest.raises(ValueError, match="not finished"):
        read_export(out)
    cfg.model.killed_at = None
    (out / ".metrics.json.abc.tmp").write_text("{")  # what a kill in the middle of a write leaves
    export_split(cfg, checkpoint, out)
    assert len(read_export(out).image_ids) == 6
    assert not (out / "unfinished").exists()
    assert not list(out.glob(".*"))


def test_foreign_and_changed_folders_are_refused(cfg, checkpoint_of, tmp_path):
    checkpoint, other = checkpoint_of(*SHIP), tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="neither empty nor an earlier export"):
        export_split(cfg, checkpoint, other)
    assert files(other) == {"thesis.txt": b"mine"}
    with pytest.raises(ValueError, match="is a file"):
        export_split(cfg, checkpoint, other / "thesis.txt")
    with pytest.raises(ValueError, match="no export"):
        read_export(other)
    with pytest.raises(FileNotFoundError, match="--export"):
        read_export(tmp_path / "absent")
    export_split(cfg, checkpoint, tmp_path / "out")
    path = tmp_path / "out" / "coco_instances_results.json"
    path.write_text(path.read_text()[:-40])
    with pytest.raises(ValueError, match=r"coco_instances_results\.json is missing or was changed"):
        read_export(tmp_path / "out")


def test_a_zip_file_of_others_stays(cfg, checkpoint_of, tmp_path):
    checkpoint, packed = checkpoint_of(*SHIP), tmp_path / "out.zip"
    packed.write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"out\.zip is there already"):
        export_split(cfg, checkpoint, tmp_path / "out", archive=True)
    for _ in range(2):
        export_split(cfg, checkpoint, tmp_path / "out")
    assert packed.read_bytes() == b"mine"


def test_what_cannot_be_exported(cfg, checkpoint_of, tmp_path):
    with pytest.raises(ValueError, match="'train' is not an evaluation split"):
        export_split(cfg, checkpoint_of(*SHIP), tmp_path / "out", split="train")
    cfg.model.num_classes = 3
    with pytest.raises(ValueError, match="num_classes"):
        export_split(cfg, tmp_path / "model_best.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_synthetic_images_are_called_so(config_of, checkpoint_of, tmp_path):
    export_split(config_of("toy", synthetic=True), checkpoint_of(*SHIP), tmp_path / "out", with_analysis=True)
    export = read_export(tmp_path / "out")
    assert export.synthetic
    assert read_metrics(tmp_path / "out" / "metrics.json")["data"] == "synthetic"
    for name in ("precision_recall", "confusion_matrix", "error_breakdown"):
        content = json.loads((tmp_path / "out" / "analysis" / f"{name}.json").read_text())
        assert content["data"] == "synthetic"
        assert "6 synthetic images" in content["title"]
