"""The selective scan in chunks: the recurrence of a chunk in parallel, chunk after chunk, forward and backward.

The recurrence of one channel p and state n (Gu and Dao, "Mamba", arXiv:2312.00752, equations 2 and 4) is

    h_t = decay_t h_{t-1} + drive_t,    decay_t = exp(delta_t A),    drive_t = delta_t B_t u_t,    y_t = sum_n C_t h_t

Two steps compose to one of the same form, (a2, b2) after (a1, b1) = (a2 a1, a2 b1 + b2), so a chunk is a parallel
prefix scan. Decays are only ever multiplied, never divided by: what underflows was to be zero. Only tensors of one
chunk have the shape (T, B, G, N, P); backward computes them again from the state before each chunk.
"""

# ruff: noqa: N803 (A, B, C and D are the names of the papers and of the checkpoints)

import functools
import threading
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

# Fewer steps than this cost less one after the other than by halves (measured; on CUDA it is as many kernels).
SEQUENTIAL_STEPS = 8
# A chunk's tensors should stay in a core's cache; on CUDA they should be large enough to fill the device.
CPU_CHUNK_ELEMENTS = 1 << 18
CUDA_CHUNK_ELEMENTS = 1 << 24
MIN_CHUNK, MAX_CHUNK = 16, 256


