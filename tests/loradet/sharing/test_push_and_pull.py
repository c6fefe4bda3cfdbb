"""Adapters to the Hub and back, by the command; the Hub is a server of the test."""

import io
import json
import shutil
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import yaml
from helpers.hub_server import REPO, hub_server, log_in
from helpers.paths import TEST_CONFIGS
from helpers.train_tool import arguments, call, succeed
from huggingface_hub import ModelCard
from PIL import Image

from loradet.adapters import read_adapter, save_adapter
from loradet.adapters.files.adapter_file import write_adapter
from loradet.cli import main
from loradet.datasets.synthetic import generate
from loradet.evaluation.calibration.detections_files import bootstrap_files
from loradet.evaluation.detections.numbering import recorded_annotations
from loradet.run_folder import RunFolder
from loradet.sharing import push_adapter

URL = f"hf://{REPO}"
OF_A_RUN = {"README.md", "adapter.safetensors", "calibration.png", "config.yaml"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    return generate(folder, size=(48, 64), counts={"train": 6, "val": 4, "test": 3})


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> Path:
    """A run, with intervals of its numbers on one split."""
    folder = tmp_path_factory.mktemp("runs") / "scenes"
    succeed(*arguments(data, folder, "train.max_iter=4", "train.eval_splits=[val,test]"))
    predictions = RunFolder(folder).predictions("test")
    bootstrap_files(predictions, recorded_annotations(predictions), folder / "calibration", resamples=20)
    return folder


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with hub_server() as server:
        log_in(server, monkeypatch, tmp_path / "hub_cache")
        yield server


@pytest.fixture(scope="module")
def sent(finished, tmp_path_factory) -> dict[str, bytes]:
    """What a push of the run sends."""
    with hub_server() as server, pytest.MonkeyPatch.context() as patch:
        log_in(server, patch, tmp_path_factory.mktemp("hub_cache"))
        push_adapter(finished, URL)
        return dict(server.files)


@pytest.fixture
def full_hub(hub, sent):
    """A Hub on which the run is."""
    hub.repositories[REPO] = {}
    hub.files.update(sent)
    hub.commits.append({})
    return hub


@pytest.fixture
def adapters(capsys, monkeypatch, tmp_path):
    """`loradet adapters …` in an empty folder: exit status, what it printed, and its error."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    def run(*words: object) -> tuple[int, str, str]:
        status = 0
        try:
            main(["adapters", *map(str, words)])
        except SystemExit as stop:
            status = 1 if isinstance(stop.code, str) else stop.code
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)
        found = capsys.readouterr()
        return status, found.out, found.err

    return run


def test_a_run_goes_to_the_hub_and_back(hub, adapters, finished, data):
    status, out, error = adapters("push", finished, URL)
    assert (status, error) == (0, "")
    assert hub.files.keys() == OF_A_RUN
    assert len(hub.commits) == 1
    assert hub.repositories[REPO]["visibility"] == "private"
    assert f"loradet adapters pull {URL}" in out
    # A second time there is nothing to send.
    assert "Nothing to send" in adapters("push", finished, URL)[1]
    assert len(hub.commits) == 1

    status, out, error = adapters("pull", URL)
    assert (status, error) == (0, "")
    assert {path.name: path.read_bytes() for path in Path("detector").iterdir()} == hub.files
    info, tensors = read_adapter("detector/adapter.safetensors")
    trained = read_adapter(finished / "adapter.safetensors")[1]
    assert info["metadata"]["run"] == "scenes"
    assert all(np.array_equal(tensors[name], tensor) for name, tensor in trained.items())
    assert "--config-file detector/config.yaml --checkpoint detector/adapter.safetensors" in out

    # The config names nothing of this machine, and is the run's otherwise.
    shared, own = (yaml.safe_load(Path(f, "config.yaml").read_text()) for f in ("detector", finished))
    assert str(data) not in Path("detector/config.yaml").read_text()
    assert shared["model"] == own["model"]
    assert shared["data"]["root"] == "PATH"
    assert shared["train"]["output_dir"] == "scenes"


def test_the_card(sent, finished):
    text = sent["README.md"].decode()
    card = ModelCard(text)
    assert card.data.library_name == "loradet"
    assert card.data.pipeline_tag == "object-detection"
    assert "lora" in card.data.tags
    metrics = {name: json.loads((finished / f"{name}_metrics.json").read_text()) for name in ("val", "test")}
    found = {(one.dataset_split, one.metric_name): one.metric_value for one in card.data.eval_results}
    assert found["test", "AP50"] == round(metrics["test"]["coco/bbox_mAP_50"], 4)
    assert {split for split, _ in found} == {"val", "test"}
    interval = json.loads((finished / "calibration" / "bootstrap.json").read_text())["metrics"]["mAP"]
    shown = f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"
    row = next(line for line in text.splitlines() if line.startswith("| AP |"))
    assert row.endswith(f" {shown} |")
    assert f"| {metrics['val']['coco/bbox_mAP']:.3f} |" in row  # of which there are no intervals
    assert "val (4 images), synthetic" in text
    assert "95% intervals over images, by 20 resamples" in text
    parameters = json.loads((finished / "parameters.json").read_text())["all"]
    assert f"| all | {parameters['trainable'] / 1e6:.3f} | {parameters['total'] / 1e6:.3f} |" in text
    assert f"train.init_checkpoint={URL}/adapter.safetensors" in text
    assert "targets mlp.fc1, mlp.fc2 (8 layers), rank 2" in text
    assert "![Reliability diagram of test" in text
    with Image.open(io.BytesIO(sent["calibration.png"])) as picture:
        assert picture.format == "PNG"
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 10  # more than a blank


def test_intervals_of_other_numbers_are_left_out(hub, adapters, finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "scenes")
    file = run / "calibration" / "bootstrap.json"
    content = json.loads(file.read_text())
    content["metrics"]["mAP"]["value"] += 0.01
    file.write_text(json.dumps(content))
    adapters("push", run, URL)
    assert "resamples" not in hub.files["README.md"].decode()


def test_another_adapter_is_replaced_on_demand_alone(full_hub, adapters, finished, tmp_path):
    hub = full_hub
    other = tmp_path / "other.safetensors"
    info, tensors = read_adapter(finished / "adapter.safetensors")
    write_adapter(other, info, {name: tensor + 1 for name, tensor in tensors.items()})
    before = dict(hub.files)
    status, _, error = adapters("push", other, URL)
    assert status == 1
    assert error == (
        f"error: {URL} holds another adapter: its adapter.safetensors is not this one. Choose another name or path, or "
        "replace it by --overwrite.\n"
    )
    assert hub.files == before
    # Beside it, or in its place; then config and picture of the former one go.
    assert adapters("push", other, f"{URL}/later/ships.safetensors")[0] == 0
    assert hub.files.keys() - before.keys() == {"later/ships.safetensors", "later/README.md"}
    assert adapters("push", other, URL, "--overwrite")[0] == 0
    assert hub.files.keys() == {
        *("README.md", "adapter.safetensors"),
        *("later/ships.safetensors", "later/README.md"),
    }
    assert hub.files["adapter.safetensors"] == other.read_bytes()
    assert len(hub.commits) == 3


@pytest.mark.usefixtures("full_hub")
def test_pull_of_one_file(adapters, finished):
    assert adapters("push", finished / "adapter.safetensors", f"{URL}/v1.0/ships.safetensors")[0] == 0
    assert adapters("pull", f"{URL}/v1.0/ships.safetensors", "--output", "a.safetensors")[0] == 0
    assert [path.name for path in Path().iterdir()] == ["a.safetensors"]
    Path("a.safetensors").write_bytes(b"mine")
    status, _, error = adapters("pull", f"{URL}/v1.0/ships.safetensors", "--output", "a.safetensors")
    assert (status, Path("a.safetensors").read_bytes()) == (1, b"mine")
    assert "is there with other content; --overwrite replaces it" in error
    assert adapters("pull", f"{URL}/v1.0/ships.safetensors", "--output", "a.safetensors", "--overwrite")[0] == 0
    read_adapter("a.safetensors")


def test_what_is_no_adapter_is_neither_pushed_nor_pulled(hub, adapters, finished, tmp_path):
    plain = tmp_path / "plain.safetensors"
    from safetensors.torch import save_file

    save_file({"a": next(iter(read_adapter(finished / "adapter.safetensors")[1].values())).contiguous()}, plain)
    assert "is no adapter file" in adapters("push", plain, URL)[2]
    assert "is not a readable safetensors file" in adapters("push", finished / "model_best.pth", URL)[2]
    assert not hub.repositories
    hub.repositories[REPO] = {}
    for content, problem in ((plain.read_bytes(), "is no adapter file"), (b"cut", "may be cut short")):
        hub.files["adapter.safetensors"] = content
        hub.commits.append({})
        status, _, error = adapters("pull", URL)
        assert (status, error.count("\n")) == (1, 1)
        assert f"{URL}/adapter.safetensors" in error
        assert problem in error
        assert not list(Path().iterdir())
    hub.files["model_best.pth"] = b"\x80pickle"
    assert "adapters are .safetensors files" in adapters("pull", f"{URL}/model_best.pth")[2]


def test_an_unfinished_run_is_not_pushed(hub, adapters, finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "scenes")
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    assert "is not finished" in adapters("push", run, URL)[2]
    assert not hub.requests


def test_each_refusal_is_one_line(hub, adapters, finished, monkeypatch):
    finished = finished / "adapter.safetensors"

    def errors_of(*words):
        status, out, error = adapters(*words)
        assert (status, out, error.count("\n")) == (1, "", 1), error
        return error

    assert "there is no such repository" in errors_of("pull", "hf://somebody/else")
    assert "there is no such repository" in errors_of("pull", URL)
    adapters("push", finished, URL)
    assert "has no file 'other/adapter.safetensors'" in errors_of("pull", f"{URL}/other")
    assert "no revision 'v9'" in errors_of("pull", f"{URL}@v9")
    assert "leave @v9 out" in errors_of("push", finished, f"{URL}@v9")
    for address in ("somebody/detector", "hf://detector", "hf://a/../b", "hf://a/b/../c", "hf://datasets/a/b"):
        assert address in errors_of("push", finished, address)
    hub.trouble = "403"
    assert "does not allow it (HTTP 403)" in errors_of("push", finished, URL)
    hub.trouble = "close"
    assert "cannot be reached" in errors_of("push", finished, URL)
    hub.trouble = None
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE=1" in errors_of("push", finished, URL)
    assert "HF_HUB_OFFLINE=1" in errors_of("pull", f"{URL}/never")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    assert "HTTP 401" in errors_of("push", finished, URL)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert "needs a token that may write there" in errors_of("push", finished, URL)
    assert "nowhere does not exist" in errors_of("push", "nowhere", URL), "before anybody logs in for it"


@pytest.mark.usefixtures("full_hub")
def test_offline_what_was_pulled_once_comes_again(adapters, monkeypatch):
    adapters("pull", URL)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert adapters("pull", URL, "--output", "again")[0] == 0
    assert {path.name for path in Path("again").iterdir()} == OF_A_RUN


@pytest.mark.usefixtures("full_hub")
def test_a_training_starts_from_the_hub(finished, data, tmp_path):
    """The same base and recipe; the head has other classes."""
    start = f"train.init_checkpoint={URL}/adapter.safetensors"
    more = ("train.max_iter=1", "train.eval_period=0", "optimizer.lr=0.0", "optimizer.weight_decay=0.0")
    out = tmp_path / "same"
    succeed(*arguments(data, out, *more, start))
    first, again = (read_adapter(folder / "adapter.safetensors") for folder in (finished, out))
    assert all(np.array_equal(again[1][name], tensor) for name, tensor in first[1].items())
    assert again[0]["frozen"] == first[0]["frozen"]
    # Of two of its classes, in another order: rows go by name.
    names = first[0]["classes"][:2][::-1]
    out = tmp_path / "fewer"
    succeed(*arguments(data, out, *more, start, "data.name=fewer", f"data.classes=[{','.join(names)}]"))
    fewer = read_adapter(out / "adapter.safetensors")[1]
    bias = "head.cls_score.bias"
    there = first[1][bias].reshape(9, -1).numpy()[:, :2][:, ::-1]
    assert np.array_equal(fewer[bias].reshape(9, 2).numpy(), there)
    # Another recipe, and no such file.
    status, error = call(*arguments(data, tmp_path / "b", *more, start, "model.backbone.bottom_up.rank=4"))
    assert (status, error.count("\n")) == (1, 1)
    assert "rank is 2 in the file, 4 in the model" in error
    status, error = call(*arguments(data, tmp_path / "b", *more, start.replace("adapter.", "other.")))
    assert (status, error.count("\n")) == (1, 1)
    assert "has no file 'other.safetensors'" in error


@pytest.mark.usefixtures("full_hub")
def test_evaluation_of_an_adapter_on_the_hub(finished, data, tmp_path):
    words = ["--eval-only", "--checkpoint", f"{URL}/adapter.safetensors", "--split", "test"]
    succeed(*arguments(data, finished, "train.eval_splits=[test]"), *words, "--output-json", str(tmp_path / "m.json"))
    found, trained = (json.loads(file.read_text()) for file in (tmp_path / "m.json", finished / "test_metrics.json"))
    assert found["coco/bbox_mAP"] == pytest.approx(trained["coco/bbox_mAP"], abs=1e-6)


def test_licences_are_in_card_and_file(hub, adapters, tmp_path):
    """A base of DINOv3's, whose weights are a file."""
    from detectron2.config import LazyConfig, instantiate

    from loradet.config.licences import base_licences, licence_metadata

    cfg = LazyConfig.load(str(TEST_CONFIGS / "tiny.py"))
    network = cfg.model.backbone.bottom_up.module.module
    cfg.model.num_classes = 2
    torch_model = instantiate(cfg.model)
    network.model_name, network.weights = "convnext_tiny.dinov3_lvd1689m", "/somewhere/tiny.safetensors"
    assert [one.licence for one in base_licences(cfg)] == ["dinov3-license"]
    file = tmp_path / "a.safetensors"
    save_adapter(torch_model, file, classes=["a|b", "c"], metadata=licence_metadata(cfg))
    out = adapters("push", file, URL)[1]
    assert "convnext_tiny.dinov3_lvd1689m is under DINOv3 License: https://ai.meta.com" in out
    card = ModelCard(hub.files["README.md"].decode())
    assert card.data.license == "other"
    assert card.data.to_dict()["license_name"] == "dinov3-license"
    assert card.data.base_model == ["timm/convnext_tiny.dinov3_lvd1689m"]
    assert "is under [DINOv3 License](https://ai.meta.com" in card.text
    assert r"a\|b, c" in card.text
    assert "DINOv3 License" in adapters("pull", URL)[1]
    assert "convnext_tiny.dinov3_lvd1689m: dinov3-license" in adapters("inspect", "detector/adapter.safetensors")[1]
