"""How processes find each other: all of them, or one line that says who has not come."""

import socket
import threading

import pytest
import torch
from helpers.launched import free_port

from loradet.errors import UserError
from loradet.training.meeting import JOIN_TIMEOUT, join_timeout, meet


def test_all_meet_and_share_a_store():
    port, stores = free_port(), {}

    def come(rank):
        stores[rank] = meet("localhost", port, rank=rank, count=3, name="run")

    threads = [threading.Thread(target=come, args=(rank,)) for rank in (2, 1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    stores[2].set("found", "by all")
    assert [stores[rank].get("found") for rank in range(3)] == [b"by all"] * 3


def test_who_has_not_come_is_named(monkeypatch, capfd):
    monkeypatch.setenv(JOIN_TIMEOUT, "0.3")
    with pytest.raises(UserError, match=rf"2 of 3 processes did not come \(1, 2\) within 0\.3 s\. .*{JOIN_TIMEOUT}"):
        meet("localhost", free_port(), rank=0, count=3, name="run")
    with pytest.raises(UserError, match=r"Process 0 of 2 is not at localhost:\d+ within 0\.3 s\."):
        meet("localhost", free_port(), rank=1, count=2, name="run")
    with pytest.raises(UserError, match=r"Process 0 of 2 is not at no\.such\.host\.invalid:1 within 0\.3 s\."):
        meet("no.such.host.invalid", 1, rank=1, count=2, name="run")
    assert capfd.readouterr().err == ""  # torch's own words would be pages


def test_a_port_that_is_taken_is_named(monkeypatch):
    monkeypatch.setenv(JOIN_TIMEOUT, "5")
    taken = torch.distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    with pytest.raises(UserError, match=rf"Port {taken.port} of {socket.gethostname()}, .*is taken.*MASTER_PORT"):
        meet("localhost", taken.port, rank=0, count=2, name="run")


@pytest.mark.parametrize("text", ["soon", "0", "-1", "inf", "nan"])
def test_a_time_that_is_none_is_named(monkeypatch, text):
    monkeypatch.setenv(JOIN_TIMEOUT, text)
    with pytest.raises(UserError, match=f"{JOIN_TIMEOUT}={text}: expected seconds"):
        join_timeout()
