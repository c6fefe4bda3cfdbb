"""Locks that one process holds, and that are free when it is gone."""

import multiprocessing
import os
import subprocess
import sys

import pytest

from loradet.locking import LockedError, file_lock, holder


def test_who_does_not_wait_is_told_who_holds_it(tmp_path):
    path = tmp_path / "new" / ".lock"
    with file_lock(path, "the run"):
        message = f"Process {os.getpid()} works on the run"
        with pytest.raises(LockedError, match=message) as held, file_lock(path, "the run", wait=False):
            pass
        assert held.value.holder == holder(path) == str(os.getpid())
    assert holder(path) is None
    with file_lock(path, "the run", wait=False):
        assert holder(path) == str(os.getpid())


def test_a_forked_child_has_no_part_in_it(tmp_path):
    path, context = tmp_path / ".lock", multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    with file_lock(path, "the run"):
        child = context.Process(target=lambda: (ready.set(), done.wait(60)))
        child.start()
        assert ready.wait(60)
    assert child.is_alive() and holder(path) is None
    done.set()
    child.join()


def test_a_child_that_is_given_the_file_keeps_it(tmp_path):
    path = tmp_path / ".lock"
    with file_lock(path, "the run") as file:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(file.fileno(),))
    assert holder(path) is not None
    child.communicate(b"\n")
    assert holder(path) is None
