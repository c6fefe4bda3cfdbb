"""Seeds, environment table, and files that are replaced whole."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import TORCH_VERSION, seed_all_rng
from detectron2.utils.file_io import PathManager, replace_file


def _draws() -> tuple:
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_seed_all_rng(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    seed_all_rng(5)
    first = _draws()
    seed_all_rng(5)
    assert _draws() == first
    seed_all_rng(6)
    assert all(a != b for a, b in zip(_draws(), first))
    seed_all_rng(None)
    some = _draws()
    seed_all_rng(None)
    assert _draws() != some
    seed_all_rng(2**40 + 1)


def test_torch_version() -> None:
    assert torch.__version__.startswith(".".join(map(str, TORCH_VERSION)))


def test_collect_env_info() -> None:
    info = collect_env_info()
    for part in (torch.__version__, np.__version__, "detectron2", "GPU available", "fvcore"):
        assert part in info


def test_path_manager(tmp_path: Path) -> None:
    with PathManager.open(str(tmp_path / "a.txt"), "w") as file:
        file.write("x")
    assert PathManager.isfile(str(tmp_path / "a.txt"))
    assert PathManager.ls(str(tmp_path)) == ["a.txt"]
    assert PathManager.get_local_path(str(tmp_path)) == str(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replace_file(path) as file:
        file.write("half")
        assert path.read_text() == "old"
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    with replace_file(path, "wb") as file:
        file.write(b"new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.skipif(os.name != "posix", reason="file modes are those of POSIX")
def test_replaced_files_have_ordinary_modes(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    with replace_file(tmp_path / "replaced") as file:
        file.write("")
    assert (tmp_path / "replaced").stat().st_mode == (tmp_path / "plain").stat().st_mode
