"""`loradet benchmark gpu`: sections that fail or take too long, the report, and all of it in small on the CPU."""

import dataclasses
import json
import os
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from loradet.adapters import freeze, lora
from loradet.benchmarks.gpu import report as reports
from loradet.benchmarks.gpu.runner import run_sections
from loradet.benchmarks.gpu.sections import SECTIONS, Bench, Section
from loradet.benchmarks.gpu.sizes import FULL, SMALL
from loradet.benchmarks.gpu.stock import _check_losses, with_peft_style
from loradet.cli import benchmark_gpu


def section(name, cap=30.0):
    return Section(name, f"helpers.gpu_sections:{name}", cap)


def run(*sections, seconds=60.0, device="cpu", seen=None):
    seen = [] if seen is None else seen
    changed = lambda report: seen.append(json.loads(json.dumps(report)))  # noqa: E731
    return run_sections(sections, Bench(SMALL, device), seconds=seconds, changed=changed)


def test_a_section_that_fails_says_so_and_the_others_go_on():
    seen = []
    report = run(section("good"), section("fails"), section("dies"), section("good"), seen=seen)
    assert [part["status"] for part in report] == ["done", "failed", "failed", "done"]
    assert report[1]["rows"] == report[2]["rows"] == [{"case": "before", "seconds": 1.0}]
    assert report[1]["error"] == "RuntimeError: CUDA error: an illegal memory access"
    assert report[2]["error"] == "its process ended with status 7"
    pids = [part["rows"][1]["pid"] for part in report if part["status"] == "done"]
    assert len({*pids, os.getpid()}) == 3, "a failure may have left the device unusable for its process"
    assert [len(part["rows"]) for part in seen[0]] == [1], "what is known is told at once"
    assert seen[-1] == report


def test_a_section_that_takes_too_long_is_cut_with_all_that_it_started(tmp_path):
    told = tmp_path / "told"
    begin = time.monotonic()
    report = run(section("hangs", cap=3.0), section("good"), device=str(told))
    assert time.monotonic() - begin < 20
    assert [part["status"] for part in report] == ["cut", "done"]
    assert report[0]["error"] == "cut after 3 s" and report[0]["rows"] == [{"case": "before", "seconds": 1.0}]
    child, folder = told.read_text().splitlines()
    assert not Path(folder).exists()
    status = Path(f"/proc/{child}/stat")
    for _ in range(100):  # the system takes a moment
        if not status.exists() or status.read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    raise AssertionError("the process of a section that was cut goes on")


def test_what_has_no_time_left_is_not_run(tmp_path):
    report = run(section("hangs"), section("good"), seconds=2.0, device=str(tmp_path / "told"))
    assert [part["status"] for part in report] == ["cut", "not run"]
    assert report[1]["error"] == "the 2 s of all sections are over"


def test_an_unknown_device_is_the_error_of_every_section(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="nothing was measured"):
        benchmark_gpu.main(["--small", "--device", "abacus", "--sections", "machine"])
    assert "train.device=abacus is no device" in capsys.readouterr().out
    assert json.loads((tmp_path / "benchmark_gpu.json").read_text())["sections"][0]["status"] == "failed"


REPORT = [
    {"section": "rates", "status": "done", "rows": [{"case": "matmul bf16", "TFLOP/s": 800.0, "side": 8192}]},
    {
        "section": "training",
        "status": "cut",
        "error": "cut after 130 s",
        "rows": [{"case": "E0002 lean", "images/s": 12345.6, "TFLOP/s": 200.0, "pairs": 3, "note": "a note"}],
    },
]


def test_the_share_of_the_matmul_rate_is_worked_out_and_a_cut_is_in_the_table():
    lines = reports.table(REPORT).splitlines()
    assert lines[2].split()[-4:] == ["800", "1", "side", "8192"]
    assert lines[3].split() == ["training", "E0002", "lean", "12346", "200", "0.25", "pairs", "3;", "a", "note"]
    assert lines[4].split() == ["training", "cut", "cut", "after", "130", "s"]
    without = [{**REPORT[1], "rows": [{"case": "E0003", "TFLOP/s": None}]}]
    assert reports.with_limit([REPORT[0], *without])[1] == without[0]


