"""What goes wrong under a run: cells that fail, engines that go away, a full disk."""

from __future__ import annotations

import itertools
import time

import pytest
from comparison_rig import CONTAINS, Held, Rig, grid, run_to_end, wait_for

from noa_lab.errors import RequestRefused, ServerExited, StreamBroken, Unreachable
from noa_lab.experiments import open_run, start
from noa_lab.testing import Reply


def lost(kind=Unreachable):
    return kind("Gone.", fix="Start it.", url="x")


def test_a_failed_cell_is_recorded_by_name_and_only_resume_tries_it_again(store):
    def script(prompt, config):
        return RequestRefused("Too rude.", fix="Be kind.", status=400) if "item 1" in prompt[-1].content else "yes"

    rig = Rig(script)
    run = run_to_end(store, grid(3), rig)
    assert run.status == "failed"
    assert (run.progress().done, run.progress().failed) == (4, 2)
    failed = run.cells().query("status == 'failed'")
    assert set(failed["error"]) == {"RequestRefused: Too rude. Be kind."}
    assert set(rig.asked.values()) == {1}
    healed = Rig()
    again = run_to_end(store, grid(3), healed)
    assert again.run_id == run.run_id
    assert set(healed.asked) == {"Say yes to item 1", "Please say yes to item 1"}
    assert again.status == "done"
    assert again.cells()["error"].isna().all()


def test_an_error_that_is_not_ours_fails_the_cell_too(store):
    run = run_to_end(store, grid(1), Rig([ValueError("odd"), "yes"]))
    assert run.progress().failed == 1
    assert "ValueError: odd" in run.cells().query("status == 'failed'")["error"].iloc[0]


@pytest.mark.parametrize("kind", [Unreachable, StreamBroken, ServerExited])
def test_a_lost_engine_is_opened_again_and_the_cell_retried(store, kind):
    losses = iter([None, None, lost(kind)])
    rig = Rig(lambda prompt, config: next(losses, None) or "yes", slots=1)
    run = run_to_end(store, grid(3), rig)
    assert run.status == "done"
    assert len(rig.opened) == 2
    assert sum(rig.asked.values()) == 7
    assert rig.opened == rig.closed


def test_a_cell_that_always_breaks_the_engine_fails_by_name_and_alone(store):
    def script(prompt, config):
        return lost(StreamBroken) if "Please say yes to item 2" in prompt[-1].content else Reply("yes", delay=0.002)

    rig = Rig(script, slots=4)
    run = run_to_end(store, grid(6), rig)
    frame = run.cells()
    assert run.status == "failed"
    assert frame.query("status == 'failed'")["error"].str.startswith("StreamBroken").tolist() == [True]
    assert (frame["status"] == "done").sum() == 11
    assert rig.asked["Please say yes to item 2"] == 3


def test_cells_that_lost_their_engine_are_retried_one_at_a_time(store):
    def script(prompt, config):
        return Reply("yes", delay=0.03, fail_after=0) if "Please" in prompt[-1].content else "yes"

    rig = Rig(script, slots=4)
    run = run_to_end(store, grid(3), rig)
    assert run.progress().failed == 3
    retries: list[tuple[float, float]] = []
    seen: set[str] = set()
    for call in rig.calls:
        if call.prompt[-1].content in seen:
            retries.append((call.started, call.ended))
        seen.add(call.prompt[-1].content)
    assert len(retries) == 6
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(sorted(retries)))


def test_a_lasting_outage_ends_the_run_and_leaves_its_cells_pending(store):
    begun = time.monotonic()
    rig = Rig(lambda prompt, config: lost(Unreachable), slots=2)
    run = start(grid(40), store=store, engine_for=rig)
    with pytest.raises(Unreachable):
        run.result(timeout=30)
    assert time.monotonic() - begun < 10
    assert run.status == "failed"
    assert run.progress().failed == 0
    assert run.progress().pending == 80
    healed = Rig()
    assert run_to_end(store, grid(40), healed, scorers=()).run_id == run.run_id


def test_an_engine_that_cannot_be_opened_ends_the_run_with_its_error(store):
    def engine_for(model, wish):
        raise ServerExited("It died.", fix="Read the log.", name="m")

    run = start(grid(2), store=store, engine_for=engine_for)
    with pytest.raises(ServerExited, match="It died"):
        run.result(timeout=30)
    assert run.progress().error == "It died."
    with pytest.raises(ServerExited, match="It died"):
        open_run(store, run.run_id).result()


def test_a_full_disk_ends_the_run_by_name_and_resume_goes_on(store, monkeypatch):
    import sqlite3

    import sqlalchemy as sa

    from noa_lab.errors import DiskFull
    from noa_lab.experiments.store import _writer as _store_writer

    real = _store_writer.renew

    def renew(connection, run_id, token):
        if store.counts(run_id)["done"]:  # that of the commits before
            raise sa.exc.OperationalError("", {}, sqlite3.OperationalError("database or disk is full"))
        real(connection, run_id, token)

    with monkeypatch.context() as patch:
        patch.setattr(_store_writer, "renew", renew)
        held = Held(after=4)
        run = start(grid(100), [CONTAINS], store=store, engine_for=Rig(held, delay=0.02))
        wait_for(lambda: store.counts(run.run_id)["done"] > 0)
        held.go.set()
        with pytest.raises(DiskFull):
            run.result(timeout=30)
    shown = run.progress()
    assert (shown.status, shown.running) == ("failed", 0)
    kept = {row["cell_id"] for row in store.cells(run.run_id) if row["status"] == "done"}
    assert 0 < len(kept) == shown.done
    healed = Rig()
    assert run_to_end(store, grid(100), healed).progress().done == 200
    assert len(healed.calls) == 200 - len(kept)
