"""The transformer between feature map and predictions (appendix A.3 of https://arxiv.org/abs/2005.12872)."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from loradet.adapters.lean.pair import run_pair
from loradet.errors import UserError

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"relu": F.relu, "gelu": F.gelu}


class DetrTransformer(nn.Module):
    """Encoder over the cells of a feature map, and decoder that turns queries into objects.

    Positions are added to queries and keys of every attention, never to values. Attention is
    `nn.MultiheadAttention` without weights asked for, which runs `scaled_dot_product_attention`.
    """

    def __init__(
        self,
        *,
        hidden_dim: int = 256,
        num_heads: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str = "relu",
        pre_norm: bool = False,
    ) -> None:
        """
        Args:
            hidden_dim: C, channels of features, positions and queries.
            num_encoder_layers: may be 0: the decoder then sees the features as they come.
            num_decoder_layers: L, at least 1.
            dim_feedforward: width inside the feed-forward nets.
            dropout: after every attention and feed-forward net, and inside them.
            activation: "relu" or "gelu", in the feed-forward nets.
            pre_norm: normalise what enters a sublayer, instead of its sum with the input. The encoder then ends in a
                norm of its own; the decoder always does.

        Raises:
            ValueError: no decoder layer, heads that do not divide the channels, or an unknown activation.
        """
        super().__init__()
        if num_encoder_layers < 0 or num_decoder_layers < 1:
            raise UserError(
                f"num_encoder_layers={num_encoder_layers}, num_decoder_layers={num_decoder_layers}: at least 0 and 1."
            )
        if hidden_dim % num_heads:
            raise UserError(f"hidden_dim={hidden_dim} is no multiple of num_heads={num_heads}.")
        if activation not in ACTIVATIONS:
            raise UserError(f"activation={activation!r}: expected one of {', '.join(ACTIVATIONS)}.")
        self.hidden_dim = hidden_dim
        options = {
            "hidden_dim": hidden_dim,
            "num_heads": num_heads,
            "dim_feedforward": dim_feedforward,
            "dropout": dropout,
            "activation": activation,
            "pre_norm": pre_norm,
        }
        self.encoder = TransformerEncoder(
            [TransformerEncoderLayer(**options) for _ in range(num_encoder_layers)],
            norm=nn.LayerNorm(hidden_dim) if pre_norm else None,
        )
        self.decoder = TransformerDecoder(
            [TransformerDecoderLayer(**options) for _ in range(num_decoder_layers)], norm=nn.LayerNorm(hidden_dim)
        )
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        features: torch.Tensor,
        position: torch.Tensor,
        queries: torch.Tensor,
        padding: torch.Tensor | None = None,
        *,
        all_layers: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            features: (N, C, h, w).
            position: embedding of the cells, same shape.
            queries: embedding of the queries, (Q, C).
            padding: (N, h, w) bool, True for cells that nothing may attend to; None where there are none.
            all_layers: return every decoder layer's result, not the last one's alone.

        Returns:
            Decoder results (L, N, Q, C), first layer first (L = 1 without `all_layers`), and encoder result
            (N, C, h, w).
        """
        n, _, height, width = features.shape
        position = position.flatten(2).permute(2, 0, 1)
        padding = None if padding is None else padding.flatten(1)
        memory = self.encoder(features.flatten(2).permute(2, 0, 1), position, padding)
        query_position = queries[:, None].expand(-1, n, -1)
        decoded = self.decoder(memory, position, query_position, padding, all_layers=all_layers)
        return decoded.transpose(1, 2), memory.permute(1, 2, 0).unflatten(2, (height, width))


