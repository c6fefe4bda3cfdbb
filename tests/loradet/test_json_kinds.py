"""The first entry of a JSON object that is not what it must be, in words."""

import pytest

from loradet.json_kinds import NUMBER, TEXT, TRUTH, WHOLE, entries, list_of, mapping_to, optional

KIND = entries(
    {
        "name": TEXT,
        "count": WHOLE,
        "share": optional(NUMBER),
        "done": TRUTH,
        "ids": list_of(WHOLE),
        "parts": mapping_to(entries({"total": WHOLE}, required=("total",))),
    },
    required=("name",),
)


@pytest.mark.parametrize(
    "value",
    [
        {"name": ""},
        {"name": "a", "count": 3, "share": None, "done": False, "ids": [], "parts": {}, "more": object()},
        {"name": "a", "share": 1, "ids": [1, -2], "parts": {"head": {"total": 0, "more": "x"}}},
    ],
)
def test_what_is_right(value):
    assert KIND(value, "") is None


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({}, "name is not there"),
        ({"name": 3}, "name is 3; expected a text"),
        ({"name": "a", "count": 1.0}, "count is 1.0; expected a whole number"),
        ({"name": "a", "count": True}, "count is true or false; expected a whole number"),
        ({"name": "a", "share": "1"}, "share is '1'; expected a number"),
        ({"name": "a", "share": 10**400}, f"share is 1{'0' * 39}…; expected a number"),
        ({"name": "a", "done": 1}, "done is 1; expected true or false"),
        ({"name": "a", "ids": [1, None]}, "ids[1] is null; expected a whole number"),
        ({"name": "a", "ids": {}}, "ids is an object; expected a list"),
        ({"name": "a", "parts": {"head": {}}}, "parts.head.total is not there"),
        ({"name": "a", "parts": {"head": []}}, "parts.head is a list; expected an object"),
    ],
)
def test_what_is_wrong_is_named(value, problem):
    assert KIND(value, "") == problem
