"""Annotation files with seeded faults, as exporters, editors and disks make them."""

import codecs
import copy
import json
import random
from collections.abc import Callable
from typing import Any

TABLES = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore"),
    "categories": ("id", "name", "supercategory"),
}
ODD = (
    *(None, True, False, 0, -1, 2, 1.5, 1e308, 10**400, 2**63, -(2**63), 2**53 + 1, 1e-320, 1e10),
    *(
        float("nan"),
        float("inf"),
        "",
        "x",
        "0",
        "1",
        "1.0",
        " 1",
        "01",
        "1e0",
        "1_0",
        "٣",
        "nan",
        "true",
        "\ud800",
        "a\x00",
    ),
    *([], [1], [[1, 2], 3], {}, {"a": 1}, "10", 10.0, "café", [0, 0, 5, 5], ["1", "2", "3", "4"], [1, 2, 3]),
)


class Mutation:
    """Changes a content (or the bytes of it) by a generator of its own.

    Attributes:
        content: what is left, to be written as JSON.
        same: whether it still means the same.
        names: of the changes.
    """

    def __init__(self, content: dict, seed: int) -> None:
        self.rng = random.Random(seed)
        self.content: Any = copy.deepcopy(content)
        self.same = True
        self.names: list[str] = []
        self._encode: Callable[[str], bytes] = lambda text: text.encode("utf-8", "surrogatepass")
        harmless = self.rng.random() < 0.4
        for _ in range(self.rng.choice((1, 1, 2, 3))):
            change = self.rng.choice(_HARMLESS if harmless else _HARMLESS + 3 * _HARMFUL)
            self.names.append(change.__name__)
            self.same &= change in _HARMLESS
            if isinstance(self.content, dict) and all(isinstance(self.content.get(key), list) for key in TABLES):
                change(self)

    def data(self) -> bytes:
        """The bytes of the file."""
        return self._encode(json.dumps(self.content, ensure_ascii=self.rng.random() < 0.5))

    def entries(self, table: str) -> list[dict]:
        return [entry for entry in self.content[table] if isinstance(entry, dict)]

    def entry(self) -> tuple[str, dict]:
        table = self.rng.choice(["images", "annotations", "annotations", "categories"])
        return table, self.rng.choice(self.entries(table) or [{}])

    # What follows keeps the meaning.

    def whole_column(self) -> None:
        table = self.rng.choice(list(TABLES))
        keys = [key for key in TABLES[table] if key not in ("file_name", "name", "supercategory", "ignore")]
        key = self.rng.choice(keys)
        convert = self.rng.choice((str, float, lambda value: str(float(value))))
        some = self.rng.random() < 0.3
        for entry in self.entries(table):
            if key in entry and type(entry[key]) is not str and not (some and self.rng.random() < 0.5):
                value = entry[key]
                entry[key] = [str(number) for number in value] if isinstance(value, list) else convert(value)

    def flags(self) -> None:
        yes, no = self.rng.choice(((True, False), ("1", "0"), (1.0, 0.0), (1, None), ("true", "false"), ("1.0", "0.0")))
        for entry in self.entries("annotations"):
            if entry.get("iscrowd") in (0, 1):
                entry["iscrowd"] = yes if entry["iscrowd"] else no
            entry["ignore"] = no

    def ids_of_annotations(self) -> None:
        convert = self.rng.choice((lambda n: n - 1, lambda _: 7, lambda _: None, lambda n: f"b{n}", lambda n: [n]))
        for number, entry in enumerate(self.entries("annotations"), start=1):
            entry["id"] = convert(number)

    def ids_of_images(self) -> None:
        offset = self.rng.choice((0, -20, 2**50))  # floats have them all
        convert = self.rng.choice((lambda n: n + offset, lambda n: f"image {n + offset}", lambda n: str(n + offset)))
        given = {
            entry["id"]: convert(int(float(entry["id"]))) for entry in self.entries("images") if _is_plain(entry["id"])
        }
        for table, key in (("images", "id"), ("annotations", "image_id")):
            for entry in self.entries(table):
                if _is_plain(entry[key]):
                    entry[key] = given.get(entry[key], entry[key])

    def areas(self) -> None:
        value = self.rng.choice((None, 0, -5, "", [], 10**400, 1e300, float("nan"), "x"))
        for entry in self.entries("annotations"):
            entry["area"] = value

    def unused_keys(self) -> None:
        _, entry = self.entry()
        value = self.rng.choice(ODD)
        entry["note"] = value
        self.content["licenses"] = [value]

    def order(self) -> None:
        self.rng.shuffle(self.content["annotations"])

    def encoding(self) -> None:
        if any("\ud800" in json.dumps(self.content, ensure_ascii=False) for _ in (0,)):
            return
        name = self.rng.choice(("utf-8-sig", "utf-16", "utf-16-be", "utf-32"))
        self._encode = lambda text: text.encode(name)

    def missing_keys(self) -> None:
        key = self.rng.choice(("area", "id", "segmentation"))
        for entry in self.entries("annotations"):
            entry.pop(key, None)

    # What follows does not.

    def odd_value(self) -> None:
        table, entry = self.entry()
        entry[self.rng.choice(TABLES[table])] = self.rng.choice(ODD)

    def odd_column(self) -> None:
        table = self.rng.choice(list(TABLES))
        key, value = self.rng.choice(TABLES[table]), self.rng.choice(ODD)
        for entry in self.entries(table):
            entry[key] = value

    def odd_side(self) -> None:
        _, entry = self.entry()
        if isinstance(entry.get("bbox"), list) and entry["bbox"]:
            entry["bbox"][self.rng.randrange(len(entry["bbox"]))] = self.rng.choice(ODD)

    def lacking_key(self) -> None:
        table, entry = self.entry()
        entry.pop(self.rng.choice(TABLES[table]), None)

    def copied_entry(self) -> None:
        table, entry = self.entry()
        self.content[table].append(copy.deepcopy(entry))

    def swapped_entries(self) -> None:
        _, entry = self.entry()
        _, other = self.entry()
        entry.update(copy.deepcopy(other))

    def odd_entry(self) -> None:
        table = self.rng.choice(list(TABLES))
        self.content[table].insert(0, self.rng.choice(ODD))

    def odd_table(self) -> None:
        key = self.rng.choice([*TABLES, "info"])
        self.content[key] = self.rng.choice([*ODD, {"0": {}}])

    def odd_content(self) -> None:
        self.content = self.rng.choice(ODD)

    def strange_boxes(self) -> None:
        _, entry = self.entry()
        numbers = (0, -3, 1e-9, 1e-13, 0.001, 5, 63.9, 64, 1000, 1e7, 1e9, 1e12)
        entry["bbox"] = [self.rng.choice(numbers) for _ in range(4)]

    def new_ids_of_categories(self) -> None:
        for entry in self.entries("categories"):
            entry["id"] = self.rng.choice((0, 1, 2, 5, 90, -4, 2**62, "5", 2.0))

    def heading(self) -> None:
        self.content["categories"].insert(0, {"id": 0, "name": "all", "supercategory": "none"})
        for entry in self.entries("categories")[1:]:
            entry["supercategory"] = "all"

    def bytes_cut(self) -> None:
        share = self.rng.random()
        before = self._encode
        self._encode = lambda text: before(text)[: int(len(text) * share)]

    def bytes_changed(self) -> None:
        before, seed = self._encode, self.rng.random()

        def encode(text: str) -> bytes:
            data, rng = bytearray(before(text)), random.Random(seed)
            for _ in range(rng.choice((1, 2, 10))):
                data[rng.randrange(len(data))] = rng.choice(
                    (0, 34, 44, 58, 91, 93, 123, 125, 48, 255, rng.randrange(256))
                )
            return bytes(data)

        self._encode = encode

    def bytes_around(self) -> None:
        before = self._encode
        front, behind = self.rng.choice(((b"\n\n", b"\n"), (b"", b"\x00"), (b"[" * 2000, b""), (codecs.BOM_UTF16, b"")))
        self._encode = lambda text: front + before(text) + behind


def _is_plain(value: Any) -> bool:
    return type(value) in (int, float) or (type(value) is str and value.removesuffix(".0").isdecimal())


_HARMLESS = [
    *(Mutation.whole_column, Mutation.flags, Mutation.ids_of_annotations, Mutation.ids_of_images, Mutation.areas),
    *(Mutation.unused_keys, Mutation.order, Mutation.encoding, Mutation.missing_keys),
]
_HARMFUL = [
    *(Mutation.odd_value, Mutation.odd_column, Mutation.odd_side, Mutation.lacking_key, Mutation.copied_entry),
    *(Mutation.swapped_entries, Mutation.odd_entry, Mutation.odd_table, Mutation.odd_content, Mutation.strange_boxes),
    *(Mutation.new_ids_of_categories, Mutation.heading, Mutation.bytes_cut, Mutation.bytes_changed),
    Mutation.bytes_around,
]