class TransformerEncoder(nn.Module):
    """Encoder layers in a row, and a norm where one is given."""

    def __init__(self, layers: list[nn.Module], norm: nn.Module | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(self, x: torch.Tensor, position: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
        """Cells (h * w, N, C) to the same shape; `padding` is (N, h * w)."""
        for layer in self.layers:
            x = layer(x, position, padding)
        return x if self.norm is None else self.norm(x)


class TransformerDecoder(nn.Module):
    """Decoder layers in a row, and one norm for the result of each."""

    def __init__(self, layers: list[nn.Module], norm: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(
        self,
        memory: torch.Tensor,
        position: torch.Tensor,
        query_position: torch.Tensor,
        padding: torch.Tensor | None,
        *,
        all_layers: bool,
    ) -> torch.Tensor:
        """Encoder result (h * w, N, C) and query embedding (Q, N, C) to (L, Q, N, C)."""
        keys = memory + position
        x = torch.zeros_like(query_position)
        results = []
        for layer in self.layers:
            x = layer(x, query_position, keys, memory, padding)
            results.append(x)
        return self.norm(torch.stack(results if all_layers else results[-1:]))


class _Sublayers(nn.Module):
    """What encoder and decoder layers share: residuals, and the feed-forward net."""

    runs_pairs = True  # see loradet.adapters.lean.recognise

    def __init__(self, dropout: float, activation: str, pre_norm: bool) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.activation_name, self.activation = activation, ACTIVATIONS[activation]
        self.pre_norm = pre_norm

    def _residual(
        self, x: torch.Tensor, norm: nn.Module, sublayer: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        if self.pre_norm:
            return x + self.dropout(sublayer(norm(x)))
        return norm(x + self.dropout(sublayer(x)))

    def _feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        drops = self.dropout.training and self.dropout.p > 0
        y = None if drops else run_pair(x, self.linear1, self.activation_name, self.linear2)
        return self.linear2(self.dropout(self.activation(self.linear1(x)))) if y is None else y


class TransformerEncoderLayer(_Sublayers):
    """Self-attention of the cells, and a feed-forward net."""

    def __init__(
        self, *, hidden_dim: int, num_heads: int, dim_feedforward: int, dropout: float, activation: str, pre_norm: bool
    ) -> None:
        super().__init__(dropout, activation, pre_norm)
        self.self_attn = nn.MultiheadAttention(hidden_dim, num_heads, dropout=dropout)
        self.linear1 = nn.Linear(hidden_dim, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, hidden_dim)
        self.norm1 = nn.LayerNorm(hidden_dim)
        self.norm2 = nn.LayerNorm(hidden_dim)

    def forward(self, x: torch.Tensor, position: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
        """Cells (h * w, N, C) to the same shape; `padding` is (N, h * w)."""

        def attend(x: torch.Tensor) -> torch.Tensor:
            placed = x + position
            return self.self_attn(placed, placed, x, key_padding_mask=padding, need_weights=False)[0]

        x = self._residual(x, self.norm1, attend)
        return self._residual(x, self.norm2, self._feed_forward)


class TransformerDecoderLayer(_Sublayers):
    """Self-attention of the queries, attention of queries to cells, and a feed-forward net."""

    def __init__(
        self, *, hidden_dim: int, num_heads: int, dim_feedforward: int, dropout: float, activation: str, pre_norm: bool
    ) -> None:
        super().__init__(dropout, activation, pre_norm)
        self.self_attn = nn.MultiheadAttention(hidden_dim, num_heads, dropout=dropout)
        self.multihead_attn = nn.MultiheadAttention(hidden_dim, num_heads, dropout=dropout)
        self.linear1 = nn.Linear(hidden_dim, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, hidden_dim)
        self.norm1 = nn.LayerNorm(hidden_dim)
        self.norm2 = nn.LayerNorm(hidden_dim)
        self.norm3 = nn.LayerNorm(hidden_dim)

    def forward(
        self,
        x: torch.Tensor,
        query_position: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        padding: torch.Tensor | None,
    ) -> torch.Tensor:
        """Queries (Q, N, C) to the same shape; keys and values of the cells are (h * w, N, C)."""

        def attend_to_queries(x: torch.Tensor) -> torch.Tensor:
            placed = x + query_position
            return self.self_attn(placed, placed, x, need_weights=False)[0]

        def attend_to_cells(x: torch.Tensor) -> torch.Tensor:
            placed = x + query_position
            return self.multihead_attn(placed, keys, values, key_padding_mask=padding, need_weights=False)[0]

        x = self._residual(x, self.norm1, attend_to_queries)
        x = self._residual(x, self.norm2, attend_to_cells)
        return self._residual(x, self.norm3, self._feed_forward)
