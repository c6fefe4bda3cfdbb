"""The selective scan against the recurrence, step by step in float64, and what training asks of it."""

# ruff: noqa: N803 (A, B and C are the names of the paper)

import importlib
import json
import logging
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers.paths import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

from loradet.backbones import selective_scan
from loradet.backbones.selective_scan_chunked import chunked_scan
from loradet.benchmarks.scan import BASELINES, benchmark_scan, random_inputs

module = importlib.import_module("loradet.backbones.selective_scan")
TOOL = ROOT / "tools" / "benchmark_scan.py"


def step_by_step(u, delta, A, B, C) -> Tensor:
    """The recurrence as it is written, in float64: (B, D, L), (B, D, L), (D, N), (B, N, L), (B, N, L) → (B, D, L)."""
    u, delta, A, B, C = (x.double() for x in (u, delta, A, B, C))
    h = u.new_zeros(u.shape[0], *A.shape)
    y = []
    for t in range(u.shape[2]):
        d = delta[:, :, t, None]
        h = torch.exp(d * A) * h + d * B[:, None, :, t] * u[:, :, t, None]
        y.append((h * C[:, None, :, t]).sum(2))
    return torch.stack(y, 2)


def inputs_of(batch=2, channels=4, state=3, length=13, *, step=1.0, decay=1.0, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator, dtype=dtype)

    u, B, C = (uniform(*s) * 2 - 1 for s in ((batch, channels, length), *[(batch, state, length)] * 2))
    return [u, uniform(batch, channels, length) * step, -uniform(channels, state) * decay, B, C]


def value_and_gradients(scan, inputs) -> list[Tensor]:
    inputs = [x.detach().requires_grad_() for x in inputs]
    y = scan(*inputs)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), inputs)]


def assert_equal_to_1e5(actual: list[Tensor], expected: list[Tensor]) -> None:
    for x, y in zip(actual, expected, strict=True):
        assert torch.isfinite(x).all()
        torch.testing.assert_close(x.double(), y.double(), rtol=0, atol=1e-5 * max(1.0, y.abs().max().item()))


@settings(max_examples=60, deadline=None)
@given(
    chunk=st.integers(1, 40),
    offset=st.sampled_from([None, -1, 0, 1]),
    length=st.integers(1, 90),
    batch=st.integers(1, 3),
    step=st.sampled_from([1e-3, 0.3, 5.0]),
    decay=st.sampled_from([1e-3, 1.0, 50.0]),
    seed=st.integers(0, 1000),
)
def test_equals_the_recurrence(chunk, offset, length, batch, step, decay, seed):
    length = length if offset is None else max(1, chunk + offset)
    inputs = inputs_of(batch, 3, 2, length, step=step, decay=decay, seed=seed)
    actual = value_and_gradients(lambda *x: selective_scan(*x, chunk_size=chunk), inputs)
    assert_equal_to_1e5(actual, value_and_gradients(step_by_step, inputs))


def test_a_long_sequence_by_default_chunks():
    inputs = inputs_of(1, 8, 4, 1111, step=0.1)
    assert_equal_to_1e5(value_and_gradients(selective_scan, inputs), value_and_gradients(step_by_step, inputs))


@pytest.mark.parametrize(("step", "decay"), [(1.0, 1e4), (1e3, 1.0), (1e3, 1e6), (30.0, 30.0)])
def test_large_delta_times_a(step, decay):
    inputs = inputs_of(length=200, step=step, decay=decay)
    inputs[1][..., 50:150:7] = 0  # and steps that do not decay at all between those that forget everything
    actual = value_and_gradients(lambda *x: selective_scan(*x, chunk_size=64), inputs)
    assert_equal_to_1e5(actual, value_and_gradients(step_by_step, inputs))


@pytest.mark.parametrize(("length", "chunk"), [(1, 4), (7, 3), (18, 10), (11, 20)])
def test_gradients_in_float64(length, chunk):
    inputs = [x.requires_grad_() for x in inputs_of(2, 2, 1, length, dtype=torch.float64)]
    assert torch.autograd.gradcheck(
        lambda *x: selective_scan(*x, delta_softplus=True, return_last_state=True, chunk_size=chunk), inputs
    )


