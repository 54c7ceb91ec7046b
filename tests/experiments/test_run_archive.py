"""A run as a zip: out, in again, and what hostile files cannot do."""

from __future__ import annotations

import json
import zipfile

import pytest
from comparison_rig import GREEDY, WARM, Held, Rig, grid, wait_for

from noa_lab.errors import BadInput, UnknownName
from noa_lab.experiments import Store, export_run, import_run, list_runs, open_run, score, start
from noa_lab.testing import Reply

CONTAINS = score.contains("{{ expected }}")


@pytest.fixture
def elsewhere(tmp_path):
    with Store(tmp_path / "elsewhere.db") as opened:
        yield opened


def finished(store, **options):
    made = grid(4, sampling=[GREEDY, WARM], repeats=2)
    replies = Rig(lambda prompt, config: Reply(f"yes 日本 \u2028 {prompt[-1].content} {config.seed}"))
    return start(made, [CONTAINS], store=store, engine_for=replies, name="to be sent", **options).result(timeout=30)


def test_a_run_arrives_as_it_was_sent(store, elsewhere, tmp_path):
    run = finished(store)
    run.tag("paper")
    run.note = "first try"
    file = export_run(store, run.run_id, tmp_path / "run.zip")
    new = open_run(elsewhere, import_run(elsewhere, file))
    before, after = run.cells(), new.cells()
    same = [name for name in before.columns if name != "run_id"]
    assert before[same].equals(after[same])
    assert (new.name, new.tags, new.status) == ("to be sent", ["paper"], "done")
    assert new.note.startswith("first try")
    assert run.run_id in new.note
    assert new.provenance["imported"]["run_id"] == run.run_id
    assert (
        new.verdict("long", over="plain", on="contains").sentence
        == run.verdict("long", over="plain", on="contains").sentence
    )
    assert elsewhere.cells(new.run_id, raw=True)[0]["request"] == store.cells(run.run_id, raw=True)[0]["request"]
    assert not list(tmp_path.glob("*.part"))


def test_an_imported_run_lends_no_answers_and_is_not_continued_by_the_same_grid(store, elsewhere, tmp_path):
    run = finished(store)
    import_run(elsewhere, export_run(store, run.run_id, tmp_path / "run.zip"))
    again = finished(elsewhere)
    assert len(list_runs(elsewhere)) == 2
    assert not again.cells()["cached"].any()


def test_a_half_done_run_is_completed_where_it_arrives(store, elsewhere, tmp_path):
    held = Held(after=6)
    run = start(grid(6), store=store, engine_for=Rig(held))
    wait_for(lambda: run.progress().done >= 3)
    run.pause()
    held.go.set()
    wait_for(lambda: not run.running)
    new = open_run(elsewhere, import_run(elsewhere, export_run(store, run.run_id, tmp_path / "run.zip")), Rig())
    assert new.status == "paused"
    done = new.progress().done
    assert done == run.progress().done
    new.resume()
    assert new.result(timeout=30).progress().done == 12


def test_the_same_file_comes_in_twice_under_two_ids(store, elsewhere, tmp_path):
    file = export_run(store, finished(store).run_id, tmp_path / "run.zip")
    assert import_run(elsewhere, file) != import_run(elsewhere, file)


def test_an_unknown_run_and_an_impossible_path_are_named(store, tmp_path):
    with pytest.raises(UnknownName):
        export_run(store, "r-00000000", tmp_path / "x.zip")
    run = finished(store)
    with pytest.raises(BadInput, match="cannot be written"):
        export_run(store, run.run_id, tmp_path / "nowhere" / "x.zip")


