"""Checkpoints are written in turn, and old ones removed, by a run that was killed in between too."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from loradet.training.hooks import KeepCheckpoints


class Checkpointer:
    """Notes what it is to save."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.hook = None

    def save(self, name, **_):
        torch.save(self.hook.state_dict(), self.folder / f"{name}.pth")


def hook_in(folder: Path) -> KeepCheckpoints:
    checkpointer = Checkpointer(folder)
    hook = checkpointer.hook = KeepCheckpoints(checkpointer, period=2, max_to_keep=2)
    hook.trainer = SimpleNamespace(
        max_iter=9, stop_reason=None, output_dir=folder, module=torch.nn.Linear(1, 1), check_losses=lambda: None
    )
    return hook


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_kill_before_the_old_one_is_removed_leaves_it_to_the_next_start(tmp_path, monkeypatch):
    hook = hook_in(tmp_path)
    for iteration in (1, 3):
        hook.trainer.iter = iteration
        hook.after_step()
    hook.trainer.iter = 5

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", killed)
        hook.after_step()
    assert names(tmp_path) == ["model_0000001.pth", "model_0000003.pth", "model_0000005.pth"]
    (tmp_path / "model_0000000.pth").write_text("of somebody else")

    resumed = hook_in(tmp_path)
    resumed.load_state_dict(torch.load(tmp_path / "model_0000005.pth", weights_only=True))
    assert names(tmp_path) == ["model_0000000.pth", "model_0000003.pth", "model_0000005.pth"]
    resumed.trainer.iter = 7
    resumed.after_step()
    assert names(tmp_path) == ["model_0000000.pth", "model_0000005.pth", "model_0000007.pth"]


def test_a_checkpoint_of_before_is_gone_on_from(tmp_path):
    hook = hook_in(tmp_path)
    hook.load_state_dict({"saved": ["model_0000001"]})
    assert hook.state_dict() == {"saved": ["model_0000001"], "stale": []}
