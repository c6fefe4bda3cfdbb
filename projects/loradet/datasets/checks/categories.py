"""The categories of a file: one an id and one a name."""

from typing import Any

from loradet.datasets.annotations.values import as_name, as_whole, show
from loradet.datasets.checks.findings import Findings
from loradet.datasets.checks.ids import FreshIds, key_of


def examine_categories(entries: list[dict], found: Findings) -> tuple[list[dict], dict[Any, int]]:
    """The repaired categories, and by the key of the id that annotations have the id in the result."""
    kept: dict[int, dict] = {}
    keys: dict[int, Any] = {}
    fresh = FreshIds(lambda: (as_whole(entry.get("id")) for entry in entries))
    for position, entry in enumerate(entries):
        given, number, name = entry.get("id"), as_whole(entry.get("id")), as_name(entry.get("name"))
        where = f"category entry {position}"
        if name is None or given is None:
            found.add("broken category", f"{where} lacks an integer id or a name: {show(entry)}")
            continue
        if number is None:
            number = fresh.next_id()
            found.add("broken category", f"{where}: id {show(given)} is no whole number; read as {number}")
        elif type(given) is not int:
            found.add("odd value", f"{where}: id {show(given)} is read as {number}")
        if type(entry["name"]) is not str:
            found.add("odd value", f"{where}: name {show(entry['name'])} is read as {name!r}")
        entry = {**entry, "id": number, "name": name}
        if number in kept:
            first = kept[number]["name"]
            found.add("duplicate category id", f"category id {number} is {first!r} and {name!r}")
            if name == first:
                continue
            number = fresh.next_id()
            entry["id"] = number
            keys[number] = number
        else:
            keys[number] = key_of(as_whole(given), given)
        kept[number] = entry
    return _one_a_name(kept, keys, found)


def _one_a_name(kept: dict[int, dict], keys: dict[int, Any], found: Findings) -> tuple[list[dict], dict[Any, int]]:
    by_name: dict[str, dict] = {}
    ids: dict[Any, int] = {}
    for number, entry in kept.items():
        first = by_name.setdefault(entry["name"], entry)
        ids[keys[number]] = first["id"]
        if first is not entry:
            message = f"category ids {first['id']} and {number} are both {entry['name']!r}"
            found.add("duplicate category name", message)
    return list(by_name.values()), ids
