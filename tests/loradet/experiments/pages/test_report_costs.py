"""The report's calibration, speed, reported costs and intervals, in its tables and in results.json."""

import csv
import json
import random
import re
from dataclasses import replace

import pytest
from helpers.report_runs import entry, finished, reported, study
from test_report import markdown_rows

from loradet.evaluation.calibration.detections_files import bootstrap_files
from loradet.evaluation.calibration.report import CalibrationSettings, calibration_report, fit_on_halves
from loradet.evaluation.calibration.split_calibration import calibration_metrics
from loradet.evaluation.coco_metrics import coco_metrics, write_metrics
from loradet.evaluation.detections.records import read_records
from loradet.experiments.pages.report import write_report
from loradet.experiments.results.intervals import bootstrap_runs
from loradet.experiments.results.results_file import result_to_dict
from loradet.experiments.running.ledger import ledger_fields
from loradet.experiments.study.definition import Reported

COSTS = {
    "parameters/total_millions": 33.7,
    "parameters/trainable_millions": 0.247,
    "cost/peak_memory_gb": 0.4,
    "cost/train_seconds": 33.0,
}
LORA = entry(
    "lora",
    seeds=(0, 1),
    note="33.7 M is the stand-in model of the study.",
    reported=(Reported(split="val", metrics={**COSTS, "calibration/ece": 0.25}), *reported("smoke", 0.001)),
)
FULL = entry("full", baselines=("lora",))
PLAIN = entry("plain")
STUDY = study(LORA, FULL, PLAIN)


def random_set(seed):
    """Ground truth of 12 images, and detections of which about half are where a box is."""
    draw = random.Random(seed)
    boxes = [[4 * draw.randrange(1, 10), 4 * draw.randrange(1, 10), 16, 20] for _ in range(36)]
    images = [{"id": number, "width": 64, "height": 64, "file_name": f"{number}.png"} for number in range(12)]
    truth = [
        {"id": n + 1, "image_id": n % 12, "category_id": 1, "bbox": box, "area": 320, "iscrowd": 0}
        for n, box in enumerate(boxes)
    ]
    found = [
        {"image_id": n % 12, "category_id": 1, "bbox": [x + draw.choice((0, 3, 9)), y, w, h], "score": draw.random()}
        for n, (x, y, w, h) in enumerate(2 * boxes)
    ]
    return {"images": images, "categories": [{"id": 1, "name": "ship"}], "annotations": truth}, found


def calibrated(run, seed):
    """The run with detections, calibration and speed, as an evaluation leaves them."""
    folder = run.folder / "predictions" / "val"
    folder.mkdir(parents=True)
    truth, predictions = folder / "truth.json", folder / "coco_instances_results.json"
    for path, content in zip((truth, predictions), random_set(seed)):
        path.write_text(json.dumps(content))
    records, settings = read_records(truth, predictions), CalibrationSettings(bins=5)
    report = calibration_report(records, settings, temperature=fit_on_halves(records, settings), title="val")
    report.write(folder)
    metrics = {**coco_metrics(truth, predictions), **calibration_metrics(report)}
    more = {"split": "val", "annotations": str(truth), "temperature_fitted_on": "halves of val"}
    write_metrics(run.folder / "val_metrics.json", metrics, **more)
    speed = {"images/s": 20.0 + seed, "peak_memory_mb": 512.5, "batch": 1, "device": "NVIDIA H200"}
    speed |= {"data_share": 0.125, "forward_share": 0.75, "postprocessing_share": 0.125}
    speed |= {"smallest_image": [480, 640], "largest_image": [640, 640]}
    return replace(run, metrics={"val": metrics}, record={**run.record, "train_seconds": 50.0, "efficiency": speed})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    with_all = [calibrated(finished(root, LORA, seed), 5 + seed) for seed in (0, 1)]
    return [*with_all, calibrated(finished(root, FULL), 7), finished(root, PLAIN)]


