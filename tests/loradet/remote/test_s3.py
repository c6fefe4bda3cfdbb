"""Objects of S3: the protocol is moto's."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")

from helpers.s3_server import BUCKET, S3, objects, s3_server, store

from loradet.errors import UserError
from loradet.remote import MissingObjectError, RemoteError, UnreachableError
from loradet.remote.cache import Cache
from loradet.remote.folder import RemoteFolder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def running() -> Iterator[S3]:
    with s3_server() as server:
        yield server


@pytest.fixture
def server(running: S3) -> Iterator[S3]:
    yield running
    running.fault = lambda *_: None


@pytest.fixture
def folder(server: S3, request) -> RemoteFolder:
    assert server.asked, "it made the bucket"
    return RemoteFolder(f"s3://{BUCKET}/{request.node.name}")


def name_of(folder: RemoteFolder) -> str:
    return folder.url.removeprefix(f"s3://{BUCKET}/")


def test_an_object_is_fetched_anew_where_it_has_changed_also_behind_a_listing(folder, tmp_path: Path):
    import s3fs

    cache, url = Cache(tmp_path / "cache", None), f"{folder.url}/a/weights.pth"
    folder.put("a/weights.pth", b"first ")
    other = s3fs.S3FileSystem()  # one that keeps listings, as a notebook's would be
    assert other.ls(f"{folder.url}/a") and other.info(url)["size"] == 6
    assert cache.get(url).path.read_bytes() == b"first "
    store().pipe_file(url, b"second")
    store().pipe_file(f"{folder.url}/a/new.pth", b"new")
    assert other.exists(f"{folder.url}/a/new.pth") is False, "s3fs is up to date now: this test is about nothing"
    assert cache.get(url).path.read_bytes() == b"second"
    assert cache.get(f"{folder.url}/a/new.pth").path.read_bytes() == b"new"
    assert folder.read("a/new.pth") == b"new"


def test_an_object_goes_there_and_back(folder, tmp_path: Path):
    content = os.urandom(17 << 20)  # more than a part
    (tmp_path / "large").write_bytes(content)
    for name, what in {"large": tmp_path / "large", "sub/small": b"small", "empty": b""}.items():
        folder.put(name, what)
    assert folder.size("large") == len(content) and folder.size("none") is None and folder.size("sub") is None
    assert folder.fetch("large", tmp_path / "new" / "back") and (tmp_path / "new" / "back").read_bytes() == content
    assert folder.read("sub/small") == b"small" and folder.read("empty") == b"" and folder.read("none") is None
    assert not folder.fetch("none", tmp_path / "none") and not (tmp_path / "none").exists()
    folder.remove("empty")
    folder.remove("empty")
    assert objects(name_of(folder)).keys() == {"large", "sub/small"}


def pending() -> list:
    return store().call_s3("list_multipart_uploads", Bucket=BUCKET).get("Uploads", [])


@pytest.mark.parametrize("fault", [500, "close", 403])
def test_an_upload_that_fails_half_way_leaves_the_good_object(fault, folder, server, tmp_path: Path):
    folder.put("model.pth", b"good")
    (tmp_path / "large").write_bytes(bytes(17 << 20))
    server.fault = lambda method, path: fault if method == "PUT" and "partNumber=2" in path else None
    with pytest.raises(RemoteError, match=r"model.pth cannot be written") as caught:
        folder.put("model.pth", tmp_path / "large")
    assert "\n" not in str(caught.value)
    assert any("partNumber=1" in asked for asked in server.asked)
    assert objects(name_of(folder)) == {"model.pth": b"good"} and not pending()
    server.fault = lambda *_: None
    folder.put("model.pth", tmp_path / "large")
    assert folder.size("model.pth") == 17 << 20


def test_a_file_that_cannot_be_read_to_its_end_leaves_the_good_object(folder):
    folder.put("model.pth", b"good")
    with pytest.raises(RemoteError, match="cannot be written"):
        folder.put("model.pth", Path("/proc/self/mem"))
    assert folder.read("model.pth") == b"good"


_PUT = "import sys; from pathlib import Path; from loradet.remote.folder import RemoteFolder; "
_PUT += "RemoteFolder(sys.argv[1]).put('model.pth', Path(sys.argv[2]))"


def test_a_process_that_is_killed_half_way_leaves_the_good_object(folder, server, tmp_path: Path):
    folder.put("model.pth", b"good")
    (tmp_path / "large").write_bytes(bytes(17 << 20))
    process: list[subprocess.Popen] = []

    def kill(method: str, path: str) -> str | None:
        if method == "PUT" and "partNumber=2" in path:
            process[0].kill()
            return "close"
        return None

    server.fault = kill
    process.append(subprocess.Popen([sys.executable, "-c", _PUT, folder.url, tmp_path / "large"]))
    assert process[0].wait(60) == -9
    assert folder.read("model.pth") == b"good"


@pytest.mark.parametrize(
    ("url", "kind", "said"),
    [
        (f"s3://{BUCKET}/none.pth", MissingObjectError, "there is no such object"),
        ("s3://no-such-bucket/a.pth", MissingObjectError, "there is no such bucket"),
        ("gs://bucket/a.pth", RemoteError, "needs a package that is not installed: Please install gcsfs"),
    ],
)
@pytest.mark.usefixtures("server")
def test_what_is_not_there(url, kind, said, tmp_path):
    with pytest.raises(kind, match=said) as caught:
        Cache(tmp_path, None).get(url)
    assert url in str(caught.value) and "\n" not in str(caught.value)


def test_no_rights(folder, server, tmp_path):
    folder.put("a.pth", b"a")
    server.fault = lambda *_: 403
    with pytest.raises(RemoteError, match=r"a.pth cannot be read: not allowed"):
        Cache(tmp_path, None).get(f"{folder.url}/a.pth")
    with pytest.raises(RemoteError, match=r"a.pth cannot be written: not allowed"):
        folder.put("a.pth", b"b")


def test_no_credentials_and_no_server(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UnreachableError, match=r"does not answer .*AWS_ENDPOINT_URL=http://127.0.0.1:9 names it"):
        RemoteFolder(folder.url).read("a")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"no credentials .*AWS_ACCESS_KEY_ID"):
        RemoteFolder(folder.url).read("a")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("runs/mine", "is no URL"),
        ("s3://bucket", "expected a name behind the bucket"),
        ("https://host/a", "cannot be written"),
        ("hf://me/mine", "cannot be written"),
        ("nothing://a/b", "no protocol nothing:// is known"),
    ],
)
def test_where_no_folder_can_be(url, said):
    with pytest.raises(RemoteError, match=said):
        RemoteFolder(url)