def test_skip_gate_and_step_bias():
    u, delta, A, B, C = inputs_of()
    D, bias, z = torch.randn(4), torch.randn(4), torch.randn_like(u)
    y = selective_scan(u, delta, A, B, C, D, z, bias, delta_softplus=True)
    expected = step_by_step(u, F.softplus(delta + bias[:, None]), A, B, C) + D[:, None] * u
    torch.testing.assert_close(y, (expected * F.silu(z)).float(), rtol=1e-5, atol=1e-5)


def test_groups_of_b_beside_a_constant_c():
    u, delta, A, *_ = inputs_of(channels=4, state=3, length=11)
    B, C = torch.randn(2, 2, 3, 11), torch.randn(4, 3)
    y = selective_scan(u, delta, A, B, C)
    for d in range(4):
        constant = C[d].expand(2, -1).unsqueeze(2).expand(-1, -1, 11)
        one = step_by_step(u[:, d : d + 1], delta[:, d : d + 1], A[d : d + 1], B[:, d // 2], constant)
        torch.testing.assert_close(y[:, d : d + 1], one.float(), rtol=1e-5, atol=1e-5)


def test_computes_in_float32_under_autocast():
    inputs = inputs_of(length=50)
    expected = value_and_gradients(selective_scan, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        actual = value_and_gradients(selective_scan, inputs)
    for x, y in zip(actual, expected):
        assert torch.equal(x, y)


def test_half_precision_is_rounded_only_at_the_ends():
    u, delta, A, B, C = inputs_of(length=300, step=0.05)
    low = [x.bfloat16() for x in (u, delta, B, C)]
    y, state = selective_scan(low[0], low[1], A, *low[2:], return_last_state=True)
    expected = step_by_step(low[0], low[1], A, *low[2:])
    assert y.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    torch.testing.assert_close(y.double(), expected, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_into_one_graph(backend):
    torch.compiler.reset()
    compiled = torch.compile(
        lambda *x: selective_scan(*x, chunk_size=8).sin(), backend=backend, fullgraph=True, dynamic=True
    )
    for length in (20, 7, 33):
        inputs = inputs_of(length=length)
        expected = value_and_gradients(lambda *x: selective_scan(*x, chunk_size=8).sin(), inputs)
        assert_equal_to_1e5(value_and_gradients(compiled, inputs), expected)
    torch.compiler.reset()
    compiled = torch.compile(selective_scan, backend=backend, fullgraph=True)
    assert_equal_to_1e5(value_and_gradients(compiled, inputs), value_and_gradients(selective_scan, inputs))


def test_the_operator_is_what_torch_expects_of_one():
    inputs = [torch.rand(2, 9, 1, 4), torch.rand(2, 9, 1, 4), -torch.rand(1, 3, 4), *torch.randn(2, 2, 9, 1, 3)]
    for keep in (False, True):
        torch.library.opcheck(chunked_scan, (*(x.clone().requires_grad_(keep) for x in inputs), 4, keep))


def test_gradient_checkpointing():
    inputs = inputs_of(length=40)
    expected = value_and_gradients(selective_scan, inputs)
    actual = value_and_gradients(lambda *x: checkpoint(selective_scan, *x, use_reentrant=False), inputs)
    for x, y in zip(actual, expected):
        assert torch.equal(x, y)


def test_threads_are_as_they_were():
    inputs = [x.requires_grad_() for x in inputs_of(1, 8, 4, 400)]
    expected = selective_scan(*inputs).detach()
    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(3) as pool:
            for y in pool.map(lambda _: selective_scan(*inputs), range(12)):
                assert torch.equal(y, expected)
                y.sum().backward()
        assert torch.get_num_threads() == 2
        with pytest.raises(RuntimeError):
            chunked_scan(*by_step(inputs)[:4], torch.ones(1, 1, 1, 1), 16, False)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def saved_bytes(scan, inputs) -> int:
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.nbytes) or x, lambda x: x):
        scan(*inputs)
    return sum(sizes)


def test_keeps_nothing_without_gradients():
    inputs = inputs_of(length=64)
    assert saved_bytes(selective_scan, inputs) == 0  # frozen: nothing asks for a gradient
    training = [x.requires_grad_() for x in inputs]
    assert saved_bytes(selective_scan, training) > 0
    with torch.no_grad():
        assert saved_bytes(selective_scan, training) == 0
        assert chunked_scan(*by_step(training), 8, False)[2].numel() == 0


def by_step(inputs) -> list[Tensor]:
    """The operator's layout of (B, D, L) inputs."""
    u, delta, A, B, C = inputs
    return [*(x.transpose(1, 2).unsqueeze(2) for x in (u, delta)), A.t()[None], *(x.mT.unsqueeze(2) for x in (B, C))]


def peak_bytes(run) -> int:
    """Most memory held at once by what `run` allocates."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    assert events
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@pytest.mark.parametrize("backward", [False, True])
def test_memory_does_not_grow_with_states_times_length(backward):
    channels, chunk, state = 32, 16, 64

    def peak(length: int, scan=selective_scan, **options) -> int:
        inputs = [x.requires_grad_(backward) for x in inputs_of(1, channels, state, length)]

        def run():
            y = scan(*inputs, **options)
            if backward:
                y.sum().backward()

        return peak_bytes(run)

    short, long = (peak(length, chunk_size=chunk) for length in (256, 1024))
    written_out = 4 * channels * state  # bytes a step of one tensor that holds every state
    grown = (long - short) / (1024 - 256)
    assert grown < written_out / (3 if backward else 10)
    # The same measure does see a scan that holds them all.
    assert peak(256, lambda *x: torch.einsum("bdl,dn->bdln", x[1], x[2]).exp().sum()) >= written_out * 256


def test_wrong_arguments_are_named():
    u, delta, A, B, C = inputs_of(channels=4, state=3, length=13)
    with pytest.raises(ValueError, match=r"delta \(2, 4, 12\)"):
        selective_scan(u, delta[..., :12], A, B, C)
    with pytest.raises(ValueError, match=r"A \(3, 3\); expected \(4, N\)"):
        selective_scan(u, delta, A[:3], B, C)
    with pytest.raises(ValueError, match=r"B \(2, 2, 13\); expected \(2, 3, 13\)"):
        selective_scan(u, delta, A, B[:, :2], C)
    with pytest.raises(ValueError, match="divide 4 channels"):
        selective_scan(u, delta, A, B, torch.randn(2, 3, 3, 13))
    with pytest.raises(ValueError, match="chunk_size=0"):
        selective_scan(u, delta, A, B, C, chunk_size=0)
    with pytest.raises(ValueError, match=r"implementation='fast'.*auto, chunked, mamba_ssm"):
        selective_scan(u, delta, A, B, C, implementation="fast")
    with pytest.raises(ValueError, match="L of at least 1"):
        selective_scan(u[..., :0], delta[..., :0], A, B[..., :0], C[..., :0])


@pytest.fixture
def fresh_choice():
    caches = (module._chosen, module._mamba_ssm_kernel)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def fake_mamba_ssm(monkeypatch, kernel) -> None:
    interface = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = kernel
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)


@pytest.mark.usefixtures("fresh_choice")
def test_without_mamba_ssm(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    with caplog.at_level(logging.INFO):
        assert [module.chosen_implementation("cuda") for _ in range(2)] == ["chunked"] * 2
        assert module.chosen_implementation("cpu") == "chunked"
    assert len(caplog.messages) == 2  # once for each kind of device
    assert "cuda: chunked" in caplog.messages[0]
    assert "mamba_ssm" in caplog.messages[0]
    with pytest.raises(ImportError, match="mamba_ssm"):
        selective_scan(*inputs_of(), implementation="mamba_ssm")


@pytest.mark.usefixtures("fresh_choice")
def test_with_mamba_ssm(monkeypatch, caplog):
    calls = []

    def kernel(*arguments, **options):
        calls.append(arguments)
        return selective_scan(*arguments, **options, implementation="chunked")

    fake_mamba_ssm(monkeypatch, kernel)
    with caplog.at_level(logging.INFO):
        assert module.chosen_implementation("cuda") == "mamba_ssm"
    assert "cuda: mamba_ssm" in caplog.messages[0]
    assert module.chosen_implementation("cpu") == "chunked"

    u, delta, A, B, C = inputs_of()
    D, z, bias = torch.randn(4), torch.randn_like(u), torch.randn(4)
    arguments = (u.bfloat16(), delta, A, B, C, D, z, bias, True, True)
    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "is_cuda", True, raising=False)
        actual = selective_scan(*arguments, implementation="mamba_ssm")
    # The kernel wants one type for all that has a length, and float32 for the rest.
    low, full = torch.bfloat16, torch.float32
    assert [x.dtype for x in calls[0]] == [low, low, full, low, low, full, low, full]
    for x, y in zip(actual, selective_scan(*arguments)):
        torch.testing.assert_close(x.float(), y.float(), rtol=5e-2, atol=5e-2)


@pytest.mark.usefixtures("fresh_choice")
def test_no_argument_is_ignored_where_mamba_ssm_is_installed(monkeypatch):
    fake_mamba_ssm(monkeypatch, lambda *_, **__: pytest.fail("the kernel was called"))
    inputs = inputs_of()
    with pytest.raises(ValueError, match=r"chunk_size=4 with implementation='mamba_ssm'.*implementation='chunked'"):
        selective_scan(*inputs, implementation="mamba_ssm", chunk_size=4)
    with pytest.raises(ValueError, match=r"'mamba_ssm' runs on CUDA alone, and the tensors are on cpu"):
        selective_scan(*inputs, implementation="mamba_ssm")
    # A chunk size chooses the scan that has chunks.
    monkeypatch.setattr(module, "chosen_implementation", lambda _: "mamba_ssm")
    monkeypatch.setattr(Tensor, "is_cuda", True, raising=False)
    torch.testing.assert_close(selective_scan(*inputs, chunk_size=4), step_by_step(*inputs).float())


@pytest.mark.gpu
@pytest.mark.parametrize("implementation", ["chunked", "mamba_ssm"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_on_cuda(implementation, dtype, tolerance):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if implementation == "mamba_ssm":
        pytest.importorskip("mamba_ssm")
    inputs = random_inputs(2, 64, 16, 777)
    expected = BASELINES["written-out"](**{name: x.double() for name, x in inputs.items()})
    on_gpu = {name: x.cuda().to(x.dtype if name in "AD" else dtype) for name, x in inputs.items()}
    y = selective_scan(**on_gpu, delta_softplus=True, implementation=implementation)
    assert (y.double().cpu() - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.gpu
@pytest.mark.parametrize("implementation", ["chunked", "mamba_ssm"])
def test_gradients_on_cuda(implementation):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if implementation == "mamba_ssm":
        pytest.importorskip("mamba_ssm")

    def gradients(device: str, **options) -> list[Tensor]:
        inputs = {name: x.to(device).requires_grad_() for name, x in random_inputs(2, 32, 16, 300).items()}
        selective_scan(**inputs, delta_softplus=True, **options).sin().sum().backward()
        return [x.grad.cpu() for x in inputs.values()]

    for x, y in zip(gradients("cuda", implementation=implementation), gradients("cpu")):
        assert (x - y).abs().max() <= 1e-4 * y.abs().max()


@pytest.mark.parametrize("baseline", BASELINES)
def test_baselines_of_the_benchmark_compute_the_same(baseline):
    inputs = random_inputs(2, 6, 4, 19)
    expected = step_by_step(inputs["u"], F.softplus(inputs["delta"]), *(inputs[name] for name in "ABC"))
    expected = (expected + inputs["D"][:, None] * inputs["u"]) * F.silu(inputs["z"])
    torch.testing.assert_close(BASELINES[baseline](**inputs), expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_benchmark_tool(tmp_path):
    command = [sys.executable, str(TOOL), "--against", "lean", "--backward", "--pairs", "3", "--channels", "8"]
    command += ["--length", "30", "--json", str(tmp_path / "scan.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "median_ratio" in done.stdout
    figures = json.loads((tmp_path / "scan.json").read_text())
    assert figures["pairs"] == 3
    assert figures["median_ratio"] > 0
    assert figures["largest_difference"] < 1e-5


@pytest.mark.slow
def test_four_times_faster_than_the_written_out_formula():
    assert benchmark_scan("written-out", pairs=10)["median_ratio"] >= 4


@pytest.mark.slow
def test_eight_times_faster_with_backward():
    # Backward of the written-out formula takes time by the square of the length: at 1,600 it would take minutes.
    assert benchmark_scan("written-out", backward=True, pairs=5, length=400)["median_ratio"] >= 8
