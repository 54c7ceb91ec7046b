"""YAML files: the line of everything, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field

from noa_lab.config import StrictModel, load_yaml, parse_yaml, validate_yaml
from noa_lab.errors import BadInput, ConfigInvalid

FILE = Path("settings.yaml")


class Inner(StrictModel):
    max_words: int = Field(default=3, ge=1)


class Middle(StrictModel):
    scorers: tuple[Inner, ...] = ()
    either: Inner | str | None = None


class Outer(StrictModel):
    name: str
    middle: Middle = Middle()


def read(text: str) -> Any:
    return parse_yaml(text, FILE).data


def refused(text: str) -> ConfigInvalid:
    with pytest.raises(ConfigInvalid) as caught:
        validate_yaml(Outer, parse_yaml(text, FILE))
    return caught.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(
            ("yes", "yes"),
            ("no", "no"),
            ("on", "on"),
            ("12:30", "12:30"),
            ("2024-01-31", "2024-01-31"),
            ("1_000", "1_000"),
        ),
        *(("true", True), ("False", False), ("~", None), ("", None), ("null", None)),
        *(("010", 10), ("-7", -7), ("0x10", 16), ("0o17", 15), ("1e3", 1000.0), (".5", 0.5), ("-.inf", float("-inf"))),
        *(("'7'", "7"), (".", "."), ("+", "+"), ("0x", "0x")),
    ],
)
def test_values_mean_what_yaml_1_2_says(text: str, value: object) -> None:
    found = read(f"key: {text}\n")["key"]
    assert found == value
    assert type(found) is type(value)


def test_every_key_and_item_has_its_line() -> None:
    document = parse_yaml(
        "# a comment\nname: x\n\nmiddle:\n  scorers:\n    - max_words: 1\n\n    - {max_words: 2}\n", FILE
    )
    assert document.line(("name",)) == 2
    assert document.line(("middle", "scorers", 0)) == 6
    assert document.line(("middle", "scorers", 1, "max_words")) == 8
    assert document.line(("middle", "scorers", 9)) == 5
    assert document.line(()) == 2


def test_a_misspelt_key_deep_in_the_file_is_named_with_line_and_nearest() -> None:
    error = refused("name: x\nmiddle:\n  scorers:\n    - max_words: 3\n    - max_word: 4\n")
    assert error.fields == {
        "file": "settings.yaml",
        "line": 5,
        "key": "middle.scorers.1.max_word",
        "value": 4,
        "nearest": "max_words",
    }
    assert error.message.startswith("settings.yaml, line 5: ")
    assert error.fix == "Did you mean 'max_words'?"
    assert error.exit_code == 2


def test_a_misspelt_required_key_is_reported_as_misspelt_and_not_as_missing() -> None:
    error = refused("middle: {}\nnmae: x\n")
    assert (error.fields["line"], error.fields["key"], error.fields["nearest"]) == (2, "nmae", "name")


def test_a_wrong_value_inside_a_union_has_its_own_line_and_key() -> None:
    error = refused("name: x\nmiddle:\n  either:\n    max_words: 0\n")
    assert (error.fields["line"], error.fields["key"], error.fields["value"]) == (4, "middle.either.max_words", 0)


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("name: x\nname: y\n", 2, "twice"),
        ("name: [\n", 2, "YAML"),
        ("a: b: c\n", 1, "YAML"),
        ("1: x\n", 1, "no text"),
        ("on: x\ntrue: y\n", 2, "no text"),
        ("a: &a [*a]\n", 1, "too"),
        ("name: !!python/object/apply:os.system [echo]\n", 1, "YAML"),
        ("--- \na: 1\n--- \nb: 2\n", 3, "YAML"),
        ("name: \x01\n", 1, "YAML"),
        ("", 1, "nothing"),
        ("- name\n", 1, "list"),
    ],
)
def test_what_is_refused_says_where(text: str, line: int, word: str) -> None:
    error = refused(text)
    assert error.fields["line"] == line
    assert word in error.message
    assert error.fix


def test_a_file_that_expands_without_end_is_refused_quickly() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "too many" in refused("\n".join(levels)).message


def test_merged_keys_keep_the_lines_of_where_they_were_written() -> None:
    document = parse_yaml("base: &base\n  max_words: 0\nmiddle:\n  either:\n    <<: *base\nname: x\n", FILE)
    assert document.data["middle"]["either"] == {"max_words": 0}
    assert document.line(("middle", "either", "max_words")) == 2


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        load_yaml(tmp_path / "none.yaml")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"a: 1\nname: caf\xe9\n")
    with pytest.raises(ConfigInvalid, match="line 2: the text is not UTF-8"):
        load_yaml(latin)
    marked = tmp_path / "bom.yaml"
    marked.write_bytes(b"\xef\xbb\xbfname: x\n")
    assert load_yaml(marked).data == {"name": "x"}


def test_a_strict_model_reports_the_whole_way_to_a_nested_fault() -> None:
    with pytest.raises(BadInput) as caught:
        Outer(name="x", middle={"scorers": [{"max_words": 3}, {"max_wrods": 4}]})
    assert caught.value.fields["field"] == "middle.scorers.1.max_wrods"
    assert caught.value.fields["path"] == ("middle", "scorers", 1, "max_wrods")
    assert caught.value.fields["nearest"] == "max_words"
    assert caught.value.message == "Inner has no field 'max_wrods'."


def test_a_model_may_have_a_name_for_messages() -> None:
    class _Kitchen(StrictModel):
        kind_name: ClassVar[str] = "The kitchen file"

        spoons: int

    with pytest.raises(BadInput, match=r"^The kitchen file has no field 'spons'\."):
        _Kitchen(spons=3)
    with pytest.raises(BadInput, match=r"^The kitchen file needs 'spoons'\."):
        _Kitchen()
    assert list(_Kitchen.model_fields) == ["spoons"]
