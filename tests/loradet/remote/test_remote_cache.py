"""Fetched files: once, whole, of limited size, and never one in use."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.broken_server import Fault, Server, serve

from loradet.errors import MissingFileError, UserError
from loradet.remote import RemoteError, UnreachableError
from loradet.remote.cache import Cache


@pytest.fixture
def server() -> Iterator[Server]:
    with serve({"/a/weights.pth": b"a" * 5000, "/b.pth": b"b" * 5000, "/c.pth": b"c" * 5000}) as server:
        yield server


def content(cache: Cache, url: str) -> bytes:
    """What a process reads that then ends."""
    held = cache.get(url)
    data = held.path.read_bytes()
    held.handle.close()
    return data


def files(cache: Cache) -> set[str]:
    return {file.name for file in cache.folder.rglob("*.pth")}


def test_a_file_is_fetched_once_and_anew_where_it_has_changed(server: Server, tmp_path: Path):
    cache, url = Cache(tmp_path, None), f"{server.url}/a/weights.pth"
    first = cache.get(url)
    assert first.path.name == "weights.pth" and first.path.read_bytes() == b"a" * 5000
    written = first.path.stat().st_ino
    assert cache.get(url).path.stat().st_ino == written
    server.files["/a/weights.pth"] = b"A" * 5000  # as large as before
    second = cache.get(url)
    assert second.path.read_bytes() == b"A" * 5000
    assert first.path.read_bytes() == b"a" * 5000, "somebody reads the former one still"


def test_a_former_version_goes_once_nobody_uses_it(server: Server, tmp_path: Path):
    cache, url = Cache(tmp_path, None), f"{server.url}/b.pth"
    content(cache, url)
    server.files["/b.pth"] = b"B"
    content(cache, url)
    assert [file.read_bytes() for file in tmp_path.rglob("b.pth")] == [b"B"]


def test_a_server_that_says_nothing_of_versions_is_asked_for_all_each_time(server: Server, tmp_path: Path):
    cache, url = Cache(tmp_path, None), f"{server.url}/b.pth"
    server.always = Fault(headers=False)
    content(cache, url)
    server.files["/b.pth"] = b"B" * 5000
    assert content(cache, url) == b"B" * 5000


@pytest.mark.parametrize("fault", [Fault(cut=1200), Fault(cut=4999)])
def test_a_file_that_came_in_part_does_not_count(fault: Fault, server: Server, tmp_path: Path):
    cache, url = Cache(tmp_path, None), f"{server.url}/b.pth"
    server.faults = [fault]
    with pytest.raises(UnreachableError, match=r"/b.pth: \d+ of 5000 bytes came"):
        cache.get(url)
    assert not files(cache)
    assert content(cache, url) == b"b" * 5000


def test_what_was_fetched_last_counts_where_the_server_does_not_answer(server: Server, tmp_path: Path, caplog):
    cache, url = Cache(tmp_path, None), f"{server.url}/b.pth"
    content(cache, url)
    server.always = Fault(status=503)
    assert content(cache, url) == b"b" * 5000
    assert "HTTP 503" in caplog.text and "What was fetched last is taken" in caplog.text
    assert cache.get(url, offline=True).path.read_bytes() == b"b" * 5000
    with pytest.raises(UnreachableError, match="HTTP 503"):
        cache.get(f"{server.url}/c.pth")
    with pytest.raises(UnreachableError, match="LORADET_OFFLINE=1"):
        cache.get(f"{server.url}/c.pth", offline=True)


@pytest.mark.parametrize(
    ("status", "said"), [(404, "there is no such file"), (403, "not allowed"), (401, "not allowed")]
)
def test_what_is_gone_or_forbidden_is_an_error_although_a_copy_is_here(status, said, server: Server, tmp_path: Path):
    cache, url = Cache(tmp_path, None), f"{server.url}/b.pth"
    content(cache, url)
    server.always = Fault(status=status)
    with pytest.raises(RemoteError, match=said) as caught:
        cache.get(url)
    assert not isinstance(caught.value, UnreachableError)
    assert isinstance(caught.value, UserError) and isinstance(caught.value, MissingFileError) == (status == 404)


def test_a_secret_in_a_url_is_not_shown(server: Server, tmp_path: Path, caplog):
    caplog.set_level("INFO")
    cache = Cache(tmp_path, None)
    server.files["/b.pth?X-Amz-Signature=secret"] = b"signed"
    assert content(cache, f"{server.url}/b.pth?X-Amz-Signature=secret") == b"signed"
    with pytest.raises(RemoteError) as caught:
        cache.get(f"{server.url}/d.pth?X-Amz-Signature=secret")
    assert "secret" not in caplog.text + str(caught.value)
    assert not [file for file in tmp_path.rglob("*.json") if "secret" in file.read_text()]


def test_the_least_recently_used_goes_first_and_never_one_in_use(server: Server, tmp_path: Path):
    cache = Cache(tmp_path, 11_000)  # two files
    content(cache, f"{server.url}/a/weights.pth")
    content(cache, f"{server.url}/b.pth")
    content(cache, f"{server.url}/a/weights.pth")
    content(cache, f"{server.url}/c.pth")
    assert files(cache) == {"weights.pth", "c.pth"}
    held = cache.get(f"{server.url}/a/weights.pth")
    content(cache, f"{server.url}/c.pth")
    content(cache, f"{server.url}/b.pth")
    assert files(cache) == {"weights.pth", "b.pth"}, "older than c.pth, but in use"
    held.handle.close()
    content(cache, f"{server.url}/b.pth")
    content(cache, f"{server.url}/c.pth")
    assert files(cache) == {"b.pth", "c.pth"}


def test_a_file_larger_than_the_cache_is_fetched_all_the_same(server: Server, tmp_path: Path, caplog):
    assert content(Cache(tmp_path, 1000), f"{server.url}/b.pth") == b"b" * 5000
    assert "more than LORADET_CACHE_GB" in caplog.text


_FETCH = """
import logging, sys
from pathlib import Path
from loradet.remote.cache import Cache
logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
print(Cache(Path(sys.argv[1]), None).get(sys.argv[2]).path.read_bytes()[:1].decode())
"""


def fetch(folder: Path, url: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", _FETCH, folder, url], stdout=subprocess.PIPE, text=True)


def test_processes_fetch_a_file_once(server: Server, tmp_path: Path):
    server.files["/large.pth"] = b"l" * 20_000
    server.always = Fault(drip=0.05)
    running = [fetch(tmp_path, f"{server.url}/large.pth") for _ in range(3)]
    said = [process.communicate(timeout=60)[0].splitlines() for process in running]
    assert [lines[-1] for lines in said] == ["l"] * 3
    assert sum(line.startswith("Fetching") for lines in said for line in lines) == 1
    assert len(server.asked) == 3, "each asks; who finds it fetched reads no more than the headers"


def test_what_a_killed_process_has_left_does_not_count(server: Server, tmp_path: Path):
    server.files["/large.pth"] = b"l" * 100_000
    server.faults = [Fault(drip=0.05)]
    process = fetch(tmp_path, f"{server.url}/large.pth")
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob(".part-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert list(tmp_path.rglob(".part-*")) and not files(Cache(tmp_path, None))
    assert content(Cache(tmp_path, None), f"{server.url}/large.pth") == b"l" * 100_000
    assert not list(tmp_path.rglob(".part-*"))


def test_locks_are_no_fetched_files(server: Server, tmp_path: Path):
    cache = Cache(tmp_path, 1)
    for name in ("a/weights", "b"):
        content(cache, f"{server.url}/{name}.pth")
    removed = cache.make_room(0)
    assert all(file.suffix == ".pth" for file in removed)
    assert len(list(tmp_path.glob("[!.]*.lock"))) == 2, "one of each URL, which others may wait for"
