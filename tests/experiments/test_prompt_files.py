"""Prompts from files, their parents and what has changed."""

from __future__ import annotations

import pytest

from noa_lab.errors import BadInput, ConfigInvalid, TemplateInvalid
from noa_lab.experiments import Grid, Prompt, load_prompts

MARKDOWN = """---
name: persona
parent: plain
---
# system
You are an editor.

# user
{{ text }}

## not a turn

# assistant
Ready.

# user
Go on.
"""


def test_a_folder_of_yaml_and_markdown_is_read(tmp_path):
    (tmp_path / "a.yaml").write_text('plain: "{{ text }}"\nshort: {system: "Be brief.", user: "{{ text }}"}\n')
    (tmp_path / "b.md").write_text(MARKDOWN)
    (tmp_path / "notes.txt").write_text("not a prompt")
    (tmp_path / "c.md").write_text("Sum up:\r\n{{ text }}\r\n")
    prompts = load_prompts(tmp_path)
    assert list(prompts) == ["plain", "short", "persona", "c"]
    assert prompts["persona"].turns() == [
        {"role": "system", "content": "You are an editor."},
        {"role": "user", "content": "{{ text }}\n\n## not a turn"},
        {"role": "assistant", "content": "Ready."},
        {"role": "user", "content": "Go on."},
    ]
    assert prompts["c"].turns() == [{"role": "user", "content": "Sum up:\n{{ text }}"}]
    assert prompts["persona"].parent == prompts["plain"].hash
    grid = Grid(prompts, [{"text": "x"}], ["m"])
    assert Grid.from_dict(grid.as_dict()) == grid
    assert Grid.from_dict(grid.as_dict()).prompts["persona"].parent == prompts["plain"].hash


def test_where_a_prompt_comes_from_does_not_make_it_another_one(tmp_path):
    first = Prompt(user="a {{ x }}")
    child = first.edit(user="b {{ x }}")
    assert child.parent == first.hash
    assert child == Prompt(user="b {{ x }}")
    assert child.hash == Prompt(user="b {{ x }}").hash
    one, two = (Grid({"p": prompt}, [{"x": 1}], ["m"]) for prompt in (child, Prompt(user="b {{ x }}")))
    assert one.hash == two.hash


def test_editing_changes_what_is_given_and_keeps_the_rest():
    first = Prompt(system="S", user="U {{ x }}")
    assert first.edit(system="T").turns() == [
        {"role": "system", "content": "T"},
        {"role": "user", "content": "U {{ x }}"},
    ]
    turned = first.edit(messages=[{"role": "user", "content": "M"}])
    assert [turn["role"] for turn in turned.turns()] == ["system", "user"]
    assert turned.edit(user="again").turns()[-1]["content"] == "again"
    with pytest.raises(BadInput, match="parent"):
        first.edit(parent="x")


def test_the_difference_is_shown_line_by_line():
    first = Prompt(system="Be brief.", user="Read:\n{{ x }}\nEnd.")
    diff = first.edit(user="Read:\n{{ x }}\nStop.").diff(first)
    assert "-End." in diff.splitlines()
    assert "+Stop." in diff.splitlines()
    assert "-Be brief." not in diff
    assert first.diff(first) == ""


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.txt", "x", "suffix"),
        ("a.md", "---\nnme: x\n---\nhi", "nme"),
        ("a.md", "intro\n# user\nhi", "before its first turn"),
        ("a.md", "---\nparent: nobody\n---\nhi", "nobody"),
        ("a.md", "{{ unclosed", "template"),
        ("a.yaml", "[1, 2]", "no prompts by name"),
        ("a.yaml", "a: {usr: x}", "usr"),
        ("a.yaml", "a: x\na: y", "a"),
        ("a.yaml", "a: {user: x, parent: b}\nb: y\nc: {user: z, parent: c}", "parent"),
    ],
)
def test_what_is_wrong_with_a_file_is_named_with_the_file(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises((BadInput, TemplateInvalid, ConfigInvalid), match=words) as caught:
        load_prompts(tmp_path / name)
    assert name in str(caught.value)
    assert caught.value.fix


def test_missing_empty_unreadable_and_doubled_are_named(tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        load_prompts(tmp_path / "no.md")
    with pytest.raises(BadInput, match="no prompts in"):
        load_prompts(tmp_path)
    (tmp_path / "a.md").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="UTF-8"):
        load_prompts(tmp_path)
    (tmp_path / "a.md").write_text("x")
    (tmp_path / "b.yaml").write_text("a: y")
    with pytest.raises(BadInput, match="called 'a'"):
        load_prompts(tmp_path)
