import json
import random
from types import SimpleNamespace

import pytest
from helpers.broken_server import Fault, serve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loradet.datasets.download.http import DownloadError, download

BODY = random.Random(0).randbytes(50_000)
OTHER = random.Random(1).randbytes(50_000)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server():
    with serve({"/a.zip": BODY}) as running:
        yield running


@pytest.fixture
def get(server, tmp_path):
    def call(**options):
        options = {"retries": 2, "backoff": 0.01, "timeout": 5.0} | options
        return download(f"{server.url}/a.zip", tmp_path / "a.zip", **options)

    return call


def ranges(server):
    return [asked for _, asked in server.asked]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_comes_whole_and_alone(get, tmp_path, server):
    assert get(size=len(BODY)) == tmp_path / "a.zip"
    assert (tmp_path / "a.zip").read_bytes() == BODY
    assert names(tmp_path) == ["a.zip"]
    with pytest.raises(FileExistsError, match="not overwritten"):
        get()
    assert len(server.asked) == 1


def test_goes_on_after_each_break(get, tmp_path, server):
    # More breaks than retries: each of them brought something.
    server.faults = [Fault(cut=7_000)] * 5
    get(retries=0)
    assert (tmp_path / "a.zip").read_bytes() == BODY
    assert ranges(server) == [None, *(f"bytes={n * 7000}-" for n in range(1, 6))]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 60_000), max_size=4), ignored=st.lists(st.booleans(), min_size=4, max_size=4))
def test_whatever_breaks_off_the_file_is_right(get, tmp_path, server, cuts, ignored):
    server.faults = [Fault(cut=cut, ignore_range=ignore) for cut, ignore in zip(cuts, ignored)]
    get(retries=5, backoff=0.001)
    assert (tmp_path / "a.zip").read_bytes() == BODY
    assert names(tmp_path) == ["a.zip"]
    (tmp_path / "a.zip").unlink()


def test_a_later_call_goes_on(get, tmp_path, server):
    server.faults = [Fault(cut=20_000), *[Fault(status=503)] * 3]
    with pytest.raises(DownloadError, match=r"a\.zip: HTTP 503.*Given up after 3 attempts"):
        get()
    assert names(tmp_path) == ["a.zip.part", "a.zip.part.json"]
    get()
    assert (tmp_path / "a.zip").read_bytes() == BODY
    assert ranges(server)[-1] == "bytes=20000-"


def test_a_server_without_ranges_starts_over(get, tmp_path, server, caplog):
    server.faults = [Fault(cut=20_000), Fault(ignore_range=True)]
    get()
    assert (tmp_path / "a.zip").read_bytes() == BODY
    assert "a.zip.part: its 20,000 bytes cannot be continued; starting over" in caplog.text


def test_a_server_that_always_says_more_than_it_sends(get, tmp_path, server):
    server.always = Fault(length=60_000, ignore_range=True)
    with pytest.raises(DownloadError, match=r"a\.zip: expected 60,000 bytes, found 50,000"):
        get()
    assert not (tmp_path / "a.zip").exists()
    assert len(server.asked) == 4  # one with something new, and one with two retries without


def test_without_a_length_nothing_is_believed(get, tmp_path, server):
    server.always = Fault(length=-1)
    with pytest.raises(DownloadError, match="does not say how long"):
        get()
    assert names(tmp_path) == []


@pytest.mark.parametrize("ignore_if_range", [False, True])
def test_a_file_that_changes_in_between_starts_over(get, tmp_path, server, ignore_if_range):
    server.faults = [Fault(cut=20_000), *[Fault(status=503)] * 3]
    with pytest.raises(DownloadError):
        get()
    server.files["/a.zip"] = OTHER
    server.always = Fault(ignore_if_range=ignore_if_range)
    get()
    assert (tmp_path / "a.zip").read_bytes() == OTHER


def test_a_file_that_cannot_be_recognized_starts_over(get, tmp_path, server):
    server.faults = [Fault(cut=20_000, headers=False)]
    get()
    assert (tmp_path / "a.zip").read_bytes() == BODY
    assert ranges(server) == [None, None]


