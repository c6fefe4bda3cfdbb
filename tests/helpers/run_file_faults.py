"""Files of runs with seeded faults: bytes that disks and copies lose, JSON of other types, headers that are edited."""

import json
import random
import struct
from typing import Any

ODD = (
    *(None, True, 0, -1, 1.5, 1e308, 10**400, 2**63, float("nan"), float("inf")),
    *("", "x", "0", "1e999", "\ud800", "a\x00b", "../..", "é" * 300, [], [1], ["x"], [[]], {}, {"a": 1}, {"": []}),
)


def damaged_bytes(content: bytes, rng: random.Random) -> bytes:
    """One of: cut, emptied, zeros in a block, flipped bits, bytes at the end, another file altogether."""
    kind = rng.choice(("cut", "cut", "cut near the end", "empty", "zeros", "flip", "append", "page", "swap"))
    place = rng.randrange(len(content)) if content else 0
    if kind == "cut":
        return content[:place]
    if kind == "cut near the end":
        return content[: -rng.randint(1, min(40, len(content)))]
    if kind == "zeros":
        return content[:place] + bytes(len(content[place : place + 512])) + content[place + 512 :]
    if kind == "flip":
        changed = bytearray(content)
        for _ in range(rng.randint(1, 8)):
            changed[rng.randrange(min(len(content), 4096))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if kind == "append":
        return content + rng.randbytes(rng.randint(1, 64))
    if kind == "swap":
        return content[place:] + content[:place]
    return {"empty": b"", "page": b"<!doctype html><title>404</title>"}[kind]


def odd_json(value: Any, rng: random.Random) -> Any:
    """A copy in which one entry, somewhere, is another value, is gone, or stands under another name."""
    copy = json.loads(json.dumps(value))
    places = list(_places(copy))
    if not places or rng.random() < 0.04:
        return rng.choice(ODD)
    holder, key = rng.choice(places)
    action = rng.random()
    if action < 0.75 or isinstance(holder, list):
        holder[key] = rng.choice(ODD)
    elif action < 0.9:
        del holder[key]
    else:
        holder[f"{key}x"] = holder.pop(key)
    return copy


def _places(value: Any):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key
        yield from _places(item)


def dumped(value: Any) -> bytes:
    """JSON as a file holds it."""
    return json.dumps(value).encode("utf-8", "surrogatepass")


def odd_header(content: bytes, rng: random.Random, key: str | None = None) -> bytes:
    """A safetensors file with an odd entry in its header, or in the JSON text that its metadata has under `key`."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    if key is not None:
        header["__metadata__"][key] = json.dumps(odd_json(json.loads(header["__metadata__"][key]), rng))
    else:
        header = odd_json(header, rng)
    text = dumped(header)
    return struct.pack("<Q", len(text)) + text + content[8 + length :]
