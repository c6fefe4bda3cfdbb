"""The benchmark of reading annotations: figures of both sides, and none of dicts that are wrong."""

import json

import pytest

from loradet.benchmarks import annotations
from loradet.cli import benchmark


def test_figures_of_both_sides(tmp_path, monkeypatch, capsys):
    # Each process takes seconds to start; the test below has one.
    monkeypatch.setattr(annotations, "_in_a_process", lambda run, *given: run(*given))
    words = ["--images", "30", "--boxes", "200", "--pairs", "1"]
    benchmark.main(["annotations", *words, "--json", str(tmp_path / "figures.json")])
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["our_cpu_s"] > 0 and figures["json_load_cpu_s"] > 0
    assert figures["median_ratio"] == pytest.approx(figures["our_cpu_s"] / figures["json_load_cpu_s"])
    assert figures["our_peak_mb"] >= 0 and figures["worker_mb"] > 0 and figures["list_worker_mb"] > 0
    assert (figures["boxes"], figures["pairs"], figures["enough_pairs"]) == (200, 1, False)
    assert "worker_mb" in capsys.readouterr().out


def test_a_measurement_has_a_process_of_its_own(tmp_path):
    annotations.write_annotations(tmp_path / "annotations.json", 2000, 20_000)
    (tmp_path / "00000001.jpg").touch()
    figures = annotations._in_a_process(annotations._read, tmp_path, "json.load")
    assert figures["side"] == "json.load" and 0 < figures["s"] < 60
    assert 5 < figures["mb"] < 100


@pytest.mark.parametrize(("key", "value"), [("width", 1), ("annotations", [])])
def test_dicts_that_differ_end_it(key, value, tmp_path, monkeypatch):
    annotations.write_annotations(tmp_path / "annotations.json", 5, 20)
    (tmp_path / "00000001.jpg").touch()
    annotations._check(tmp_path)
    given = annotations.coco_dataset
    monkeypatch.setattr(
        annotations, "coco_dataset", lambda *words: [{**record, key: value} for record in given(*words)]
    )
    with pytest.raises(RuntimeError, match=r"not what the file says\. No time"):
        annotations._check(tmp_path)


def test_options_that_make_no_sense(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["annotations", "--pairs", "0"])
    assert "at least 1" in capsys.readouterr().err
