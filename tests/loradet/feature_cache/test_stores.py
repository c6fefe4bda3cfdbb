"""Entries on disk: whole ones or none, whatever happens to the folder."""

import errno
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import safetensors.torch
import torch

from loradet.datasets.readers.file_cache import stamp
from loradet.errors import UserError
from loradet.feature_cache import stores
from loradet.feature_cache.contents import Content, image_contents
from loradet.feature_cache.layout import Layout
from loradet.feature_cache.stores import DiskStore, Key, MemoryStore
from loradet.feature_cache.views import View
from loradet.files import sha256

PLAIN, FLIPPED = View("as it is", 0, (8, 8)), View("flipped left to right", 1, (8, 8))
MAPS = {
    "net:wide": torch.randn(1, 6, 4, 4).to(memory_format=torch.channels_last),
    "net:half": torch.randn(1, 3, 2, 2).bfloat16(),
    "net:ids": torch.arange(5)[None],
}
LAYOUT = Layout.of(MAPS, None)
ENTRY = LAYOUT.tensors({name: tensor[0] for name, tensor in MAPS.items()})


def key(number, view=PLAIN):
    return Key(f"{number:064x}", view)


@pytest.fixture
def store(tmp_path):
    return DiskStore(tmp_path / "entries", "spec", LAYOUT)


def assert_whole(row):
    found = LAYOUT.batch([row, row], torch.device("cpu"))
    for name, tensor in MAPS.items():
        assert found[name][1:].equal(tensor) and found[name].dtype == tensor.dtype
        assert found[name][1:].stride()[1:] == tensor.stride()[1:]


def test_what_is_written_is_read(store):
    assert store.read(key(1)) is None and store.find(key(1)) == (False, None)
    store.write(key(1), ENTRY)
    assert_whole(store.read(key(1)))
    is_kept, row = store.find(key(1))
    assert is_kept and row.equal(store.read(key(1)))
    assert store.read(key(1, FLIPPED)) is None
    assert_whole(DiskStore(store.folder, "spec", LAYOUT).read(key(1)))


def test_memory_holds_the_same():
    memory = MemoryStore(["a", "b"], 2, LAYOUT)
    assert memory.find(Key("b", FLIPPED)) == (False, None) and memory.read(Key("b", FLIPPED)) is None
    memory.write(Key("b", FLIPPED), ENTRY)
    assert_whole(memory.read(Key("b", FLIPPED)))
    assert memory.find(Key("b", FLIPPED)) == (True, None)
    assert memory.find(Key("b", PLAIN)) == memory.find(Key("a", FLIPPED)) == (False, None)


@pytest.mark.slow
def test_data_processes_that_are_not_forked_see_what_there_is():
    memory = MemoryStore(["a"], 2, LAYOUT)
    with torch.multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_has, (memory, Key("a", FLIPPED))) is False
        memory.write(Key("a", FLIPPED), ENTRY)
        assert pool.apply(_has, (memory, Key("a", FLIPPED))) is True


def _has(memory, wanted):
    return memory.find(wanted)[0]


def test_more_memory_than_there_is_ends_in_a_line():
    with pytest.raises(UserError, match=r"where=memory: .* GB are not to be had .* take where=disk"):
        MemoryStore([str(n) for n in range(10**6)], 10**9, LAYOUT)


def damage_cases():
    yield lambda content: content[:0]
    yield lambda content: content[:-1]
    yield lambda content: b"\xff" * 8 + content[8:]
    yield lambda content: content[:8] + b"[" * 50 + content[58:]
    yield lambda content: content + b"\0"
    for place in (9, 200, -1, -60):
        yield lambda content, place=place: _flip(content, place)


def _flip(content, place):
    changed = bytearray(content)
    changed[place] ^= 4
    return bytes(changed)


@pytest.mark.parametrize("damage", list(damage_cases()))
def test_a_damaged_entry_is_none(store, damage, caplog):
    store.write(key(1), ENTRY)
    path = store.path(key(1))
    path.write_bytes(damage(path.read_bytes()))
    assert store.read(key(1)) is None
    assert f"{path} is damaged or of something else" in caplog.text
    store.write(key(1), ENTRY)
    assert_whole(store.read(key(1)))


def test_entries_of_others_are_none(store):
    store.write(key(1), ENTRY)
    path = store.path(key(1))
    path.replace(store.path(key(2)).parent / store.path(key(2)).name)
    assert store.read(key(2)) is None  # of another image
    store.write(key(1), ENTRY)
    assert DiskStore(store.folder, "another spec", LAYOUT).read(key(1)) is None
    smaller = Layout.of({name: tensor[..., :1] for name, tensor in MAPS.items()}, None)
    assert DiskStore(store.folder, "spec", smaller).read(key(1)) is None