def test_parts_of_another_address_are_not_used(get, tmp_path, server):
    server.files["/b.zip"] = OTHER
    server.faults = [Fault(cut=20_000), Fault(status=404)]
    with pytest.raises(DownloadError, match="404"):
        get()
    download(f"{server.url}/b.zip", tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == OTHER
    assert server.asked[-1] == ("/b.zip", None)


@pytest.mark.parametrize("state", ["", "[]", "{}", '{"url": 1}', None])
def test_a_broken_state_file_starts_over(get, tmp_path, server, state):
    (tmp_path / "a.zip.part").write_bytes(b"rubbish")
    if state is not None:
        (tmp_path / "a.zip.part.json").write_text(state)
    get()
    assert (tmp_path / "a.zip").read_bytes() == BODY
    assert ranges(server) == [None]


def test_a_part_longer_than_the_file_starts_over(get, tmp_path, server):
    server.faults = [Fault(cut=20_000), Fault(status=404)]
    with pytest.raises(DownloadError):
        get()
    (tmp_path / "a.zip.part").write_bytes(bytes(60_000))
    get()
    assert (tmp_path / "a.zip").read_bytes() == BODY


def test_a_part_that_begins_elsewhere_is_refused(get, tmp_path, server):
    server.faults = [Fault(cut=20_000), Fault(shift=5)]
    with pytest.raises(DownloadError, match="asked for the bytes from 20,000 on, the server answers 'bytes 20005-"):
        get()
    assert (tmp_path / "a.zip.part").read_bytes() == BODY[:20_000]


def test_a_file_of_another_size_is_refused_at_once(get, tmp_path, server):
    with pytest.raises(DownloadError, match=r"a\.zip: expected a file of 49,999 bytes, the server has one of 50,000"):
        get(size=49_999)
    assert names(tmp_path) == []
    assert len(server.asked) == 1


def test_what_the_server_does_not_have_is_not_asked_for_twice(get, tmp_path, server):
    del server.files["/a.zip"]
    with pytest.raises(DownloadError, match=r"a\.zip: HTTP 404 Not Found"):
        get()
    assert len(server.asked) == 1
    assert names(tmp_path) == []


def test_a_refused_file_is_not_kept(get, tmp_path):
    seen = []

    def refuse(path):
        seen.append(path.read_bytes())
        raise ValueError("not this one")

    with pytest.raises(ValueError, match="not this one"):
        get(check=refuse)
    assert seen == [BODY]
    assert names(tmp_path) == []
    get(check=lambda path: seen.append(path.name))
    assert seen[1:] == ["a.zip.part"]
    assert (tmp_path / "a.zip").read_bytes() == BODY


def test_a_whole_part_is_not_fetched_again(get, tmp_path, server):
    def interrupt(path):
        raise KeyboardInterrupt(path)

    with pytest.raises(KeyboardInterrupt):
        get(check=interrupt)
    assert json.loads((tmp_path / "a.zip.part.json").read_text())["size"] == len(BODY)
    get()
    assert len(server.asked) == 1


def test_a_silent_server_is_given_up(get, server):
    server.always = Fault(drip=0.5)
    with pytest.raises(DownloadError, match=r"timed out.*Given up after 2 attempts"):
        get(timeout=0.05, retries=1)


def test_a_full_disk_is_said_before(get, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1_000))
    with pytest.raises(OSError, match=r"needs 50,000 bytes in .*, but 1,000 are free"):
        get()


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://a/b", "a.zip", "http://"])
def test_only_http(tmp_path, url):
    with pytest.raises(ValueError, match="http"):
        download(url, tmp_path / "x")


def test_nobody_there(tmp_path):
    with serve({}) as gone:
        pass
    with pytest.raises(DownloadError, match=r"refused.*Given up after 2 attempts"):
        download(f"{gone.url}/a.zip", tmp_path / "x", retries=1, backoff=0.01)
