"""Configs and commands of a run, as they are told to others."""

import pytest
import yaml

from loradet.files import FileError
from loradet.sharing.address import HubAddress, parse_address
from loradet.sharing.config_paths import portable_command, portable_config

CONFIG = r"""
data: {root: /home/me/cells, train_json: /home/me/cells/a/train.json, cache: ~/other/cache.bin, place: "${data.root}/x"}
model:
  _target_: loradet.backbones.TimmBackbone
  weights: /mnt/weights/base.safetensors
  url: https://me:secret@host/a.pth?signature=secret
  sizes: !!python/tuple [1, 2]
  start: asset://a.safetensors
optimizer: {lr: 1.0e-05, betas: [0.9, 0.999]}
train:
  output_dir: C:\runs\mine
  hub: {repo_id: me/mine, private: true}
  wandb: {project: p, name: "null", entity: e, mode: offline}
  trackio: {project: null, name: null}
  notes: "a / b"
"""


def test_a_config_names_nothing_of_the_machine(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG)
    text, hidden = portable_config(file)
    assert not [word for word in ("/home", "~", "/mnt", "secret", "me/mine", "runs\\", "C:") if word in text]
    before, after = (yaml.load(t, yaml.UnsafeLoader) for t in (CONFIG, text))
    assert after["data"] == {
        "root": "PATH",
        "train_json": "PATH/a/train.json",
        "cache": "cache.bin",
        "place": "${data.root}/x",
    }
    assert after["model"] == {**before["model"], "weights": "base.safetensors", "url": "https://host/a.pth"}
    assert after["optimizer"] == before["optimizer"]
    assert after["train"] == {
        "output_dir": "mine",
        "hub": {"repo_id": None, "private": True},
        "wandb": dict.fromkeys(("project", "name", "entity", "mode")),
        "trackio": {"project": None, "name": None},
        "notes": "a / b",
    }
    assert "/home/me/cells/a/train.json" in hidden
    file.write_text("a: [")
    with pytest.raises(FileError, match=r"config\.yaml is broken"):
        portable_config(file)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["/a/b/lazyconfig_train_net.py", "--config-file", "/a/configs/x/y.py", "data.root=/home/me/cells"],
         "loradet train --config-file configs/x/y.py data.root=PATH"),
        (["/venv/bin/loradet", "train", "--config-file", "custom_coco", "train.init_checkpoint=/home/me/a.pth"],
         "loradet train --config-file custom_coco train.init_checkpoint=a.pth"),
        (["/x/loradet/cli/__main__.py", "train", "data.classes=[a,b]", "data.train_json=/home/me/cells/t.json"],
         "loradet train 'data.classes=[a,b]' data.train_json=PATH/t.json"),
        (["/venv/bin/loradet", "study", "run"], None),
        (["/x/ipykernel_launcher.py", "-f", "k.json"], None),
        ([], None),
    ],
)  # fmt: skip
def test_a_command(words, told):
    assert portable_command(words, ["/home/me/cells"]) == told


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("hf://me/it", HubAddress("me/it")),
        ("hf://me/it/v1.0/ships/", HubAddress("me/it", "v1.0/ships")),
        ("hf://me/it@v2/a/b.safetensors", HubAddress("me/it", "a", "b.safetensors", "v2")),
        ("hf://me/it/a@refs/pr/1", HubAddress("me/it", "a", revision="refs/pr/1")),
    ],
)
def test_an_address(text, address):
    assert parse_address(text) == address
    assert parse_address(str(address)) == address