@pytest.fixture(scope="module")
def output(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_report(STUDY, runs, folder, intervals=bootstrap_runs(runs[:3], 30))
    return folder


def test_calibration_before_and_after(output, runs):
    rows = {row["id"]: row for row in markdown_rows(output, "Calibration on val") if "ECE" in row}
    assert list(rows) == ["lora", "full"]
    first, second = (run.metrics["val"] for run in runs[:2])
    for name, label in (
        ("ece", "ECE"),
        ("nll_scaled", "NLL scaled"),
        ("d_ece", "D-ECE"),
        ("temperature", "temperature"),
    ):
        mean = (first[f"calibration/{name}"] + second[f"calibration/{name}"]) / 2
        assert rows["lora"][label].startswith(f"{mean:.4f} ± ")
    assert (rows["lora"]["ECE reported"], rows["full"]["ECE reported"]) == ("0.2500 (1)", "–")
    assert rows["full"]["fitted on"] == "halves of val"
    assert (output / "plots" / "reliability_val.png").stat().st_size > 10_000


def test_calibration_over_thresholds(output, runs):
    rows = [row for row in markdown_rows(output, "Calibration on val") if "score from" in row]
    assert [(row["id"], row["score from"]) for row in rows] == [
        (name, score) for name in ("lora", "full") for score in ("0", "0.05", "0.1", "0.3", "0.5")
    ]
    stored = json.loads((runs[2].folder / "predictions/val/calibration.json").read_text())["table"]
    line = next(one for one in stored if (one["score_threshold"], one["match_iou"]) == (0.3, 0.75))
    assert rows[8]["ECE, IoU 0.75"] == f"{line['ece']:.4f}"
    assert rows[8]["NLL, IoU 0.75"] == f"{line['nll']:.4f}"
    assert rows[8]["detections"].isdigit()


def test_other_tables_have_no_calibration_and_no_costs(output):
    names = {name for row in markdown_rows(output, "Results on val") for name in row}
    assert not any("calibration" in name or "parameters" in name or "cost" in name for name in names)


def test_reported_costs_stand_beside_ours(output):
    rows = markdown_rows(output, "Parameters, speed and memory")
    lora = next(row for row in rows if row["id"] == "lora" and "total (M)" in row)
    assert lora["total (M) reported"] == "33.7"
    assert (lora["trainable all (M)"], lora["trainable all (M) reported"]) == ("9.944", "0.247")
    assert (lora["peak memory (MiB)"], lora["peak memory (GB) reported"]) == ("2048", "0.4")
    assert (lora["training time (s)"], lora["training time (s) reported"]) == ("50", "33")
    assert "training images/s reported" not in lora
    text = (output / "report.md").read_text()
    assert "lora: 33.7 M is the stand-in model of the study." in text
    assert text.index("trainable all (M)") < text.index("lora: 33.7 M")
    assert "lora: 33.7 M is the stand-in model" in (output / "report.html").read_text()


def test_speed_of_inference(output):
    rows = {row["id"]: row for row in markdown_rows(output, "Parameters, speed and memory") if "batch" in row}
    assert list(rows) == ["lora", "full"]
    assert rows["lora"]["inference images/s"] == "25.5 ± 0.7 (2)"
    assert (rows["full"]["data (%)"], rows["full"]["forward (%)"]) == ("12.5", "75.0")
    assert (rows["full"]["inference memory (MiB)"], rows["full"]["batch"]) == ("512", "1")
    assert rows["full"]["image size (pixels)"] == "480x640 to 640x640"
    assert (output / "plots" / "ap_speed_val.png").is_file()
    with (output / "report.tsv").open(encoding="utf-8", newline="") as file:
        table = {row["id"]: row for row in csv.DictReader(file, delimiter="\t") if row["split"] == "val"}
    assert float(table["lora"]["inference_images_per_s:mean"]) == 25.5
    assert float(table["lora"]["parameters/total_millions:reported"]) == 33.7
    assert table["plain"]["inference_images_per_s:mean"] == ""


def test_intervals_are_those_of_the_calibration_tool(output, runs, tmp_path):
    rows = markdown_rows(output, "Intervals over the images")
    assert [(row["id"], row["seed"]) for row in rows] == [("lora", "0"), ("lora", "1"), ("full", "0"), ("plain", "0")]
    folder = runs[2].folder / "predictions" / "val"
    files = (folder / "coco_instances_results.json", folder / "truth.json", tmp_path)
    expected = bootstrap_files(*files, resamples=30)["metrics"]["mAP_50"]
    found = json.loads((output / "results.json").read_text())["runs"][2]["intervals"]["val"]["mAP_50"]
    assert found == expected.to_dict()
    assert rows[2]["AP50"] == f"{expected.value:.3f}"
    assert rows[2]["AP50 95 % interval"] == f"{expected.low:.3f} to {expected.high:.3f}"
    assert rows[3]["AP"] == "–"


def test_results_json_has_every_number(output, runs):
    content = json.loads((output / "results.json").read_text())
    assert (content["study"], content["source"]) == (STUDY.name, STUDY.source)
    assert [run["id"] for run in content["runs"]] == ["lora", "lora", "full", "plain"]
    lora, full, _ = content["entries"]
    assert lora["note"] == LORA.note
    assert lora["reported"][0] == {"split": "val", "seed": None, "metrics": dict(LORA.reported[0].metrics)}
    mean = sum(run.metrics["val"]["coco/bbox_mAP"] for run in runs[:2]) / 2
    assert lora["splits"]["val"]["metrics"]["coco/bbox_mAP"]["mean"] == pytest.approx(mean)
    assert full["splits"]["val"]["runs"] == "1 of 1"
    assert content["differences"][0]["ours"]["mean"] == pytest.approx(
        runs[2].metrics["val"]["coco/bbox_mAP"] - runs[0].metrics["val"]["coco/bbox_mAP"]
    )
    run = content["runs"][2]
    del run["intervals"]
    assert run == result_to_dict(runs[2])
    assert run["record"]["efficiency"]["images/s"] == 27
    assert run["calibration"]["val"]["fitted_on"] == "halves of val"
    assert run["calibration"]["val"]["after"]["ece"] == run["metrics"]["val"]["calibration/ece_scaled"]


def test_runs_whose_files_have_changed_have_no_intervals(tmp_path, caplog):
    run = finished(tmp_path, FULL, seed=3)
    assert bootstrap_runs([run], 5) == {(run.folder, "val"): None}
    assert "Evaluate it again" in caplog.text
    run = calibrated(run, 7)
    run.metrics["val"]["coco/bbox_mAP"] += 0.1
    with pytest.raises(ValueError, match=r"full: .*changed since"):
        bootstrap_runs([run], 5)


def test_a_cut_calibration_file_is_named(tmp_path):
    run = calibrated(finished(tmp_path, FULL), 7)
    path = run.folder / "predictions" / "val" / "calibration.json"
    path.write_text(path.read_text()[:100])
    write_report(STUDY, [run], tmp_path / "report")
    assert re.search(r"\| broken .*full: .*calibration\.json is cut", (tmp_path / "report" / "report.md").read_text())


def test_the_ledger_has_the_note():
    assert dict(ledger_fields(STUDY, LORA, [], num_gpus=1, root="runs"))["Note"] == LORA.note
    assert "Note" not in dict(ledger_fields(STUDY, FULL, [], num_gpus=1, root="runs"))


def test_an_unknown_cost_is_refused():
    with pytest.raises(ValueError, match=r"entry x: reported cost/memory; expected .*cost/peak_memory_gb"):
        study(entry("x", reported=(Reported(split="val", metrics={"cost/memory": 1.0}),)))
