"""A stand-in for DETR: its module names, layers of its own that call `nn.MultiheadAttention`, masks, both modes."""

import torch
from torch import nn


class EncoderLayer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, dropout=dropout)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, position, padding):
        q = k = x + position
        y = self.self_attn(q, k, value=x, key_padding_mask=padding, need_weights=False)[0]
        x = self.norm1(x + self.dropout(y))
        return self.norm2(x + self.dropout(self.linear2(self.linear1(x).relu())))


class DecoderLayer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, dropout=dropout)
        self.multihead_attn = nn.MultiheadAttention(width, heads, dropout=dropout)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, memory, position, query, padding):
        q = k = x + query
        x = self.norm1(x + self.dropout(self.self_attn(q, k, value=x, need_weights=False)[0]))
        y = self.multihead_attn(x + query, memory + position, value=memory, key_padding_mask=padding)[0]
        x = self.norm2(x + self.dropout(y))
        return self.norm3(x + self.dropout(self.linear2(self.linear1(x).relu())))


class Transformer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, layers: int, dropout: float):
        super().__init__()
        options = (width, heads, hidden, dropout)
        self.encoder = nn.ModuleList(EncoderLayer(*options) for _ in range(layers))
        self.decoder = nn.ModuleList(DecoderLayer(*options) for _ in range(layers))

    def forward(self, x, position, query, padding):
        for layer in self.encoder:
            x = layer(x, position, padding)
        y = torch.zeros_like(query)
        for layer in self.decoder:
            y = layer(y, x, position, query, padding)
        return y


class BoxMlp(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 4)])

    def forward(self, x):
        return self.layers[2](self.layers[1](self.layers[0](x).relu()).relu()).sigmoid()


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer3 = nn.Sequential(nn.Conv2d(3, 4, 3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.layer4 = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU())

    def forward(self, x):
        return self.layer4(self.layer3(x))


class StandInDetr(nn.Module):
    """(N, 3, H, W) → losses in train mode, logits (N, Q, K + 1) and boxes (N, Q, 4) else."""

    def __init__(self, *, width=16, heads=2, hidden=24, layers=2, queries=5, classes=3, dropout=0.1):
        super().__init__()
        self.backbone = nn.Sequential(Body())
        self.input_proj = nn.Conv2d(6, width, 1)
        self.transformer = Transformer(width, heads, hidden, layers, dropout)
        self.query_embed = nn.Embedding(queries, width)
        self.class_embed = nn.Linear(width, classes + 1)
        self.bbox_embed = BoxMlp(width)

    def forward(self, images):
        x = self.input_proj(self.backbone(images)).flatten(2).permute(2, 0, 1)
        position = torch.linspace(-1, 1, x.shape[0])[:, None, None].expand_as(x)
        padding = torch.zeros(x.shape[1], x.shape[0], dtype=torch.bool)
        padding[:, -1] = True
        query = self.query_embed.weight[:, None].expand(-1, x.shape[1], -1)
        y = self.transformer(x, position, query, padding).transpose(0, 1)
        logits, boxes = self.class_embed(y), self.bbox_embed(y)
        if self.training:
            return {"loss_ce": logits.square().mean(), "loss_bbox": boxes.square().mean()}
        return logits, boxes
