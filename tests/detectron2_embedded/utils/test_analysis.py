"""Counts of parameters and operations, against counts by hand."""

import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.analysis import (
    FlopCountAnalysis,
    activation_count_operators,
    find_unused_parameters,
    flop_count_operators,
    parameter_count,
    parameter_count_table,
)
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*")


class Detector(nn.Module):
    """Takes and returns what detectors do."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, batch: list[dict]) -> list[dict]:
        results = []
        for sample in batch:
            features = self.norm(self.conv(sample["image"][None].float())).mean(dim=(2, 3))
            instances = Instances((sample.get("height", 4), sample.get("width", 4)))
            instances.pred_boxes = Boxes(self.head(features))
            results.append({"instances": instances})
        return results


@pytest.mark.parametrize("size", [(6, 9), (4, 5)])
def test_flops(size: tuple[int, int]) -> None:
    model = Detector().eval()
    batch = [{"image": torch.zeros(3, *size)}]
    conv, norm = size[0] * size[1] * 8 * 27, size[0] * size[1] * 8 * 2
    counted = FlopCountAnalysis(model, batch)
    assert counted.total() == conv + norm + 32
    by_operator = flop_count_operators(model, batch)
    assert by_operator["conv"] == pytest.approx(conv / 1e9)
    assert by_operator["linear"] == pytest.approx(32 / 1e9)
    activations = activation_count_operators(model, batch)
    assert activations["conv"] == pytest.approx(8 * size[0] * size[1] / 1e6)


@pytest.mark.subset  # Detectron2 0.6 counts batch norms, one image, and no numbers beside it
def test_flops_of_what_evaluation_gives_a_model() -> None:
    model = Detector().eval()
    batch = [{"image": torch.zeros(3, 4, 5), "height": 60, "width": 90, "file_name": "a.jpg"}] * 2
    conv = 2 * 20 * 8 * 27
    assert FlopCountAnalysis(model, batch).by_module()["model.conv"] == conv
    assert flop_count_operators(model, batch) == pytest.approx({"conv": conv / 1e9, "linear": 64 / 1e9})
    assert activation_count_operators(model, batch)["conv"] == pytest.approx(2 * 8 * 20 / 1e6)


def test_mode_is_restored_and_gradients_are_not_needed() -> None:
    model = Detector().train()
    before = model.norm.running_mean.clone()
    flop_count_operators(model, [{"image": torch.ones(3, 4, 4)}])
    assert model.training
    assert torch.equal(model.norm.running_mean, before)


def test_inputs_with_instances() -> None:
    class Refiner(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, image: torch.Tensor, proposals: list[Instances]) -> torch.Tensor:
            return self.fc(proposals[0].proposal_boxes.tensor) + image.mean()

    proposals = Instances((4, 4))
    proposals.proposal_boxes = Boxes(torch.zeros(3, 4))
    assert FlopCountAnalysis(Refiner(), (torch.ones(2), [proposals])).total() == 3 * 16


def test_parameter_count() -> None:
    model = Detector()
    counts = parameter_count(model)
    assert counts[""] == sum(p.numel() for p in model.parameters())
    assert counts["head"] == 36
    assert "head.weight" in parameter_count_table(model)


def test_activations_of_more_operators() -> None:
    model = Detector().eval()
    batch = [{"image": torch.zeros(3, 4, 5)}]

    def of_its_output(_inputs: list, outputs: list) -> int:
        return outputs[0].type().sizes()[1]

    counted = activation_count_operators(model, batch, supported_ops={"aten::mean": of_its_output})
    assert counted["mean"] == pytest.approx(8 / 1e6)
    assert counted["conv"] == pytest.approx(8 * 20 / 1e6)
    with pytest.raises(TypeError):
        activation_count_operators(model, batch, nonsense=1)


class Partly(nn.Module):
    def __init__(self, as_dict: bool):
        super().__init__()
        self.used = nn.Linear(2, 1)
        self.unused = nn.Linear(2, 1)
        self.as_dict = as_dict

    def forward(self, x: torch.Tensor, factor: float = 1.0) -> dict[str, torch.Tensor] | torch.Tensor:
        loss = self.used(x).sum() * factor
        return {"loss": loss, "other": loss * 2} if self.as_dict else loss


@pytest.mark.parametrize("as_dict", [True, False])
@pytest.mark.parametrize("inputs", [torch.ones(1, 2), (torch.ones(1, 2), 3.0)])
def test_unused_parameters(as_dict: bool, inputs: torch.Tensor | tuple) -> None:
    model = Partly(as_dict)
    model.unused.weight.grad = torch.ones(1, 2)
    assert find_unused_parameters(model, inputs) == ["unused.weight", "unused.bias"]
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(AssertionError):
        find_unused_parameters(model.eval(), inputs)
