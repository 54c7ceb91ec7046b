"""Environment variables over a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from noa_lab.config import StrictModel, parse_yaml, validate_yaml, with_environment
from noa_lab.errors import ConfigInvalid

SECTIONS = ("server", "models")
TEXT = "server:\n  port: 1\nmodels:\n  - name: a-1.b\n    size: 2\n  - name: c\n"


def overridden(text: str = TEXT, **variables: str) -> Any:
    return with_environment(parse_yaml(text, Path("f.yaml")), variables, SECTIONS)


@pytest.mark.parametrize(
    ("name", "value", "path", "expected"),
    [
        ("NOA_LAB_SERVER__PORT", "9000", ("server", "port"), 9000),
        ("noa_lab_server__port", " 9000 ", ("server", "port"), 9000),
        ("NOA_LAB_SERVER__NEW__DEEP", "true", ("server", "new", "deep"), True),
        ("NOA_LAB_SERVER__LIST", "[a, 2]", ("server", "list"), ["a", 2]),
        ("NOA_LAB_SERVER__TEXT", "yes", ("server", "text"), "yes"),
        ("NOA_LAB_MODELS__0__SIZE", "3", ("models", 0, "size"), 3),
        ("NOA_LAB_MODELS__A_1_B__SIZE", "3", ("models", 0, "size"), 3),
        ("NOA_LAB_MODELS__C__SIZE", "~", ("models", 1, "size"), None),
    ],
)
def test_a_variable_stands_for_a_value(name: str, value: str, path: tuple[Any, ...], expected: object) -> None:
    document = overridden(**{name: value})
    here = document.data
    for part in path:
        here = here[part]
    assert here == expected
    assert document.source(path) == name


def test_the_rest_of_the_file_stays_as_it_is():
    before = parse_yaml(TEXT, Path("f.yaml"))
    after = with_environment(before, {"NOA_LAB_MODELS__C__SIZE": "9"}, SECTIONS)
    assert before.data["models"][1] == {"name": "c"}
    assert after.data["models"][0] == before.data["models"][0]
    assert after.source(("server", "port")) == "f.yaml, line 2"


@pytest.mark.parametrize(
    "variables",
    [{}, {"NOA_LAB_HOME": "/x"}, {"NOA_LAB_API_KEY": "k"}, {"NOA_LAB_SERVER__PORT": " "}, {"OTHER_SERVER__PORT": "2"}],
)
def test_other_and_empty_variables_change_nothing(variables: dict[str, str]) -> None:
    document = overridden(**variables)
    assert document.data == parse_yaml(TEXT, Path("f.yaml")).data
    assert document.variables == {}


@pytest.mark.parametrize(
    ("name", "value", "said", "near"),
    [
        ("NOA_LAB_SEVER__PORT", "1", "there is no section 'sever'", "server"),
        ("NOA_LAB_MODELS__D__SIZE", "1", "there is no item 'd'", None),
        ("NOA_LAB_MODELS__7__SIZE", "1", "there is no item '7'", None),
        ("NOA_LAB_SERVER__PORT__DEEP", "1", "server.port is a single value", None),
        ("NOA_LAB_SERVER__PORT", "[1", "not valid YAML", None),
    ],
)
def test_a_variable_that_leads_nowhere_is_named(name: str, value: str, said: str, near: str | None) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        overridden(**{name: value})
    assert caught.value.message.startswith(name)
    assert said in caught.value.message
    assert caught.value.fields["variable"] == name
    assert caught.value.fields["nearest"] == near
    assert caught.value.fix


def test_two_items_that_a_variable_cannot_tell_apart():
    with pytest.raises(ConfigInvalid) as caught:
        overridden("models: [{name: a.b}, {name: a-b}]", NOA_LAB_MODELS__A_B__SIZE="1")
    assert "names 2 items" in caught.value.message
    assert "number" in caught.value.fix


def test_a_wrong_value_is_reported_with_its_variable_and_no_line():
    class Server(StrictModel):
        port: int = 0

    class Whole(StrictModel):
        server: Server = Server()
        models: tuple[dict[str, Any], ...] = ()

    with pytest.raises(ConfigInvalid) as caught:
        validate_yaml(Whole, overridden(NOA_LAB_SERVER__PORT="x"))
    assert caught.value.message.startswith("NOA_LAB_SERVER__PORT: ")
    assert (caught.value.fields["line"], caught.value.fields["file"]) == (0, "")
    with pytest.raises(ConfigInvalid) as caught:
        validate_yaml(Whole, overridden(NOA_LAB_SERVER__PROT="1"))
    assert caught.value.fields["nearest"] == "port"


def test_without_a_file_the_environment_alone_counts():
    document = with_environment(parse_yaml("", Path("f.yaml")), {"NOA_LAB_SERVER__PORT": "5"}, SECTIONS)
    assert document.data == {"server": {"port": 5}}
