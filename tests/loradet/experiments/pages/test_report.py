"""The report's tables and plots: TSV, Markdown, PNG."""

import csv
import re
import resource
from dataclasses import replace

import cv2
import pytest
from helpers.report_runs import absent, entry, finished, log_lines, reported, study
from helpers.train_tool import snapshot

from loradet.experiments.pages.report import write_report
from loradet.files import WriteError

PROBE = entry(
    "E1", seeds=(0, 1, 2), splits=("val", "test"), method="linear probe", checks={"trainable": {"all": 9.403}}
)
LORA = entry(
    "E2",
    title="LoRA | rank 4, costs $5 <b>",
    seeds=(0, 1, 2),
    splits=("val", "test"),
    method="LoRA",
    targets="fc1",
    rank=4,
    baselines=("E1",),
    reported=(*reported("val", 0.539, 0.491, 0.539), *reported("test", 0.513), *reported("smoke", 0.001)),
)
LATE = entry("E3", method="LoRA", targets="fc1", rank=8, baselines=("E1",), reported=reported("val", 0.61))
PICTURES = entry("E4", kind="pictures", sources=("E2",))
STUDY = study(PROBE, LORA, LATE, PICTURES)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [
        *(finished(root, PROBE, seed, ap, trainable=9_403_000) for seed, ap in enumerate((0.413, 0.419, 0.425))),
        *(finished(root, LORA, seed, ap) for seed, ap in ((0, 0.539), (1, 0.491))),
        absent(root, LORA, 2, state="failed", detail="CUDA out of memory"),
        absent(root, LATE, 0),
        absent(root, PICTURES, 0),
    ]


@pytest.fixture(scope="module")
def report(runs, tmp_path_factory):
    output = tmp_path_factory.mktemp("report") / "new" / "folder"
    return output, write_report(STUDY, runs, output)


def read_tsv(output):
    with (output / "report.tsv").open(encoding="utf-8", newline="") as file:
        return {(row["id"], row["split"]): row for row in csv.DictReader(file, delimiter="\t")}


