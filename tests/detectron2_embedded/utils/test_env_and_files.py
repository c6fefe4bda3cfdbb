"""Seeds, environment table, and files that are replaced whole."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import TORCH_VERSION, seed_all_rng
from detectron2.utils.file_io import PathManager
from detectron2.utils.torch_version_utils import min_torch_version


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


@pytest.mark.subset  # numpy takes 32 bits only
def test_a_large_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    seed_all_rng(2**40 + 1)
    first = _draws()
    seed_all_rng(2**40 + 1)
    assert _draws() == first


def test_torch_version(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.__version__.startswith(".".join(map(str, TORCH_VERSION)))
    monkeypatch.setattr(torch, "__version__", "2.10.1+cu130")
    assert min_torch_version("2.9") and min_torch_version("2.10.1")
    assert not min_torch_version("2.10.2") and not min_torch_version("3.0")


def test_collect_env_info() -> None:
    info = collect_env_info()
    for part in (torch.__version__, np.__version__, "detectron2", "fvcore"):
        assert part in info


@pytest.mark.subset
def test_what_the_environment_is_called() -> None:
    assert "GPU available" in collect_env_info()


def test_path_manager(tmp_path: Path) -> None:
    with PathManager.open(str(tmp_path / "a.txt"), "w") as file:
        file.write("x")
    assert PathManager.isfile(str(tmp_path / "a.txt"))
    assert PathManager.ls(str(tmp_path)) == ["a.txt"]
    assert PathManager.get_local_path(str(tmp_path)) == str(tmp_path)


@pytest.mark.subset
def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    from detectron2.utils.file_io import replace_file

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


@pytest.mark.subset
@pytest.mark.skipif(os.name != "posix", reason="file modes are those of POSIX")
def test_replaced_files_have_ordinary_modes(tmp_path: Path) -> None:
    from detectron2.utils.file_io import replace_file

    (tmp_path / "plain").write_text("")
    with replace_file(tmp_path / "replaced") as file:
        file.write("")
    assert (tmp_path / "replaced").stat().st_mode == (tmp_path / "plain").stat().st_mode