def test_a_full_disk_leaves_what_is_there_to_be_read(store, monkeypatch, caplog):
    store.write(key(1), ENTRY)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(stores, "atomic_open", full)
    store.write(key(2), ENTRY)
    store.write(key(3), ENTRY)
    assert caplog.text.count("Features cannot be kept") == 1 and "No space left on device" in caplog.text
    assert store.read(key(2)) is None
    assert_whole(store.read(key(1)))


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOENT, errno.ESTALE])
def test_an_entry_that_cannot_be_written_leaves_the_others_to_be_kept(store, monkeypatch, caplog, number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(stores, "atomic_open", fail)
        store.write(key(1), ENTRY)
        store.write(key(3), ENTRY)
    assert caplog.text.count("Features are not kept") == 1
    assert f"Features are not kept in {store.path(key(1))} ({os.strerror(number)})" in caplog.text
    store.write(key(2), ENTRY)
    assert store.read(key(1)) is None
    assert_whole(store.read(key(2)))


def test_an_entry_is_serialised_once_and_not_waited_for(store, monkeypatch):
    saved, own = [], safetensors.torch.save
    monkeypatch.setattr("os.fsync", lambda _: pytest.fail("waited"))
    monkeypatch.setattr("safetensors.torch.save", lambda *words: saved.append(1) or own(*words))
    store.write(key(1), ENTRY)
    assert saved == [1]
    assert_whole(store.read(key(1)))


def test_a_folder_that_cannot_be_made_keeps_nothing(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    store = DiskStore(tmp_path / "file" / "entries", "spec", LAYOUT)
    store.write(key(1), ENTRY)
    assert store.read(key(1)) is None and "Features cannot be kept" in caplog.text


def test_a_killed_writer_leaves_whole_entries_and_nothing_that_stays(store):
    program = textwrap.dedent("""
        import sys, torch, loradet
        from loradet.feature_cache.stores import *
        from loradet.feature_cache.layout import Layout
        maps = {"net": torch.zeros(1, 200, 100, 10)}
        layout = Layout.of(maps, None)
        from pathlib import Path
        store = DiskStore(Path(sys.argv[1]), "spec", layout)
        entry = layout.tensors({"net": maps["net"][0]})
        for number in range(10**6):
            store.write(Key(f"{number:064x}", View("as it is", 0, (8, 8))), entry)
            if number == 3:
                print("writes", flush=True)
    """)
    process = subprocess.Popen([sys.executable, "-c", program, str(store.folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writes\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    layout = Layout.of({"net": torch.zeros(1, 200, 100, 10)}, None)
    again = DiskStore(store.folder, "spec", layout)
    there = [key(number) for number in range(10**4) if again.path(key(number)).is_file()]
    assert len(there) >= 4 and all(again.read(one) is not None for one in there)
    (abandoned,) = [again.path(there[0]).parent / f".{again.path(there[0]).name}.abc.tmp"]
    abandoned.write_bytes(b"half")
    DiskStore(store.folder, "spec", layout)
    assert abandoned.is_file()  # another run may have begun it just now
    for file in store.folder.rglob("*.tmp"):
        os.utime(file, (0, 0))
    DiskStore(store.folder, "spec", layout)
    assert not list(store.folder.rglob("*.tmp"))


def test_hashes_are_of_the_content_and_remembered(tmp_path, monkeypatch):
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]))
    names = [str(file) for file in files]
    found = image_contents([*names, names[0], str(tmp_path / "absent.png")], tmp_path / "cache")
    one = Content(sha256(names[0]), stamp(names[0]))
    assert image_contents([names[0], str(tmp_path)], tmp_path / "cache") == {names[0]: one}
    assert found == {name: Content(sha256(name), stamp(name)) for name in names}
    read = []
    monkeypatch.setattr("loradet.feature_cache.contents.sha256", lambda file: read.append(str(file)) or "anew")
    again = [*names, str(tmp_path / "absent.png")]
    assert image_contents(again, tmp_path / "cache") == found and not read
    files[1].write_bytes(b"another size")
    assert not found[names[1]].is_still_in(names[1]) and found[names[0]].is_still_in(names[0])
    assert image_contents(again, tmp_path / "cache")[names[1]].name == "anew"
    assert read == [names[1]]


def test_hashes_do_without_their_file(tmp_path, caplog):
    (tmp_path / "cache").write_text("")
    found = image_contents([__file__], tmp_path / "cache")
    assert found == {__file__: Content(sha256(__file__), stamp(__file__))}
    assert "Hashes of images are not kept" in caplog.text
