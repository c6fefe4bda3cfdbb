"""What a checkpoint of another model does."""

import math

import pytest
import torch
from torch import nn

from loradet.checkpoint import Checkpointer, CheckpointError


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))


def test_a_file_of_another_model_is_refused_where_batch_norms_count(tmp_path):
    # torch does not miss the counters of batches in a file without metadata of versions.
    file = tmp_path / "other.pth"
    torch.save({"model": {"elsewhere.weight": torch.ones(2)}}, file)
    with pytest.raises(CheckpointError, match=r"of another model than the config's, which has 6 tensors: 6 missing"):
        Checkpointer(net()).load_weights(str(file), strict=False)


def test_what_was_loaded_is_counted(tmp_path, caplog):
    model, file = net(), tmp_path / "part.pth"
    torch.save({"model": {"0.weight": torch.full((2, 1, 1, 1), 3.0), "0.bias": torch.ones(3)}}, file)
    with caplog.at_level("INFO"):
        Checkpointer(model).load_weights(str(file), strict=False)
    assert "part.pth: head 1 of 6; of another shape, so left at the start: 0.bias." in caplog.text
    assert "not found" not in caplog.text
    assert (model[0].weight == 3.0).all()


def test_weights_that_a_step_has_ruined_are_not_written(tmp_path):
    """Their loss was finite, and the next one would not be; nobody could load a checkpoint of them."""
    model = net()
    checkpointer = Checkpointer(model, tmp_path)
    checkpointer.save("model_0000001")
    model[0].weight.data[1] = math.nan
    with pytest.raises(CheckpointError, match=r"diverged, weights are not finite \(0\.weight\).*model_0000001\.pth\."):
        checkpointer.save("model_0000002")
    assert [file.name for file in tmp_path.glob("*.pth")] == ["model_0000001.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    model.requires_grad_(False)  # frozen weights are as they came, and were looked at when they did
    checkpointer.save("model_0000003")