def rewritten(source, target, **members):
    """The zip with some members changed by functions of their text, or left out (None)."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            change = members.get(name.partition(".")[0], lambda text: text)
            if change is not None:
                new.writestr(name, change(old.read(name).decode()))
    return target


def in_cell(**values):
    def change(text):
        first, _, rest = text.partition("\n")
        return json.dumps({**json.loads(first), **values}) + "\n" + rest

    return change


def in_run(**values):
    return lambda text: json.dumps({**json.loads(text), **values})


HOSTILE = {
    "no manifest": {"manifest": None},
    "no run": {"run": None},
    "no cells": {"cells": None},
    "another format": {"manifest": lambda text: text.replace('"format": 1', '"format": 9')},
    "a wrong count": {"manifest": lambda text: text.replace('"cells": ', '"cells": 9')},
    "a cell twice": {"cells": lambda text: text + text.partition("\n")[0] + "\n"},
    "a cell missing": {"cells": lambda text: text.partition("\n")[2]},
    "a cell of no grid": {"cells": in_cell(prompt="other")},
    "an answer that is no text": {"cells": in_cell(answer=["x"])},
    "a count that is no number": {"cells": in_cell(prompt_tokens="many")},
    "a time that is not finite": {"cells": lambda text: text.replace('"total_ms": ', '"total_ms": NaN, "x": ', 1)},
    "an unknown status": {"cells": in_cell(status="running")},
    "a done cell without an answer": {"cells": in_cell(status="done", answer=None)},
    "half a line": {"cells": lambda text: text[: len(text) // 2]},
    "a grid that is none": {"run": in_run(grid={"prompts": []})},
    "a grid with a hostile template": {
        "run": lambda text: text.replace("Say yes to {{ q }}", "{{ ''.__class__.__mro__ }}{% include 'x' %}")
    },
    "a time that no calendar has": {"run": in_run(created=1e300)},
    "a label of two lines": {"run": in_run(tags=["fine", "two\nlines"])},
    "a label that is a number": {"run": in_run(tags=[1])},
    "an error without words": {"cells": in_cell(status="failed", error={"kind": "X"})},
    "a score that is a number": {"cells": in_cell(scores={"contains": 1.0})},
    "a score that is a text": {"cells": in_cell(scores={"contains": {"value": "1"}})},
    "a reason that is a list": {"cells": in_cell(scores={"contains": {"value": 1.0, "reason": []}})},
    "an unknown executor": {"run": in_run(executor="magic")},
    "a scorer without a name": {"run": in_run(scorers=[{"contains": "x"}])},
    "no engines": {"run": in_run(provenance={})},
    "an engine that is a text": {"run": in_run(provenance={"engines": {"m": "x"}})},
    "an identity that is a list": {"run": in_run(provenance={"engines": {}, "identities": {"m": []}})},
    "an executor of no kind": {"run": in_run(provenance={"engines": {}, "executors": {"m": {"colour": 1}}})},
    "a plan of texts": {"run": in_run(provenance={"engines": {}, "plans": {"m": {"model": "m", "prompts": "x"}}})},
    "a plan that is none": {"run": in_run(provenance={"engines": {}, "plans": {"m": {"colour": 1}}})},
    "a run that is a list": {"run": lambda text: "[]"},
    "deep JSON": {"run": lambda text: "[" * 100_000},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_damaged_or_hostile_file_is_refused_and_leaves_nothing(store, elsewhere, tmp_path, what):
    file = rewritten(export_run(store, finished(store).run_id, tmp_path / "a.zip"), tmp_path / "b.zip", **HOSTILE[what])
    with pytest.raises(BadInput, match="no run that can be imported"):
        import_run(elsewhere, file)
    with elsewhere.read() as connection:
        for table in ("runs", "cells", "tags"):
            assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == 0


def test_what_is_no_zip_is_refused(elsewhere, tmp_path):
    for number, content in enumerate((b"", b"not a zip", b"PK\x03\x04" + b"\0" * 50)):
        file = tmp_path / f"{number}.zip"
        file.write_bytes(content)
        with pytest.raises(BadInput, match="no run that can be imported"):
            import_run(elsewhere, file)
    with pytest.raises(BadInput, match="no run that can be imported"):
        import_run(elsewhere, tmp_path / "missing.zip")


def test_a_file_that_unpacks_to_too_much_is_refused_unread(store, elsewhere, tmp_path, monkeypatch):
    from noa_lab.experiments.store import _archive

    file = export_run(store, finished(store).run_id, tmp_path / "a.zip")
    monkeypatch.setattr(_archive, "_MOST_BYTES", 100)
    with pytest.raises(BadInput, match="more than 100"):
        import_run(elsewhere, file)
