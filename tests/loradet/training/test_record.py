"""What a run's record says of where it began."""

import pytest
from omegaconf import OmegaConf

from loradet.training.record import initial_weights, refuse_random_weights

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


def test_random_weights_on_request_are_for_smoke_runs():
    net = {"backbone": [{"net": {"random_weights": True, "weights": None}}]}
    cfg = OmegaConf.create({"model": net, "train": {"init_checkpoint": "", "smoke": False}})
    with pytest.raises(ValueError, match=r"random_weights=True, which is for smoke runs"):
        refuse_random_weights(cfg)
    for key, value in (("train.smoke", True), ("train.init_checkpoint", "all.pth")):
        allowed = cfg.copy()
        OmegaConf.update(allowed, key, value)
        refuse_random_weights(allowed)
    cfg.model.backbone[0].net.random_weights = False
    refuse_random_weights(cfg)
