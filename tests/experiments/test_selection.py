"""Parts of a grid: exclusions, drawn inputs, and the estimate of what it takes."""

from __future__ import annotations

import pytest

from noa_lab.errors import BadInput, UnknownName
from noa_lab.experiments import Grid, Plan, estimate

INPUTS = [
    {"id": f"i{number}", "text": f"text {number}", "tags": ["long"] if number % 3 == 0 else []} for number in range(9)
]


def made(**changes) -> Grid:
    defaults = {
        "prompts": {"a": "{{ text }} A", "b": "{{ text }} B"},
        "inputs": INPUTS,
        "models": ["m", "n"],
        "sampling": [{"temperature": 0.0, "max_tokens": 8}, {"temperature": 0.7, "max_tokens": 8}],
        "repeats": 2,
    }
    return Grid(**{**defaults, **changes})


def test_what_is_excluded_is_not_run_and_counted():
    grid = made(exclude=[{"prompt": "b", "model": "n"}, {"tag": "long", "sampling": 1}, {"input": ["i1", "i2"]}])
    cells = list(grid.cells())
    assert len(cells) == len(grid)
    assert not [cell for cell in cells if cell.prompt == "b" and cell.model == "n"]
    assert not [cell for cell in cells if cell.input_id in {"i0", "i3", "i6"} and cell.sampling == 1]
    assert not [cell for cell in cells if cell.input_id in {"i1", "i2"}]
    whole = {cell.cell_id: cell for cell in made().cells()}
    assert all(whole[cell.cell_id] == cell for cell in cells), "a cell keeps its name and its seed"
    assert "left out" in repr(grid)


def test_exclusions_are_a_part_of_the_grid_and_survive_the_store():
    grid = made(exclude=[{"prompt": "b", "model": "n"}])
    assert Grid.from_dict(grid.as_dict()) == grid
    assert grid.hash != made().hash
    assert len(grid.replace(repeats=1)) == len(list(grid.replace(repeats=1).cells()))
    assert made().as_dict().keys() == {"prompts", "inputs", "models", "sampling", "repeats", "seed"}


@pytest.mark.parametrize(
    ("exclude", "kind"),
    [
        ([{}], BadInput),
        ("a", BadInput),
        ([3], BadInput),
        ([{"promt": "a"}], UnknownName),
        ([{"prompt": "c"}], UnknownName),
        ([{"sampling": 2}], UnknownName),
        ([{"tag": "short"}], UnknownName),
        ([{"prompt": ["a", "b"]}], BadInput),
    ],
)
def test_wrong_exclusions_are_named(exclude, kind):
    with pytest.raises(kind) as caught:
        made(exclude=exclude)
    assert caught.value.fix


def test_a_sample_is_the_same_each_time_and_shared_by_all_prompts():
    one, two = made(sample=4), made(sample=4)
    assert [found.id for found in one.inputs] == [found.id for found in two.inputs]
    assert len(one.inputs) == 4
    assert one == two
    assert "drawn from 9" in repr(one)
    assert "drawn from 9" in repr(one.replace(repeats=1))
    assert {found.id for found in made(sample=4, seed=2).inputs} != {found.id for found in one.inputs}
    assert len(made(sample=100).inputs) == 9


def test_a_sample_changes_little_when_inputs_are_added():
    before = {found.id for found in made(sample=4).inputs}
    more = [*INPUTS, {"id": "i9", "text": "text 9"}]
    assert len(before & {found.id for found in made(inputs=more, sample=4).inputs}) >= 3


def test_what_a_grid_takes_is_said_before_it_starts():
    long = " ".join(f"word{number}" for number in range(400))
    grid = Grid(
        {f"q{number}": "{{ doc }}\n\nQuestion " + str(number) for number in range(5)},
        [{"doc": f"{name} {long}"} for name in ("A", "B", "C")],
        ["m"],
        [{"temperature": 0.0, "max_tokens": 20}],
    )
    found = estimate(grid)
    assert found.cells == 15
    assert found.answer_tokens == 300
    assert found.minutes is None
    assert "answered something here" in str(found)
    assert 0.15 < found.evaluated_tokens / found.prompt_tokens < 0.3, "five questions share each document"
    past = [Plan("m", "lanes", evaluated=1000, generated=100, seconds=60.0)]
    timed = estimate(grid, past)
    assert timed.minutes == pytest.approx((found.evaluated_tokens + 1.3 * 300) / 1130, rel=0.01)
    assert "earlier runs" in str(timed)


def test_repeats_cost_answers_and_hardly_any_prompt():
    grid = made(models=["m"], sampling=[{"temperature": 0.7, "max_tokens": 8}], repeats=1)
    once, often = estimate(grid), estimate(grid.replace(repeats=10))
    assert often.answer_tokens == 10 * once.answer_tokens
    assert often.prompt_tokens == pytest.approx(10 * once.prompt_tokens, rel=0.01)
    assert often.evaluated_tokens <= once.evaluated_tokens + 180 - 18, "one token for each further answer"


def test_an_estimate_of_a_large_grid_is_quick_and_in_proportion():
    grid = Grid({"a": "{{ t }} A", "b": "{{ t }} B"}, [{"t": f"text {number}"} for number in range(5000)], ["m"])
    small = grid.replace(inputs=grid.inputs[:500])
    assert estimate(grid).prompt_tokens == pytest.approx(10 * estimate(small).prompt_tokens, rel=0.1)


SMALL_TALK = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ADDED = len(["<|im_start|>", "system", "\n", "You", "are", "a", "helpful", "assistant", ".", "<|im_end|>", "\n"])


def test_what_a_chat_template_adds_is_counted_and_shared_as_everything_else():
    grid = made(inputs=INPUTS[:2], models=["m"], sampling=[{"temperature": 0.0, "max_tokens": 8}])
    plain, more = estimate(grid), estimate(grid, templates={"m": SMALL_TALK})
    assert more.prompt_tokens - plain.prompt_tokens == 4 * ADDED
    assert more.evaluated_tokens - plain.evaluated_tokens == ADDED
    two = grid.replace(models=["m", "n"])
    assert estimate(two, templates={"m": SMALL_TALK}).prompt_tokens == plain.prompt_tokens + more.prompt_tokens


@pytest.mark.parametrize("template", [None, "{% if %}", "{{ raise_exception('no') }}", "{{ messages[0].role }}"])
def test_an_estimate_needs_no_template_and_minds_no_broken_one(template):
    grid = made(inputs=INPUTS[:2], models=["m"])
    found = estimate(grid, templates={"m": template})
    assert found.prompt_tokens == pytest.approx(estimate(grid).prompt_tokens, rel=0.35)
