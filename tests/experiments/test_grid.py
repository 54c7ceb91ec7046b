"""The grid: what its cells are, which seeds they have, and what is refused before anything runs."""

from __future__ import annotations

import json

import pytest
from comparison_rig import GREEDY, WARM, grid
from hypothesis import given, settings
from hypothesis import strategies as st

from noa_lab.errors import BadInput, TemplateInvalid
from noa_lab.experiments import Grid, Prompt
from noa_lab.experiments.grid._cells import cell_key, derive_seed, execution_order, sampling_text
from noa_lab.experiments.grid._prompts import content_hash
from noa_lab.inference import ChatMessage, InferenceConfig


def test_cells_are_all_combinations_once_and_always_in_the_same_order():
    made = grid(3, models=["m", "n"], sampling=[GREEDY, WARM], repeats=4)
    cells = list(made.cells())
    assert len(cells) == len(made) == 2 * 3 * 2 * (1 + 4)
    assert len({cell.cell_id for cell in cells}) == len(cells)
    assert cells == list(grid(3, models=["m", "n"], sampling=[GREEDY, WARM], repeats=4).cells())


def test_greedy_cells_run_once_and_draw_nothing():
    cells = list(grid(2, sampling=[GREEDY], repeats=5).cells())
    assert {cell.repeat for cell in cells} == {0}
    assert {cell.seed for cell in cells} == {None}
    assert "greedy cells run once" in repr(grid(2, sampling=[GREEDY], repeats=5))


def test_the_arms_of_an_input_share_their_seeds_and_nothing_else_does():
    cells = list(grid(5, sampling=[WARM, InferenceConfig(temperature=1.0)], repeats=3).cells())
    by_place: dict[tuple, set] = {}
    for cell in cells:
        by_place.setdefault((cell.input_id, cell.sampling, cell.repeat), set()).add(cell.seed)
    assert all(len(seeds) == 1 for seeds in by_place.values())
    assert len({next(iter(seeds)) for seeds in by_place.values()}) == len(by_place)
    other = {cell.seed for cell in grid(5, sampling=[WARM], repeats=3, seed=2).cells()}
    assert not other & {cell.seed for cell in cells}


def test_an_input_added_in_front_leaves_the_others_seeds_alone():
    before = {cell.seed for cell in grid(sampling=[WARM], inputs=[{"q": "a"}, {"q": "b"}]).cells()}
    after = {cell.seed for cell in grid(sampling=[WARM], inputs=[{"q": "z"}, {"q": "a"}, {"q": "b"}]).cells()}
    assert before < after


def test_a_seed_named_in_the_sampling_is_kept():
    cells = grid(2, sampling=[InferenceConfig(seed=42)], repeats=3).cells()
    assert {(cell.repeat, cell.seed) for cell in cells} == {(0, 42), (1, 43), (2, 44)}


@given(st.integers(0, 2**63 - 1), st.text(), st.integers(0, 9999), st.one_of(st.none(), st.integers(0, 2**32 - 2)))
@settings(max_examples=50)
def test_every_seed_is_one_that_a_sampling_may_have(grid_seed, key, repeat, fixed):
    seed = derive_seed(grid_seed, key, InferenceConfig(seed=fixed), repeat)
    assert InferenceConfig(seed=seed).seed == seed


def test_the_key_of_a_cell_changes_with_everything_that_decides_its_answer():
    prompts = {
        "base": {"system": "a", "user": "{{ q }}"},
        "shorter": "{{ q }}",
        "roles": {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "{{ q }}"}]},
    }
    conversations = grid(prompts=prompts, inputs=[{"q": "b"}]).conversations()
    warm = sampling_text(WARM)
    base = (conversations.hash(("base", "1")), "f", warm, 1, 0)
    others = [
        (conversations.hash(("shorter", "1")), "f", warm, 1, 0),
        (conversations.hash(("roles", "1")), "f", warm, 1, 0),
        (base[0], "g", warm, 1, 0),
        (base[0], "f", sampling_text(InferenceConfig(temperature=0.7, max_tokens=9)), 1, 0),
        (base[0], "f", warm, 2, 0),
        (base[0], "f", warm, None, 0),
        (base[0], "f", warm, 1, 1),
    ]
    assert len({cell_key(*parts) for parts in [base, *others]}) == 8
    assert warm == sampling_text(InferenceConfig(temperature=0.7, max_tokens=8, seed=5))
    for parts in (base, others[-2]):
        assert cell_key(*parts) == content_hash([*parts[:2], json.loads(warm), *parts[3:]])


