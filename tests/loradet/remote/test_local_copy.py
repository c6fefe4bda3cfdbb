"""From a URL to a file: which texts are URLs, the Hub, and what is wrong in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.broken_server import serve
from helpers.hub_server import REPO, TOKEN, hub_server

from loradet.adapters import read_adapter
from loradet.errors import UserError
from loradet.remote import file_name, is_url, local_copy, local_path, shown, split_heuristics
from loradet.remote.hub import parse_hub_url


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/run/model_best.pth", True),
        ("https://host/a.json?x=1", True),
        ("hf://owner/name/adapter.safetensors", True),
        ("gs://bucket/a.pth", True),
        ("file:///tmp/a.pth", True),
        ("asset://a.safetensors", False),
        ("detectron2://a.pkl", False),
        ("work_dirs/a.pth", False),
        ("name=s3://a", False),
        (Path("/tmp/a.pth"), False),
    ],
)
def test_what_a_url_is(text, expected):
    assert is_url(text) is expected


def test_parts_of_urls():
    assert file_name("https://host/a/b%20c.pth?x=1") == "b_c.pth"
    assert file_name("s3://bucket/a/..") == "file"
    assert shown("https://me:secret@host:1/a.pth?key=secret") == "https://host:1/a.pth"
    assert split_heuristics("https://h/a.pth?k=1?matching_heuristics=True") == (
        "https://h/a.pth?k=1",
        "?matching_heuristics=True",
    )
    assert split_heuristics("https://h/a.pth?k=1") == ("https://h/a.pth?k=1", "")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("hf://me/mine/adapter.safetensors", ("model", "me/mine", "adapter.safetensors", None)),
        ("hf://me/mine/a/b.pth@v1.0", ("model", "me/mine", "a/b.pth", "v1.0")),
        ("hf://me/mine/b.pth@refs/pr/1", ("model", "me/mine", "b.pth", "refs/pr/1")),
        ("hf://me/mine@v1/b.pth", ("model", "me/mine", "b.pth", "v1")),
        ("hf://datasets/me/ships/train.json", ("dataset", "me/ships", "train.json", None)),
    ],
)
def test_urls_of_the_hub(url, expected):
    assert parse_hub_url(url) == expected


def test_a_file_here_is_taken_as_it_is(tmp_path: Path):
    (tmp_path / "a.pth").write_bytes(b"a")
    assert local_path(tmp_path / "a.pth") == tmp_path / "a.pth"
    assert local_copy((tmp_path / "a.pth").as_uri()) == tmp_path / "a.pth"
    with pytest.raises(UserError, match="there is no such file"):
        local_copy((tmp_path / "b.pth").as_uri())


def test_a_command_asks_once_for_a_file_that_it_looks_at_several_times(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("LORADET_CACHE", str(tmp_path))
    with serve({"/a.pth": b"a"}) as server:
        assert local_copy(f"{server.url}/a.pth") == local_copy(f"{server.url}/a.pth")
        assert len(server.asked) == 1
        assert local_copy(f"{server.url}/a.pth").is_relative_to(tmp_path / "remote")


@pytest.mark.parametrize("value", ["many", "0", "-1", "nan"])
def test_a_size_that_is_none(value, monkeypatch):
    monkeypatch.setenv("LORADET_CACHE_GB", value)
    with pytest.raises(UserError, match="LORADET_CACHE_GB="):
        local_copy("https://127.0.0.1:9/a.pth")


def test_an_adapter_by_a_url_that_nothing_reads():
    with pytest.raises(UserError, match=r"nothing://a/b.safetensors: no protocol nothing:// is known"):
        read_adapter("nothing://a/b.safetensors")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("hf://me/mine", "expected hf://OWNER/NAME/PATH"),
        ("nothing://a/b", "no protocol nothing:// is known"),
        ("http://127.0.0.1:9/a.pth", "the server does not answer"),
        ("http://", "cannot be read"),
    ],
)
def test_what_is_wrong_is_one_line(url, said, tmp_path, monkeypatch):
    monkeypatch.setenv("LORADET_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=said) as caught:
        local_copy(url)
    assert "\n" not in str(caught.value)


_COPY = """
import sys
from loradet.errors import errors_in_one_line
from loradet.remote import local_copy
with errors_in_one_line():
    file = local_copy(sys.argv[1])
    print(file.name, file.read_text())
"""


def test_a_file_of_the_hub_also_without_it(tmp_path):
    def copy(url: str, **environment: str) -> str:
        ours = {"HF_ENDPOINT": server.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path), **environment}
        command = [sys.executable, "-c", _COPY, url]
        done = subprocess.run(command, env=os.environ | ours, capture_output=True, text=True, timeout=60)
        return done.stdout.strip() or done.stderr.strip()

    with hub_server() as server:
        server.repositories[REPO] = {}
        server.files["adapter.safetensors"] = b"an adapter"
        server.commits.append({})
        assert copy(f"hf://{REPO}/adapter.safetensors@main") == "adapter.safetensors an adapter"
        asked = len(server.requests)
        assert copy(f"hf://{REPO}/adapter.safetensors", HF_HUB_OFFLINE="1") == "adapter.safetensors an adapter"
        said = copy(f"hf://{REPO}/other.safetensors", HF_HUB_OFFLINE="1")
        assert "HF_HUB_OFFLINE=1" in said and "\n" not in said
        assert len(server.requests) == asked
        said = copy(f"hf://{REPO}/adapter.safetensors@main", HF_TOKEN="hf_wrong", HF_HOME=str(tmp_path / "empty"))
        assert said.startswith("error: hf://somebody/detector/adapter.safetensors@main") and "\n" not in said