def default_chunk_size(state_elements: int, device: torch.device) -> int:
    """Steps a chunk, for a state of so many elements (batch × channels × state size)."""
    budget = CPU_CHUNK_ELEMENTS if device.type == "cpu" else CUDA_CHUNK_ELEMENTS
    return max(MIN_CHUNK, min(MAX_CHUNK, budget // max(state_elements, 1)))


def prefix_scan_(decay: Tensor, drive: Tensor, *, reverse: bool = False) -> None:
    """h_t = decay_t h_{t-1} + drive_t along the first dimension from h = 0, in place.

    Args:
        decay: (T, ...), overwritten; the first step's is not used.
        drive: (T, ...), becomes h.
        reverse: start at the last step: h_t = decay_t h_{t+1} + drive_t.
    """
    steps = drive.shape[0]
    if steps <= SEQUENTIAL_STEPS:
        previous = None
        pairs = list(zip(decay.unbind(0), drive.unbind(0)))
        for factor, state in reversed(pairs) if reverse else pairs:
            if previous is not None:
                state.addcmul_(factor, previous)
            previous = state
        return
    # Every second step takes in the one before it; those alone are scanned; the others follow from their predecessors.
    if reverse:
        first = steps % 2
        seconds, before_seconds = slice(first, steps - 1, 2), slice(first + 1, steps, 2)
        others, before_others = slice(1 - first, steps - 2, 2), slice(2 - first, steps - 1, 2)
    else:
        seconds, before_seconds = slice(1, steps, 2), slice(0, steps - 1, 2)
        others, before_others = slice(2, steps, 2), slice(1, steps - 1, 2)
    drive[seconds].addcmul_(decay[seconds], drive[before_seconds])
    decay[seconds].mul_(decay[before_seconds])
    prefix_scan_(decay[seconds], drive[seconds], reverse=reverse)
    drive[others].addcmul_(decay[others], drive[before_others])


class _OneThread:
    """PyTorch's CPU operators run in one thread; from several Python threads at a time too.

    The operators of a chunk are many and take tens of microseconds: where another process holds a core, threads that
    wait for each other at the end of each cost many times what they save.
    """

    def __init__(self):
        self.lock, self.inside, self.before = threading.Lock(), 0, 1

    def __enter__(self):
        with self.lock:
            if self.inside == 0:
                self.before = torch.get_num_threads()
            self.inside += 1
            torch.set_num_threads(1)

    def __exit__(self, *_: object):
        with self.lock:
            self.inside -= 1
            torch.set_num_threads(self.before)


_one_thread = _OneThread()


def _by_itself(operator: Callable) -> Callable:
    """Without autocast, which would round matrix products, and on a CPU in one thread."""

    @functools.wraps(operator)
    def wrapped(u: Tensor, *rest):
        with torch.autocast(u.device.type, enabled=False), _one_thread if u.device.type == "cpu" else nullcontext():
            return operator(u, *rest)

    return wrapped


@torch.library.custom_op("loradet::chunked_scan", mutates_args=())
@_by_itself
def chunked_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk_size: int, keep_states: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """y_t of the recurrence above, for G groups of P channels that share B and C.

    Args:
        u, delta: (B, L, G, P), of any floating-point type; delta as it enters the exponential.
        A: (G, N, P), not positive, of the type to compute in.
        B, C: (B, L, G, N).
        chunk_size: T, steps a chunk.
        keep_states: whether backward will need the states.

    Returns:
        y (B, L, G, P), the last state (B, G, N, P), and the state before each chunk (ceil(L / T), B, G, N, P), of which
        there are none without `keep_states`. All are of A's type.
    """
    batch, length, groups, width = u.shape
    chunks = -(-length // chunk_size)
    y = A.new_empty(length, batch, groups, 1, width)
    kept = A.new_empty(chunks if keep_states else 0, batch, *A.shape)
    state = A.new_zeros(batch, *A.shape)
    decays, drives = A.new_empty(2, min(chunk_size, length), batch, *A.shape)
    for index in range(chunks):
        if keep_states:
            kept[index] = state
        part = slice(index * chunk_size, min((index + 1) * chunk_size, length))
        u_t, delta_t, B_t, C_t = (_steps(x, part, A) for x in (u, delta, B, C))
        decay, drive = decays[: len(u_t)], drives[: len(u_t)]
        torch.mul(delta_t.unsqueeze(3), A, out=decay).exp_()
        torch.mul((delta_t * u_t).unsqueeze(3), B_t.unsqueeze(4), out=drive)
        drive[0].addcmul_(decay[0], state)
        prefix_scan_(decay, drive)
        state = drive[-1].clone()
        torch.matmul(C_t.unsqueeze(3), drive, out=y[part])
    return y.squeeze(3).transpose(0, 1).contiguous(), state, kept


@chunked_scan.register_fake
def _(u, delta, A, B, C, chunk_size, keep_states):  # noqa: ARG001
    batch, length = u.shape[:2]
    chunks = (length + chunk_size - 1) // chunk_size if keep_states else 0
    return A.new_empty(u.shape), A.new_empty(batch, *A.shape), A.new_empty(chunks, batch, *A.shape)


@torch.library.custom_op("loradet::chunked_scan_backward", mutates_args=())
@_by_itself
def chunked_scan_backward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    states: Tensor,
    grad_y: Tensor,
    grad_last: Tensor,
    chunk_size: int,
    needs_A: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, delta, A, B, C in A's type, from those of y (B, L, G, P) and of the last state (B, G, N, P).

    With g_t the gradient of h_t: g_t = C_t dy_t + decay_{t+1} g_{t+1}, the same recurrence from the end.
    `states` are those before each chunk; without `needs_A` the gradient of A is left at zero.
    """
    batch, length, groups, width = u.shape
    grad_u, grad_delta = (A.new_empty(length, batch, groups, width) for _ in range(2))
    grad_B, grad_C = (A.new_empty(length, batch, groups, A.shape[1]) for _ in range(2))
    grad_A = torch.zeros_like(A)
    carry = grad_last
    steps = min(chunk_size, length)
    decays, gradients = A.new_empty(2, steps, batch, *A.shape)
    factors, trajectory = A.new_empty(2, steps + 1, batch, *A.shape)
    for index in range(len(states) - 1, -1, -1):
        part = slice(index * chunk_size, min((index + 1) * chunk_size, length))
        u_t, delta_t, B_t, C_t, grad_y_t = (_steps(x, part, A) for x in (u, delta, B, C, grad_y))
        steps = len(u_t)
        decay, gradient, scratch = decays[:steps], gradients[:steps], factors[:steps]
        driven = delta_t * u_t

        torch.mul(delta_t.unsqueeze(3), A, out=decay).exp_()
        trajectory[0] = states[index]
        before, after = trajectory[:steps], trajectory[1 : steps + 1]
        torch.mul(driven.unsqueeze(3), B_t.unsqueeze(4), out=after)
        after[0].addcmul_(decay[0], trajectory[0])
        prefix_scan_(scratch.copy_(decay), after)

        torch.mul(grad_y_t.unsqueeze(3), C_t.unsqueeze(4), out=gradient)
        gradient[-1].add_(carry)
        scratch.copy_(decay)
        prefix_scan_(factors[1 : steps + 1], gradient, reverse=True)

        grad_C[part] = torch.matmul(after, grad_y_t.unsqueeze(4)).squeeze(4)
        grad_B[part] = torch.matmul(gradient, driven.unsqueeze(4)).squeeze(4)
        by_drive = torch.matmul(B_t.unsqueeze(3), gradient).squeeze(3)
        torch.mul(delta_t, by_drive, out=grad_u[part])
        decay.mul_(gradient)
        carry = decay[0].clone()
        by_exponent = decay.mul_(before)
        torch.mul(by_exponent, A, out=scratch)
        torch.addcmul(scratch.sum(3), u_t, by_drive, out=grad_delta[part])
        if needs_A:
            grad_A += by_exponent.mul_(delta_t.unsqueeze(3)).sum((0, 1))
    grad_u, grad_delta, grad_B, grad_C = (x.transpose(0, 1).contiguous() for x in (grad_u, grad_delta, grad_B, grad_C))
    return grad_u, grad_delta, grad_A, grad_B, grad_C


@chunked_scan_backward.register_fake
def _(u, delta, A, B, C, *_):
    return tuple(A.new_empty(x.shape) for x in (u, delta, A, B, C))


def _setup_context(ctx, inputs: tuple, output: tuple) -> None:
    *tensors, ctx.chunk_size, _ = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.mark_non_differentiable(output[2])


def _backward(ctx, grad_y: Tensor, grad_last: Tensor, _: Tensor) -> tuple:
    *tensors, states = ctx.saved_tensors
    gradients = chunked_scan_backward(*tensors, states, grad_y, grad_last, ctx.chunk_size, ctx.needs_input_grad[2])
    needed = zip(gradients, tensors, ctx.needs_input_grad)
    return (*(gradient.to(tensor.dtype) if wanted else None for gradient, tensor, wanted in needed), None, None)


chunked_scan.register_autograd(_backward, setup_context=_setup_context)


def _steps(x: Tensor, part: slice, like: Tensor) -> Tensor:
    """Steps of (B, L, ...) as (T, B, ...), contiguous, in the type to compute in."""
    return x[:, part].transpose(0, 1).to(like.dtype).contiguous()
