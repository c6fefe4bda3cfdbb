"""The selective scan and its neighbours against numbers recorded from the official code."""

import pytest
import torch
from helpers.vim_golden import Recorded, close
from torch.nn import functional as F

from loradet.backbones import selective_scan
from loradet.backbones.mamba_mixer import BidirectionalMambaMixer, RMSNorm, VisionMambaBlock

pytestmark = pytest.mark.golden


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 8])
def test_scan(golden_root, chunk_size):
    file = Recorded(golden_root / "vim" / "selective_scan.npz")
    assert file.config
    for case in file.config:
        name = case["name"]
        inputs = {key: file[f"{name}/in/{key}"].clone().requires_grad_() for key in case["given"]}
        assert list(inputs["B"].shape) == case["shape_of_B_and_C"]
        y, state = selective_scan(
            **inputs, delta_softplus=case["delta_softplus"], return_last_state=True, chunk_size=chunk_size
        )
        (y * file[f"{name}/in/cotangent"]).sum().backward()
        half = case["dtype"] == "float16"
        forward = dict(atol=4e-3, rtol=4e-3) if half else dict(atol=1e-4, rtol=1e-4)
        backward = dict(atol=1e-2, rtol=1e-2) if half else dict(atol=2e-4, rtol=1e-3)
        message = f"{name}: {{}}".format
        torch.testing.assert_close(y, file[f"{name}/out"], msg=message, **forward)
        torch.testing.assert_close(state, file[f"{name}/last_state"], msg=message, **forward)
        for key, x in inputs.items():
            torch.testing.assert_close(x.grad, file[f"{name}/grad/{key}"], msg=f"{name} {key}: {{}}".format, **backward)


@pytest.mark.parametrize("case", ["divide", "no_divide"])
def test_mixer(golden_root, case):
    file = Recorded(golden_root / "vim" / "mixer.npz")
    sizes = file.config
    mixer = BidirectionalMambaMixer(
        dim=sizes["d_model"],
        state_size=sizes["d_state"],
        conv_width=sizes["d_conv"],
        expand=sizes["expand"],
        dt_rank=sizes["dt_rank"],
        divide_out=case == "divide",
    )
    mixer.load_state_dict(file.below("w/"))
    x = file["in/x"].clone().requires_grad_()
    y = mixer(x)
    close(y, file[f"{case}/out"])
    (y * file["in/cotangent"]).sum().backward()
    gradients = {"in/x": x.grad, **{name: p.grad for name, p in mixer.named_parameters()}}
    expected = file.below(f"{case}/grad/")
    assert gradients.keys() == expected.keys()
    total = sum(float(x.square().sum()) for name, x in expected.items() if name != "in/x") ** 0.5
    for name, gradient in gradients.items():
        tolerance = dict(atol=1e-3, rtol=1e-3) if name == "in/x" else dict(atol=1e-5 * total, rtol=0)
        torch.testing.assert_close(gradient, expected[name], msg=f"{name}: {{}}".format, **tolerance)


def test_rms_norm(golden_root):
    file = Recorded(golden_root / "vim" / "pieces.npz")
    for case in ("rms_norm", "rms_norm_small"):
        norm = RMSNorm(len(file[f"{case}/in/weight"]), eps=file.config["eps"])
        norm.load_state_dict({"weight": file[f"{case}/in/weight"]})
        x = file[f"{case}/in/x"]
        if case == "rms_norm_small":
            torch.testing.assert_close(norm(x), file[f"{case}/out"], atol=0, rtol=1e-4)
            continue
        block = VisionMambaBlock(mixer=torch.nn.Identity(), norm=norm)
        for residual, suffix in ((file[f"{case}/in/residual"], ""), (None, "_without_residual")):
            out, out_residual = block(x, residual)
            close(out, file[f"{case}/out{suffix}"])
            close(out_residual, file[f"{case}/out_residual{suffix}"])


def test_causal_convolution(golden_root):
    file = Recorded(golden_root / "vim" / "pieces.npz")
    for i, sizes in enumerate(file.config["conv"]):
        mixer = BidirectionalMambaMixer(dim=sizes["dim"], expand=1, conv_width=sizes["width"])
        mixer.conv1d.load_state_dict(
            {"weight": file[f"conv/{i}/in/weight"].unsqueeze(1), "bias": file[f"conv/{i}/in/bias"]}
        )
        plain = mixer.causal_convolution(file[f"conv/{i}/in/x"], mixer.conv1d)
        close(plain, file[f"conv/{i}/out_plain"])
        close(F.silu(plain), file[f"conv/{i}/out_silu"])
