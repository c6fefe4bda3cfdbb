import json
import shutil

import pytest
import torch
from helpers.adapter_nets import Backbone, Detector, randomize_deltas, same_state, seeded

from loradet.adapters import adapter_sizes, export_run, freeze, lora, read_adapter, save_adapter
from loradet.errors import UserError


@pytest.fixture
def run(tmp_path):
    """What a finished run leaves, on a tiny net."""
    folder = tmp_path / "E1_full_seed0"
    folder.mkdir()
    model = randomize_deltas(Detector(lora(freeze(seeded(0, Backbone)), ["mlp.fc1"], rank=2, alpha=4.0)))
    save_adapter(model, folder / "adapter.safetensors", classes=["ship", "tank"], metadata={"by": "us"})
    torch.save({"model": model.state_dict(), "iteration": 7}, folder / "model_best.pth")
    (folder / "config.yaml").write_text("{}")
    record(folder, status="finished", seed=0, best={"metric": "bbox/AP", "value": 12.5, "iteration": 7})
    return folder


def record(folder, **values):
    (folder / "run.json").write_text(json.dumps(values))


def test_it_is_the_runs_adapter_and_says_what_the_run_was(run, tmp_path):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    written = export_run(run)
    assert written == run / "export" / "E1_full_seed0.safetensors"
    (info, tensors), (own_info, own) = read_adapter(written), read_adapter(run / "adapter.safetensors")
    assert same_state(tensors, own)
    best = {"metric": "bbox/AP", "value": 12.5, "iteration": 7}
    assert info == {**own_info, "metadata": {"by": "us", "run": "E1_full_seed0", "seed": 0, "best": best}}
    assert before == {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    other_info, other = read_adapter(export_run(run, tmp_path / "new" / "x.safetensors"))
    assert other_info == info and same_state(other, tensors)


def test_a_run_without_evaluation_has_no_best_weights_to_compare(run):
    (run / "model_best.pth").unlink()
    assert same_state(read_adapter(export_run(run))[1], read_adapter(run / "adapter.safetensors")[1])


def test_sizes(run):
    sizes = adapter_sizes(run / "adapter.safetensors")
    assert sizes.file == (run / "adapter.safetensors").stat().st_size
    assert sizes.lora == 4 * 3 * (2 * 8 + 16 * 2)  # three layers of 8 → 16 at rank 2, float32


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_weights(run):
    state = torch.load(run / "model_best.pth", weights_only=True)
    state["model"]["head.cls_score.bias"] += 1
    torch.save(state, run / "model_best.pth")


MISTAKES = {
    "no folder": (shutil.rmtree, "No run folder at"),
    "no run": (lambda run: (run / "run.json").unlink(), "holds no run: there is no run.json"),
    "a broken record": (lambda run: half(run / "run.json"), "run.json is cut short"),
    "a record of something else": (lambda run: (run / "run.json").write_text("[]"), "run.json holds a list"),
    "not finished": (lambda run: record(run, status="interrupted"), r"not finished \(status: interrupted\).*--resume"),
    "no adapter": (lambda run: (run / "adapter.safetensors").unlink(), r"no adapter.safetensors.*--checkpoint"),
    "half an adapter": (lambda run: half(run / "adapter.safetensors"), "not a readable safetensors file"),
    "half a checkpoint": (lambda run: half(run / "model_best.pth"), r"model_best.pth cannot be read"),
    "no checkpoint": (lambda run: (run / "model_best.pth").write_bytes(b""), r"model_best.pth cannot be read"),
    "other weights": (other_weights, r"not of the weights in model_best.pth; they differ in head.cls_score.bias"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_no_finished_run_is_said_and_nothing_written(mistake, run):
    spoil, message = MISTAKES[mistake]
    spoil(run)
    with pytest.raises(UserError, match=message):
        export_run(run)
    assert not (run / "export").exists()
