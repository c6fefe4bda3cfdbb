"""The model zoo page."""

import hashlib
import os

import pytest
import yaml
from helpers.report_runs import CONFIG, absent, entry, finished, study

from loradet.experiments.pages.model_zoo import licences, model_zoo

LORA = entry(
    "E1",
    config=os.path.relpath(CONFIG),
    title="LoRA_4",
    seeds=(0, 1),
    splits=("val", "test"),
    weights="convnext_small.dinov3",
)
LATER, SHORT = entry("E2"), entry("E3", smoke_only=True)
PICTURES = entry("E4", kind="pictures", sources=("E1",))
STUDY = study(LORA, LATER, SHORT, PICTURES)


def set_model(run, **call):
    path = run.folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["model"] = {"backbone": {"_target_": "loradet.backbones.TimmBackbone", **call}}
    path.write_text(yaml.safe_dump(config))


def test_page_of_what_is_trained(tmp_path):
    runs = [finished(tmp_path, LORA, seed, ap) for seed, ap in ((0, 0.5), (1, 0.6))]
    for run in runs:
        set_model(run, model_name="convnext_small.dinov3_lvd1689m", pretrained=True)
    smoke = finished(tmp_path, LATER, mode="smoke", synthetic=True)
    page = model_zoo(STUDY, [*runs, absent(tmp_path, LATER), smoke])
    (first,) = (line for line in page.splitlines() if line.startswith("| [E1]"))
    second, _ = (line for line in page.splitlines() if line.startswith("| E1 "))
    assert f"[E1](../{LORA.config}) LoRA\\_4" in first
    for cell in ("dinov3-license", "9.944", "0.550 ± 0.071 (2)", "0.520 ± 0.071 (2)"):
        assert f"| {cell}" in first
    digest = hashlib.sha256((runs[0].folder / "adapter.safetensors").read_bytes()).hexdigest()
    for cell in ("1.00", digest[:12], "NVIDIA H200", "2023-11-14"):
        assert f"| {cell}" in second
    assert page.rstrip().endswith("Not trained yet: E2.")


def test_nothing_trained(tmp_path):
    page = model_zoo(STUDY, [absent(tmp_path, LORA, 0), absent(tmp_path, LATER)])
    assert page == "# Record of runs: A trial\n\nNot trained yet: E1, E2.\n"
    assert "E1" not in model_zoo(STUDY, [absent(tmp_path, LATER)])  # not asked for


def test_runs_of_different_data_make_no_page(tmp_path):
    with pytest.raises(ValueError, match=r"E1 .* and E2 .* do not stand on the same train data"):
        model_zoo(STUDY, [finished(tmp_path, LORA), finished(tmp_path, LATER, fingerprint="other")])


@pytest.mark.parametrize(
    ("call", "licence"),
    [
        ({"model_name": "resnet50.tv_in1k", "pretrained": True}, "bsd-3-clause"),
        ({"model_name": "convnext_atto", "weights": "asset://a.safetensors"}, "Apache-2.0 (ships with loradet)"),
        ({"model_name": "convnext_atto", "weights": "/some/where/mine.pth"}, "that of mine.pth"),
        ({"model_name": "convnext_atto", "pretrained": False}, "none (random weights)"),
    ],
)
def test_licence_of_the_weights(call, licence):
    assert licences({"model": {"parts": [{"_target_": "loradet.backbones.TimmBackbone", **call}]}}) == licence


def test_licence_of_a_whole_start_and_of_an_unknown_one():
    assert licences({"train": {"init_checkpoint": "/a/detr.pth"}}) == "that of detr.pth"
    assert licences({}) == "unknown"
