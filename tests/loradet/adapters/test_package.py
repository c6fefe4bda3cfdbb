import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.adapter_nets import Detector, randomize_deltas, seeded
from torch import nn

import loradet.adapters
from loradet.adapters import freeze, lora


def test_the_package_stands_on_torch_and_safetensors_alone():
    code = (
        "import sys, loradet; before = set(sys.modules); from loradet.adapters import *; "
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert not {"detectron2", "timm", "torchvision", "fvcore", "omegaconf", "cv2"} & set(done.stdout.split())
    for file in Path(loradet.adapters.__file__).parent.glob("*.py"):
        for line in file.read_text().splitlines():
            if line.startswith(("from loradet", "import loradet")):
                own = (
                    "adapters",
                    "errors",
                    "files",
                    "json_kinds",
                    "lazy",
                    "remote",
                    "run_folder",
                    "tensors",
                    "wording",
                )
                assert line.startswith((*(f"from loradet.{name}" for name in own), "from loradet import __version__"))


def _step(rank: int, port_file: str, queue) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(port_file, 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    model = seeded(0, Detector)
    model.backbone.bottom_up = lora(freeze(model.backbone.bottom_up), ["fc1", "conv_dw"], 2, 4.0, dropout=0.2)
    randomize_deltas(model).train()
    wrapped = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    torch.manual_seed(rank)
    with torch.autocast("cpu", torch.bfloat16):
        loss = wrapped(torch.randn(2, 3, 16, 16))["loss"]
    loss.backward()
    queue.put({name: p.grad.tolist() for name, p in model.named_parameters() if p.grad is not None})
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_data_parallel_training_averages_the_gradients_of_all_that_trains(tmp_path):
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    processes = [context.Process(target=_step, args=(rank, str(tmp_path / "store"), queue)) for rank in (0, 1)]
    for process in processes:
        process.start()
    gradients = [queue.get() for _ in processes]
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert gradients[0] == gradients[1]
    assert {n.rpartition(".")[2] for n in gradients[0] if "bottom_up" in n} == {"lora_a", "lora_b"}
    assert any(name.startswith("head.") for name in gradients[0])