def test_a_conversation_is_filled_in_when_it_is_asked_for_and_once(monkeypatch):
    filled: list[str] = []
    texts = Prompt.texts
    monkeypatch.setattr(Prompt, "texts", lambda self, row: filled.append(row["q"]) or texts(self, row))
    made = grid(prompts={"a": "Say {{ q }}.", "b": {"system": "Be brief.", "user": "{{ q }}"}})
    conversations = made.conversations()
    assert list(conversations) == [(prompt, found.id) for prompt in "ab" for found in made.inputs]
    assert filled == []
    place = ("b", made.inputs[1].id)
    wanted = [ChatMessage.system("Be brief."), ChatMessage.user(made.inputs[1].variables["q"])]
    assert conversations[place] == conversations[place] == wanted
    assert conversations.texts(place) == tuple(turn.content for turn in wanted)
    assert len(filled) == 1
    conversations.fill()
    assert len(filled) == len(conversations) == 2 * len(made.inputs)
    conversations.forget()
    assert conversations[place] == wanted
    assert len(filled) == len(conversations) + 1


def test_the_order_shows_every_arm_first_and_then_keeps_common_beginnings_together():
    documents = ["alpha " * 50, "beta " * 50]
    inputs = [{"d": document, "q": f"q{number}"} for number in range(4) for document in documents]
    made = grid(inputs=inputs, prompts={"a": "{{ d }} {{ q }}", "b": "{{ d }}!{{ q }}"}, models=["m", "n"])
    rendered = made.render()
    ordered = execution_order(made.cells(), rendered)
    assert sorted(cell.cell_id for cell in ordered) == sorted(cell.cell_id for cell in made.cells())
    assert [cell.model for cell in ordered] == ["m"] * 16 + ["n"] * 16
    assert {cell.prompt for cell in ordered[:2]} == {"a", "b"}
    firsts = [rendered[cell.prompt, cell.input_id][0].content[:5] for cell in ordered[2:16]]
    assert firsts == sorted(firsts)


def test_a_grid_survives_the_store_and_its_hash_follows_its_content():
    made = grid(3, sampling=[WARM], repeats=2, inputs=[{"q": "ü", "tags": ["t"], "cluster": "c"}, {"q": "b", "id": 5}])
    again = Grid.from_dict(json.loads(json.dumps(made.as_dict())))
    assert (again, again.hash) == (made, made.hash)
    assert list(again.cells()) == list(made.cells())
    changed = [
        made.replace(seed=2),
        made.replace(repeats=3),
        made.replace(sampling=[GREEDY]),
        made.replace(models=["n"]),
    ]
    changed += [made.replace(prompts={"x": "y"}), made.replace(inputs=[{"q": "ü"}])]
    assert len({each.hash for each in [made, *changed]}) == 7


def test_the_default_model_fills_only_a_gap():
    assert grid(1, models=None).with_default_model("d").models == ("d",)
    assert grid(1, models="m").with_default_model("d").models == ("m",)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"prompts": {}}, "prompts"),
        ({"prompts": ["a"]}, "prompts"),
        ({"prompts": {"": "a"}}, "prompts"),
        ({"models": ["m", "m"]}, "models"),
        ({"models": [3]}, "models"),
        ({"sampling": []}, "sampling"),
        ({"sampling": 3}, "sampling"),
        ({"sampling": [3]}, "sampling[0]"),
        ({"sampling": [WARM, WARM]}, "sampling[1]"),
        ({"sampling": [{"temprature": 1}]}, "temprature"),
        ({"repeats": 0}, "repeats"),
        ({"repeats": True}, "repeats"),
        ({"repeats": 10_001}, "repeats"),
        ({"seed": -1}, "seed"),
        ({"seed": "1"}, "seed"),
        ({"sampling": [{"max_tokens": n + 1} for n in range(20)], "repeats": 10_000}, "grid"),
    ],
)
def test_a_wrong_grid_is_refused_by_field(changes, field):
    with pytest.raises(BadInput) as caught:
        grid(**changes)
    assert caught.value.fields["field"] == field
    assert caught.value.fix


def test_a_variable_that_no_input_has_is_named_with_the_nearest_field():
    with pytest.raises(TemplateInvalid) as caught:
        grid(prompts={"fine": "{{ text }}", "p": "{{ txet }}"}, inputs=[{"text": "a"}, {"text": "b"}]).render()
    assert "prompt 'p'" in caught.value.message
    assert "no input has" in caught.value.message
    assert caught.value.fix == "Did you mean 'text'?"
    assert caught.value.fields["variable"] == "txet"


def test_a_variable_that_some_inputs_lack_names_these():
    with pytest.raises(TemplateInvalid) as caught:
        grid(prompts={"p": "{{ a }}"}, inputs=[{"a": 1}, {"b": 2}, {"id": "x", "b": 3}]).render()
    assert "2 of 3 inputs lack (2, x)" in caught.value.message
    assert caught.value.fields["lacking"] == ["2", "x"]
    assert Prompt(user="{{ a | default('') }}").render({}) == [ChatMessage.user("")]