def test_lora_as_peft_writes_it_computes_the_same():
    torch.manual_seed(0)
    net = lora(freeze(nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 4))), ["0", "2"], 2, 4.0)
    for index in (0, 2):
        nn.init.normal_(net[index].lora_b)
    x = torch.randn(3, 6)
    expected = net(x)
    assert torch.allclose(with_peft_style(net)(x), expected, atol=1e-6)
    assert [name for name, p in net.named_parameters() if p.requires_grad] == [
        *("0.lora_A.weight", "0.lora_B.weight", "2.lora_A.weight", "2.lora_B.weight")
    ]


def test_stock_code_that_computes_something_else_is_not_timed():
    _check_losses({"loss_cls": 1.0}, {"loss_cls": 1.019})
    for other in (1.03, float("nan")):
        with pytest.raises(RuntimeError, match="loss_cls is 1 of ours and"):
            _check_losses({"loss_cls": 1.0}, {"loss_cls": other})


def test_the_caps_leave_the_last_section_time_of_eight_minutes():
    assert sum(section.cap for section in SECTIONS[:-1]) <= 400
    assert dataclasses.asdict(FULL).keys() == dataclasses.asdict(SMALL).keys()


def small(folder, *words, device="cpu"):
    file = folder / "figures.json"
    benchmark_gpu.main(["--small", "--device", device, "--json", str(file), *words])
    return {part["section"]: part for part in json.loads(file.read_text())["sections"]}


def test_rates_run_in_small(tmp_path, capsys):
    parts = small(tmp_path, "--sections", "rates")
    assert list(parts) == ["rates"]
    shown = capsys.readouterr().out
    assert all(row["case"] in shown for row in parts["rates"]["rows"])
    assert [row["case"] for row in parts["rates"]["rows"]] == ["matmul bf16", "matmul float32", "copy"]


def check_training(rows):
    assert [row["case"] for row in rows] == ["E0002 plain", "E0002 lean", "E0002 least", "E0003", "E0019"]
    plain, lean, least, probe, full = rows
    for row in rows:
        check_step(row)
    work = [row["TFLOP/s"] * row["seconds"] for row in (probe, lean, full)]
    assert work == sorted(work), "a probe computes less than LoRA, and that less than full fine-tuning"
    assert plain["TFLOP/s"] * plain["seconds"] >= lean["TFLOP/s"] * lean["seconds"]
    assert lean["seconds to plain"] == pytest.approx(lean["seconds"] / plain["seconds"])
    assert least["peak MiB to plain"] == pytest.approx(least["peak MiB"] / plain["peak MiB"])
    assert least["TFLOP/s"] * least["seconds"] > lean["TFLOP/s"] * lean["seconds"]


def check_step(row):
    assert row["images/s"] == pytest.approx(row["images"] / row["seconds"])
    assert row["TFLOP/s"] > 0 and row["of limit"] > 0 and row["ratio"] > 0 and row["pairs"] >= 2
    assert row["backbone"] > 0 and row["peak MiB"] > 100


@pytest.mark.slow
def test_all_of_it_runs_in_small(tmp_path):
    names = [section.name for section in SECTIONS if section.name != "compile"]
    parts = small(tmp_path, "--sections", *reversed(names))
    assert list(parts) == names
    assert {name: part.get("error") for name, part in parts.items()} == dict.fromkeys(names)
    check_training(parts["training"]["rows"])
    for row in parts["detr"]["rows"]:
        check_step(row)
    assert parts["stock"]["rows"][1]["ratio"] > 0
    assert parts["scan"]["rows"][-1] == {"case": "mamba_ssm", "note": "runs on CUDA alone"}
    assert 0 <= parts["loader"]["rows"][1]["share of waiting"] <= 1
    assert parts["inference"]["rows"][1]["to"] == "unmerged, times as fast"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_all_of_it_runs_on_cuda(tmp_path):
    parts = small(tmp_path, device="cuda")
    assert {name: part.get("error") for name, part in parts.items()} == dict.fromkeys(parts)
    assert [row["case"] for row in parts["rates"]["rows"]][3:] == ["copy to the device", "copy from the device"]
    assert all(row["peak MiB"] > 1 for row in parts["training"]["rows"])


@pytest.mark.slow
def test_compile_runs_in_small(tmp_path):
    """Minutes: the C++ compiler makes a backbone."""
    part = small(tmp_path, "--sections", "compile", "--minutes", "30")["compile"]
    assert part["status"] in ("done", "cut"), part.get("error")
    if part["status"] == "done":
        assert part["rows"][1]["ratio"] > 0
