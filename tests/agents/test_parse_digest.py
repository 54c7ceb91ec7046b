"""Replies of many shapes, read as digests."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noa_lab.agents import RepositoryFacts, parse_digest
from noa_lab.agents._prompt import SEED_SYSTEM
from noa_lab.errors import DigestInvalid

PATHS = ["README.md", "shop/cart.py", "shop/pay.py", "tests/test_cart.py"]
PURPOSE = "An online shop."
PARTS = {"shop/cart.py": "Holds items", "shop/pay.py": "Takes cards"}

SHAPES = {
    "json": '{"purpose": "An online shop.", "components": [{"path": "shop/cart.py", "role": "Holds items"}, {"path": "shop/pay.py", "role": "Takes cards"}]}',
    "json, other keys": '{"Summary": "An online shop.", "files": [{"name": "shop/cart.py", "description": "Holds items"}, {"file": "shop/pay.py", "purpose": "Takes cards"}]}',
    "json, dict of parts": '{"purpose": "An online shop.", "components": {"shop/cart.py": "Holds items", "./shop/pay.py": {"role": "Takes cards"}}}',
    "json, list of strings": '{"purpose": "An online shop.", "modules": ["shop/cart.py - Holds items", "`shop/pay.py`: Takes cards"]}',
    "json, nested": '{"digest": {"purpose": "An online shop.", "components": {"shop/cart.py": "Holds items", "shop/pay.py": "Takes cards"}}}',
    "fenced": '```json\n{"purpose": "An online shop.", "components": {"shop/cart.py": "Holds items", "shop/pay.py": "Takes cards"}}\n```',
    "json in prose": 'Sure! Here it is: {"purpose": "An online shop.", "components": {"shop/cart.py": "Holds items", "shop/pay.py": "Takes cards"}} Enjoy!',
    "braces before": 'In {braces}: {"purpose": "An online shop.", "components": {"shop/cart.py": "Holds items", "shop/pay.py": "Takes cards"}}',
    "trailing commas": '{"purpose": "An online shop.", "components": {"shop/cart.py": "Holds items", "shop/pay.py": "Takes cards",},}',
    "single quotes": "{'purpose': 'An online shop.', 'components': {'shop/cart.py': 'Holds items', 'shop/pay.py': 'Takes cards'}}",
    "cut off": '{"purpose": "An online shop.", "components": {"shop/cart.py": "Holds items", "shop/pay.py": "Takes cards',
    "lines": "Purpose: An online shop.\nComponent: shop/cart.py - Holds items\nComponent: shop/pay.py - Takes cards",
    "bold lines": "**Purpose:** An online shop.\n\n**Components:**\n- `shop/cart.py`: Holds items\n- **shop/pay.py** - Takes cards",
    "headings": "## Purpose\nAn online shop.\n\n## Components\n* shop/cart.py: Holds items\n* shop/pay.py: Takes cards",
    "numbered": "Summary: An online shop.\n1. shop/cart.py — Holds items\n2) shop/pay.py -> Takes cards",
    "table": "Overview: An online shop.\n\n| Path | Role |\n|---|---|\n| shop/cart.py | Holds items |\n| shop/pay.py | Takes cards |",
    "links": "Purpose: An online shop.\n- [shop/cart.py](shop/cart.py): Holds items\n- [shop/pay.py](x): Takes cards",
    "bare pairs": "Purpose: An online shop.\n\nshop/cart.py: Holds items\nshop/pay.py: Takes cards",
    "crlf and controls": "Purpose: An online \x1bshop.\r\nComponent: shop/cart.py - Holds\u202e items\r\nComponent: shop/pay.py - Takes cards\r\n",
    "repeated parts": "Purpose: An online shop.\nComponent: shop/cart.py - Holds items\nComponent: shop/cart.py - Again\nComponent: shop/pay.py - Takes cards",
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape: str) -> None:
    digest = parse_digest(SHAPES[shape], paths=PATHS)
    assert digest.purpose == PURPOSE
    assert {component.path: component.role for component in digest.components} == PARTS
    assert (digest.purpose_by, digest.status, digest.dropped_citations) == ("model", "complete", 0)
    form = "json" if "{" in SHAPES[shape] else "lines"
    assert digest.reply_form == ("repaired json" if shape in {"trailing commas", "single quotes", "cut off"} else form)


@pytest.mark.parametrize(
    ("reply", "purpose"),
    [
        ("This repository is an online shop. It sells books.", "This repository is an online shop. It sells books."),
        ("An online shop.\n\nAn online shop.\n\nAn online shop.", "An online shop."),
        ("It sells books, and pens, and pens, and pens, and pens, and pens", "It sells books, and pens,"),
        ("```python\nx = 1\n```\nIt prints.", "It prints."),
        ("# An online shop", "An online shop"),
        ("Das ist ein Laden für Bücher.", "Das ist ein Laden für Bücher."),
        ("これは本を売る店です。", "これは本を売る店です。"),
    ],
)
def test_prose_becomes_the_purpose(reply: str, purpose: str) -> None:
    digest = parse_digest(reply, paths=PATHS)
    assert (digest.purpose, digest.reply_form, digest.components) == (purpose, "prose", ())


@pytest.mark.parametrize(
    "reply", ["", "  \n ", "```\n```", "...", "{}", "[]", "null", '{"purpose": 3}', "1. 2. 3.", "{", '{"x": [1, 2']
)
def test_unusable_replies_are_named(reply: str) -> None:
    with pytest.raises(DigestInvalid) as caught:
        parse_digest(reply, paths=PATHS)
    assert caught.value.fix
    assert caught.value.fields["reason"] in {"empty", "nothing usable"}


def test_paths_that_do_not_exist_are_dropped_and_counted() -> None:
    reply = "Purpose: A shop.\nComponent: shop/ - The shop\nComponent: shop/gone.py - No\nComponent: /etc/passwd - No\nComponent: ../shop - No"
    digest = parse_digest(reply, paths=PATHS)
    assert [component.path for component in digest.components] == ["shop"]
    assert digest.dropped_citations == 3
    with pytest.raises(DigestInvalid):
        parse_digest("Component: nowhere.py - Nothing", paths=PATHS)


def test_without_a_list_a_path_counts_when_the_content_has_it() -> None:
    reply = "Purpose: A shop.\nComponent: shop/cart.py - Items\nComponent: art.py - No\nComponent: shop/pay.py - No"
    digest = parse_digest(reply, content="## shop/cart.py\nx = 1")
    assert [component.path for component in digest.components] == ["shop/cart.py"]
    assert digest.dropped_citations == 2


def test_echoes_of_the_instructions_are_dropped() -> None:
    with pytest.raises(DigestInvalid) as caught:
        parse_digest("This repository is a code analysis assistant that helps.", instructions=SEED_SYSTEM)
    assert caught.value.fields["reason"] == "echo"
    kept = parse_digest(
        "It is a code analysis assistant.", instructions=SEED_SYSTEM, content="Lint: a code analysis assistant."
    )
    assert kept.purpose == "It is a code analysis assistant."
    mixed = parse_digest("You are a code analysis assistant. It sells books.", instructions=SEED_SYSTEM)
    assert mixed.purpose == "It sells books."


def test_facts_are_carried() -> None:
    facts = RepositoryFacts(name="shop", files=4)
    assert parse_digest("It sells books.", facts=facts).facts is facts


def test_long_and_hostile_replies_are_read_in_time() -> None:
    started = time.monotonic()
    for reply in ("{" * 100_000, "[{" * 50_000, "- " * 50_000, "a b " * 30_000, "`" * 100_000, "| " * 50_000, "Purpose: " * 12_000,
                  '{"a": "' + "\\" * 50_000, "x: " * 40_000, "(a" * 50_000, "**" * 50_000 + "purpose"):  # fmt: skip
        try:
            digest = parse_digest(reply, paths=PATHS)
        except DigestInvalid:
            continue
        assert len(digest.purpose) <= 400
    assert time.monotonic() - started < 20


@given(st.text(max_size=400))
def test_any_reply_is_read_or_named(reply: str) -> None:
    try:
        digest = parse_digest(reply, paths=PATHS)
    except DigestInvalid:
        return
    assert digest.purpose or digest.components
    assert all(component.path in {*PATHS, "shop", "tests"} for component in digest.components)
