"""tools/convert_weights.py as a user runs it, and the training tool that sends them there."""

import os
import pickle
import runpy
import subprocess
import sys

import numpy as np
import pytest
from helpers.paths import TEST_CONFIGS
from helpers.train_tool import ENVIRONMENT, ROOT, arguments, call, succeed

from loradet.backbones.weights import read_state_dict
from loradet.config import load_config

TOOL = str(ROOT / "tools" / "convert_weights.py")
CONFIG = str(TEST_CONFIGS / "tiny.py")


class Evil:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.slow
def test_from_the_refusal_to_a_run(train_data, tmp_path):
    from detectron2.config import instantiate

    model = instantiate(load_config(CONFIG, [f"data.root={train_data}"]).model)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items() if "lora_" not in name}
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps({"model": state, "__author__": "zoo", "iteration": 7}, 2))
    line = [*arguments(train_data, tmp_path / "run", "train.max_iter=1", "train.eval_splits=[]")]

    status, stderr = call(*line, f"train.init_checkpoint={tmp_path / 'zoo.pkl'}")
    assert status == 1 and len(stderr.splitlines()) == 1
    assert f"error: {tmp_path / 'zoo.pkl'} is a pickle" in stderr
    assert f"loradet weights convert {tmp_path / 'zoo.pkl'} zoo.safetensors" in stderr
    assert not (tmp_path / "run" / "model_final.pth").exists()

    command = [sys.executable, TOOL, tmp_path / "zoo.pkl", tmp_path / "zoo.safetensors"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=120)
    assert done.returncode == 0 and done.stderr == ""
    assert f"Written: {tmp_path / 'zoo.safetensors'} ({len(state)} tensors, " in done.stdout
    assert "Left out: iteration" in done.stdout
    succeed(*line, f"train.init_checkpoint={tmp_path / 'zoo.safetensors'}", "optimizer.lr=0.0")
    trained = read_state_dict(tmp_path / "run" / "model_final.pth")
    for name, value in state.items():
        assert np.array_equal(trained[name].numpy(), value), name


def test_a_malicious_file_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"model": {"w": np.ones(1), "x": Evil(tmp_path / "ran")}}))
    monkeypatch.setattr(sys, "argv", [TOOL, str(tmp_path / "evil.pkl"), str(tmp_path / "evil.safetensors")])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(TOOL, run_name="__main__")
    message = stop.value.code
    assert message.startswith("error: ") and "\n" not in message
    assert ".mkdir" in message and "nothing of it was run" in message
    assert capsys.readouterr().out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pkl"]
