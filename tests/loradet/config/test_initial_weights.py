"""What training starts from, and what a run records of it."""

import pytest
from helpers.paths import ROOT
from omegaconf import OmegaConf

from loradet.config import load_config
from loradet.config.initial_weights import allows_random_frozen, check_initial_weights, initial_weights
from loradet.errors import UserError

CONFIGS = ROOT / "configs"
RANDOM = {"initial_weights": "random"}


@pytest.mark.parametrize(
    ("backbone", "found"),
    [
        ({"module": {"pretrained": True}}, {}),
        ({"module": {"pretrained": False, "weights": None}}, RANDOM),
        ({"module": {"pretrained": False, "weights": "net.pth"}}, {}),
        ({"weights": "${init.file}"}, RANDOM),
        ({"depth": 50}, {}),
        ({"weights": None, "box2box": {"weights": [1.0, 2.0]}}, RANDOM),
    ],
)
def test_random_where_what_could_have_weights_has_none(backbone, found):
    cfg = OmegaConf.create({"init": {"file": None}, "model": {"backbone": backbone}, "train": {"init_checkpoint": ""}})
    assert initial_weights(cfg) == found
    cfg.train.init_checkpoint = "all.pth"
    assert initial_weights(cfg) == {}


def test_weights_of_a_detector_of_transformers_are_a_folder_or_a_name_on_the_hub(tmp_path):
    words = ["data.data_yaml=nowhere.yaml", "data.num_classes=2"]

    def check(weights):
        check_initial_weights(load_config(CONFIGS / "custom_dfine.py", [*words, f"+model.weights={weights}"]))

    check("someone/dfine-small")
    check(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"weights='no/such/folder': there is no such folder"):
        check("no/such/folder")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="is a file: give the folder that holds it"):
        check(tmp_path / "model.safetensors")


def test_random_weights_of_a_part_is_the_older_name_of_a_setting(caplog):
    net = {"backbone": [{"net": {"random_weights": True, "weights": None}}]}
    cfg = OmegaConf.create({"model": net, "train": {"init_checkpoint": "", "allow_random_frozen": False}})
    assert allows_random_frozen(cfg)
    assert "random_weights=True in the model is read as train.allow_random_frozen=True" in caplog.text
    cfg.model.backbone[0].net.random_weights = False
    assert not allows_random_frozen(cfg)
    cfg.train.allow_random_frozen = True
    assert allows_random_frozen(cfg)


def test_files_that_are_not_there(tmp_path):
    cfg = OmegaConf.create(
        {"file": "lost.pth", "model": {"net": {"weights": "${file}"}}, "train": {"init_checkpoint": "", "smoke": False}}
    )
    with pytest.raises(FileNotFoundError, match=r"weights='lost\.pth': no such file"):
        check_initial_weights(cfg)
    cfg.file = str(tmp_path / "there.pth")
    (tmp_path / "there.pth").write_bytes(b"")
    check_initial_weights(cfg)
    cfg.file = "IMAGENET1K_V1"
    check_initial_weights(cfg)
    cfg.train.init_checkpoint = "lost.pth?matching_heuristics=True"
    with pytest.raises(FileNotFoundError, match=r"train\.init_checkpoint='lost\.pth"):
        check_initial_weights(cfg)
    check_initial_weights(cfg, fresh=False)  # a resumed run does not read it
    cfg.train.init_checkpoint = "detectron2://elsewhere.pkl"
    check_initial_weights(cfg)


RANDOM_BY_DESIGN = [
    *("sar_lora_dino/e0022_lora_r16_fc1fc2_random", "sar_lora_dino/e0023_lora_r16_fc2_random"),
    *("sar_lora_dino/e0024_lora_r16_fc1_random", "sar_lora_dino/e0025_full_random"),
    *("coco_detr_lora/detr_r50_lora_only_r4_attn", "coco_detr_lora/synthetic/detr_r50_lora_only_r4_attn"),
]


@pytest.mark.parametrize("name", [*RANDOM_BY_DESIGN, "quickstart", "sar_lora_dino/e0002_lora_r16_fc1fc2"])
def test_configs_that_are_random_by_design_say_so(name):
    cfg = load_config(str(CONFIGS / f"{name}.py"), [])
    assert cfg.train.allow_random_frozen is (name in RANDOM_BY_DESIGN)
