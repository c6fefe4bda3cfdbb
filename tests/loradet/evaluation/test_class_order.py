"""Classes of weights beside those of the data."""

import pytest
from omegaconf import OmegaConf

from loradet.evaluation.class_order import splits_for_weights


def test_weights_that_are_not_there_are_told_before_anything_is_said_of_their_classes(tmp_path, caplog):
    with pytest.raises(FileNotFoundError, match=r"none\.pth does not exist"):
        splits_for_weights(OmegaConf.create({"dataloader": {}}), [], tmp_path / "none.pth")
    assert caplog.text == ""