def markdown_rows(output, section):
    """Cells of the table rows of a section, by column name."""
    text = (output / "report.md").read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = []
    for block in text.strip().split("\n\n"):
        if block.startswith("|"):
            head, _, *lines = ([c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block.splitlines())
            rows += [dict(zip(head, line, strict=True)) for line in lines]
    return rows


def test_what_is_written_is_what_is_returned(report):
    output, paths = report
    assert sorted(paths) == sorted(path for path in output.rglob("*") if path.is_file())
    assert {path.name for path in paths} == {
        *("report.tsv", "results.json", "report.md", "report.html", "curves_loss.png", "curves_ap.png"),
        *(f"ap_{name}_val.png" for name in ("parameters", "memory", "rank", "classes")),
        *(f"ap_{name}_test.png" for name in ("parameters", "memory", "classes")),  # of one rank there is nothing to see
    }


def test_tsv_has_a_row_for_each_experiment_and_split_with_full_precision(report):
    table = read_tsv(report[0])
    assert list(table) == [("E1", "val"), ("E1", "test"), ("E2", "val"), ("E2", "test"), ("E3", "val")]
    probe, lora, late = (table[name, "val"] for name in ("E1", "E2", "E3"))
    assert float(probe["coco/bbox_mAP:mean"]) == pytest.approx(0.419, abs=1e-15)
    assert float(probe["coco/bbox_mAP:std"]) == pytest.approx(0.006, abs=1e-15)
    assert float(table["E1", "test"]["coco/bbox_mAP:mean"]) == pytest.approx(0.389, abs=1e-15)
    assert float(probe["coco/bbox_mAP/harbor:mean"]) == pytest.approx(1.4 * 0.419)
    assert (probe["coco/bbox_mAP:n"], probe["coco/bbox_mAP:reported"]) == ("3", "")
    assert (probe["trainable_backbone"], probe["trainable_all"], probe["total_all"]) == ("0", "9403000", "10403000")
    assert float(probe["images_per_s:mean"]) == 41
    assert lora["title"] == LORA.title
    assert float(lora["coco/bbox_mAP:reported"]) == pytest.approx(0.523)
    assert float(lora["coco/bbox_mAP:reported_std"]) == pytest.approx(0.0277128, abs=1e-7)
    assert (lora["runs_measured"], lora["runs_expected"], lora["runs"]) == ("2", "3", "2 of 3; seed 2 failed")
    assert (late["coco/bbox_mAP:mean"], late["coco/bbox_mAP:n"], late["runs"]) == ("", "0", "0 of 1; seed 0 missing")
    assert late["coco/bbox_mAP:reported"] == "0.61"


def test_markdown_shows_ours_and_reported_in_columns_of_their_own(report):
    rows = {row["id"]: row for row in markdown_rows(report[0], "Results on val") if "AP" in row}
    assert rows["E1"]["AP"] == "0.419 ± 0.006 (3)"  # plain: E2 is better
    assert rows["E1"]["AP reported"] == "–"
    assert rows["E2"]["AP"] == "**0.515 ± 0.034 (2)**"
    assert rows["E2"]["AP reported"] == "0.523 ± 0.028 (3)"
    assert (rows["E3"]["AP"], rows["E3"]["AP reported"]) == ("missing", "0.610 (1)")
    assert rows["E2"]["experiment"] == r"LoRA \| rank 4, costs $5 \<b>"
    assert (report[0] / "report.md").read_text().count("a paper, table 2") == 1


def test_every_metric_is_in_the_markdown(report):
    columns = {name for row in markdown_rows(report[0], "Results on test") for name in row}
    assert {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR@100", "ship", "harbor", "AR@100/ship"} <= columns
    # The recall of each class has a table of its own.
    assert not any({"AR@100", "AR@100/ship"} <= row.keys() for row in markdown_rows(report[0], "Results on test"))


def test_runs_without_numbers_are_listed_with_their_state(report):
    rows = markdown_rows(report[0], "Runs")
    assert len(rows) == 8
    assert (rows[5]["state"], rows[5]["detail"], rows[5]["folder"]) == (
        *("failed", "CUDA out of memory"),
        r"E2\_full\_seed2",
    )
    assert [row["id"] for row in rows if row["state"] == "missing"] == ["E3", "E4"]


def test_costs_are_in_the_markdown(report):
    rows = {row["id"]: row for row in markdown_rows(report[0], "Parameters, speed and memory")}
    assert list(rows) == ["E1", "E2"]
    assert rows["E2"]["trainable backbone (M)"] == "0.541"
    assert rows["E2"]["training images/s"] == "40.5 ± 0.7 (2)"
    assert (rows["E2"]["peak memory (MiB)"], rows["E2"]["wall time (min)"]) == ("2048", "10.0")
    assert rows["E2"]["device"] == "NVIDIA H200"


def test_differences_from_the_baseline_by_shared_seeds(report):
    rows = {(row["id"], row["split"]): row for row in markdown_rows(report[0], "Differences from the baselines")}
    assert list(rows) == [("E2", "val"), ("E2", "test")]
    row = rows["E2", "val"]
    # Differences 0.126 and 0.072; half width 12.706 · 0.0382 / √2
    assert (row["AP difference"], row["seeds"]) == ("+0.099", "0, 1")
    assert row["95 % interval"] == "-0.244 to +0.442"
    text = (report[0] / "report.md").read_text()
    # t of one degree of freedom is 12.706.
    assert "9.0 with n = 2." in text
    assert "Two seeds are few" in text
    assert "Three seeds" not in text


def test_plots_are_pictures_with_something_on_them(report):
    for path in (report[0] / "plots").iterdir():
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        assert min(image.shape) > 300, path.name
        assert 0.003 < (image < 250).mean() < 0.9, path.name
        assert f"plots/{path.name}" in (report[0] / "report.md").read_text()


def test_the_same_runs_give_the_same_files(report, runs, tmp_path):
    for path in write_report(STUDY, runs, tmp_path):
        assert path.read_bytes() == (report[0] / path.relative_to(tmp_path)).read_bytes(), path.name


def test_without_a_finished_run_there_are_the_missing_and_the_reported(runs, tmp_path):
    missing = [absent(tmp_path, run.entry, run.seed) for run in runs]
    paths = write_report(STUDY, missing, tmp_path / "report", title="Nothing yet")
    assert [path.name for path in paths] == ["report.tsv", "results.json", "report.md", "report.html"]
    rows = {row["id"]: row for row in markdown_rows(tmp_path / "report", "Results on val")}
    assert (rows["E2"]["AP"], rows["E2"]["AP reported"]) == ("missing", "0.523 ± 0.028 (3)")
    assert rows["E2"]["runs"] == "0 of 3; seeds 0, 1, 2 missing"
    assert len(markdown_rows(tmp_path / "report", "Runs")) == len(runs)
    assert (tmp_path / "report" / "report.md").read_text().startswith("# Nothing yet\n")


def test_synthetic_rows_say_so_and_smoke_is_a_split_of_its_own(tmp_path):
    smoke = finished(tmp_path, LORA, 0, 0.02, mode="smoke", synthetic=True)
    write_report(STUDY, [smoke, absent(tmp_path, LATE, mode="smoke")], tmp_path / "report")
    table = read_tsv(tmp_path / "report")
    assert list(table) == [("E2", "smoke"), ("E3", "smoke")]
    assert [row["data"] for row in table.values()] == ["synthetic", ""]
    assert table["E2", "smoke"]["coco/bbox_mAP:reported"] == "0.001"
    rows = markdown_rows(tmp_path / "report", "Results on smoke")
    assert {row["data"] for row in rows if row["id"] == "E2"} == {"synthetic"}
    text = (tmp_path / "report" / "report.md").read_text()
    assert "AP of each class on smoke, synthetic images" in text
    assert "Training loss (synthetic images) over training" in text
    assert markdown_rows(tmp_path / "report", "Runs")[0]["data"] == "synthetic"


def test_an_entry_that_is_a_smoke_run_only_stands_apart_and_counts_once(tmp_path):
    short = entry("E9", smoke_only=True, reported=reported("smoke", 0.003))
    runs = [
        finished(tmp_path, PROBE),
        *(finished(tmp_path, short, fingerprint="few", mode=m) for m in ("full", "smoke")),
    ]
    runs[1] = replace(runs[1], metrics=runs[2].metrics)
    write_report(study(PROBE, short), runs, tmp_path / "report")
    table = read_tsv(tmp_path / "report")
    assert list(table) == [("E1", "val"), ("E1", "test"), ("E9", "smoke")]
    assert table["E9", "smoke"]["runs"] == "1 of 1"
    assert table["E9", "smoke"]["coco/bbox_mAP:reported"] == "0.003"


@pytest.mark.slow
def test_many_experiments_and_several_devices(tmp_path):
    entries = [entry(f"E{n:04d}", method=f"method {n % 5}", rank=2 ** (n % 4), targets="fc1") for n in range(9)]
    runs = [
        finished(tmp_path, one, 0, 0.4 + n / 200, trainable=9_500_000 + n // 3 * 10**6) for n, one in enumerate(entries)
    ]
    runs[3] = replace(runs[3], record={**runs[3].record, "device": "CPU, 2 threads"})
    write_report(study(*entries), runs, tmp_path / "report")
    assert {row["device"] for row in read_tsv(tmp_path / "report").values()} == {"NVIDIA H200", "CPU, 2 threads"}
    curves = cv2.imread(str(tmp_path / "report" / "plots" / "curves_loss.png"))
    assert curves.shape[:2] > (700, 1400)  # an axes for each


def test_a_finished_run_without_a_splits_metrics_says_so(tmp_path):
    run = finished(tmp_path, PROBE, 0)
    run = replace(run, metrics={"val": run.metrics["val"]})
    write_report(STUDY, [run], tmp_path / "report")
    assert read_tsv(tmp_path / "report")["E1", "test"]["runs"] == "0 of 1; seed 0 finished without test metrics"


def test_a_run_whose_log_is_gone_has_no_curve(tmp_path):
    first, second = finished(tmp_path, PROBE, 0), finished(tmp_path, LATE, 0)
    (first.folder / "metrics.json").unlink()
    (second.folder / "metrics.json").write_text("".join(line for line in log_lines(0.5, 0) if "bbox" not in line))
    write_report(STUDY, [first, second], tmp_path / "report")
    states = {row["id"]: (row["state"], row["detail"]) for row in markdown_rows(tmp_path / "report", "Runs")}
    assert states["E1"][0] == "finished"
    assert states["E3"][0] == "broken"
    assert "is cut: it ends at iteration 54, the finished run at" in states["E3"][1]
    second = replace(second, record={**second.record, "iteration": 54})
    names = [path.name for path in write_report(STUDY, [first, second], tmp_path / "report")]
    assert "curves_loss.png" in names
    assert "curves_ap.png" not in names


@pytest.mark.parametrize(
    ("title", "cell"),
    [
        *(("=1+1", "'=1+1"), ("+A1", "'+A1"), ("-A1", "'-A1"), ("@SUM(A1)", "'@SUM(A1)"), (" =1+1", "' =1+1")),
        *(("-0.5", "-0.5"), ("+1e-3", "+1e-3"), ("rank = 4", "rank = 4"), ("a-b", "a-b")),
    ],
)
def test_no_text_of_the_tsv_is_a_formula(title, cell, tmp_path):
    one = study(entry("E1", title=title))
    write_report(one, [absent(tmp_path, one.entries[0])], tmp_path / "report")
    (row,) = read_tsv(tmp_path / "report").values()
    assert row["title"] == cell


def test_a_full_disk_leaves_the_former_report(runs, tmp_path):
    write_report(STUDY, runs, tmp_path)
    before = snapshot(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(WriteError, match=rf"^{re.escape(str(tmp_path))}/\S+ cannot be written: File too large\."):
            write_report(STUDY, runs, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert snapshot(tmp_path) == before
