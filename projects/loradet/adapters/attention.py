"""Attention of several heads from projected queries, keys and values, in the layout of `nn.MultiheadAttention`."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    heads: int,
    mask: Tensor | None = None,
    is_causal: bool = False,
    dropout: float = 0.0,
    need_weights: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """softmax(q kᵀ / √D + mask) v for each head (Vaswani et al., arXiv:1706.03762, section 3.2).

    Args:
        q: (L, N, C).
        k, v: (S, N, C).
        heads: H; D = C / H.
        mask: is added to the logits; of a shape that broadcasts to (N, H, L, S).
        is_causal: without a mask, position i attends to the first i only.
        dropout: probability of dropping an attention weight.
        need_weights: whether to return the weights; `scaled_dot_product_attention` computes the rest where not.

    Returns:
        Values of all heads (L, N, C), and the weights after dropout (N, H, L, S) or None.
    """
    q, k, v = (x.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3) for x in (q, k, v))
    if not need_weights:
        output = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal)
        return output.permute(2, 0, 1, 3).flatten(2), None
    length, batch = q.shape[2], q.shape[0]
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    q = q * math.sqrt(1.0 / q.shape[-1])
    if mask is None:
        weights = torch.bmm(q, k.transpose(1, 2))
    else:
        mask = mask.expand(batch, heads, -1, -1).flatten(0, 1)
        weights = torch.baddbmm(mask, q, k.transpose(1, 2))
    weights = F.dropout(F.softmax(weights, dim=-1), dropout)
    output = torch.bmm(weights, v).transpose(0, 1).reshape(length, batch, -1)
    return output, weights.unflatten(0, (batch, heads))


def additive_mask(
    key_padding_mask: Tensor | None, attention_mask: Tensor | None, *, query: Tensor, key: Tensor, heads: int
) -> Tensor | None:
    """The two masks of `nn.MultiheadAttention` as one that is added to the logits.

    Args:
        key_padding_mask: (N, S); bool, where True hides a key, or float, which is added.
        attention_mask: (L, S) or (N·H, L, S); bool, where True hides, or float.
        query: (L, N, ...); gives the dtype of the mask.
        key: (S, N, ...).
        heads: H.

    Returns:
        A tensor that broadcasts to (N, H, L, S); None where there is no mask.

    Raises:
        ValueError: a mask has another shape, or is neither bool nor float.
    """
    length, batch, keys = query.shape[0], query.shape[1], key.shape[0]
    mask = None
    if attention_mask is not None:
        shapes = [(length, keys), (batch * heads, length, keys)]
        mask = _to_additive("attn_mask", attention_mask, shapes, query.dtype)
        mask = mask[None, None] if mask.dim() == 2 else mask.unflatten(0, (batch, heads))
    if key_padding_mask is not None:
        padding = _to_additive("key_padding_mask", key_padding_mask, [(batch, keys)], query.dtype)[:, None, None]
        mask = padding if mask is None else mask + padding
    return mask


def _to_additive(name: str, mask: Tensor, shapes: list[tuple[int, ...]], dtype: torch.dtype) -> Tensor:
    if tuple(mask.shape) not in shapes:
        expected = " or ".join(map(str, shapes))
        raise ValueError(f"{name} has shape {tuple(mask.shape)}; expected {expected}.")
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, -math.inf)
    if not mask.is_floating_point():
        raise ValueError(f"{name} has dtype {mask.dtype}; expected bool or a float.")
    return mask
