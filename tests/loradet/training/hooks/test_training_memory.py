"""Peak memory of training leaves out what runs in between, where the device can tell."""

import pytest
import torch

from loradet.training.hooks.memory import TrainingMemory, peak_memory_mb


def test_on_the_cpu_it_is_what_the_process_ever_held():
    memory = TrainingMemory()
    before = memory.peak_mb()
    with memory.left_out():
        held = torch.ones(64 * 2**20, dtype=torch.uint8)
    assert memory.peak_mb() == peak_memory_mb() >= before > 50
    assert held.sum() == 64 * 2**20


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_on_cuda_blocks_do_not_count():
    torch.cuda.reset_peak_memory_stats()
    memory = TrainingMemory()
    kept = torch.ones(16 * 2**20, dtype=torch.uint8, device="cuda")
    trained = memory.peak_mb()
    with memory.left_out():
        del_me = torch.ones(256 * 2**20, dtype=torch.uint8, device="cuda")
        del del_me
    assert memory.peak_mb() == trained
    more = torch.ones(32 * 2**20, dtype=torch.uint8, device="cuda")
    assert memory.peak_mb() >= trained + 31
    del kept, more
