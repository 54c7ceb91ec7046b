"""The decisions of supervision, without processes and without a clock: when to restart, when to give up, what a hang is."""

from __future__ import annotations

import random

import pytest

from noa_lab.server._activity import Activity
from noa_lab.server._exits import ExitReason
from noa_lab.server._supervision import BUSY_FACTOR, FAILURES, HangWatch, RestartPolicy, Sight, SlotSight
from noa_lab.server._vitals import Vitals

KILLED = ExitReason("signal", "it was killed", -9)


# --- restart


def test_restarts_wait_longer_and_end_after_three_failures_in_a_row():
    policy = RestartPolicy()
    delays = [policy.after(KILLED, ready_seconds=1.0) for _ in range(FAILURES)]
    assert delays == [0.2, 1.0, None]


def test_a_minute_of_service_begins_a_new_row():
    policy = RestartPolicy()
    for _ in range(20):
        assert policy.after(KILLED, ready_seconds=61.0) == 0.2
    assert policy.after(KILLED, ready_seconds=2.0) == 1.0
    assert policy.after(KILLED, ready_seconds=None) is None


@pytest.mark.parametrize("kind", ["model", "argument", "library", "cpu", "start", "port"])
def test_what_a_restart_cannot_repair_is_not_restarted(kind):
    assert RestartPolicy().after(ExitReason(kind, "so it is", 1), ready_seconds=None) is None


def test_memory_that_was_refused_at_the_start_is_final_and_a_kill_for_memory_is_not():
    assert RestartPolicy().after(ExitReason("memory", "not enough", 1), ready_seconds=None) is None
    assert RestartPolicy().after(ExitReason("memory", "not enough", 1), ready_seconds=30.0) == 0.2
    assert RestartPolicy().after(ExitReason("memory", "killed for memory", -9), ready_seconds=30.0) == 0.2


# --- hangs


def look(at, *, cpu=0.0, read=0, mapped=0, answered=True, slots=(), stopped=False):
    return Sight(at, Vitals(cpu, read, 100, mapped, 100, stopped), answered, tuple(slots))


def busy(task=1, read=0, written=0):
    return SlotSight(0, True, task, read, written)


def first_verdict(sights, *, budget=10.0, loading=False):
    """When, and in which words, the watch calls it a hang."""
    watch = HangWatch(budget)
    for sight in sights:
        words = watch.look(sight, loading=loading)
        if words is not None:
            return sight.at, words
    return None


def test_an_idle_server_that_answers_never_hangs():
    assert first_verdict(look(at) for at in range(1000)) is None


def test_silence_without_work_hangs_after_the_budget():
    sights = [look(0), *(look(at, answered=False, stopped=True) for at in range(1, 30))]
    assert first_verdict(sights) == (10, "it has given no sign of life for 10 s (it is stopped by a signal)")


def test_one_long_batch_is_no_hang_but_computing_for_ever_is():
    sights = [look(0), *(look(at, cpu=at * 1.9, answered=False) for at in range(1, 200))]
    at, words = first_verdict(sights)
    assert at == 10 * BUSY_FACTOR
    assert "no sign of life" in words


def test_work_that_stops_counts_from_where_it_stopped():
    sights = [look(0), *(look(at, cpu=min(at, 40) * 1.0, answered=False) for at in range(1, 200))]
    assert first_verdict(sights)[0] == 50


def test_the_little_that_idle_threads_use_is_no_work():
    sights = [look(0), *(look(at, cpu=at * 0.01, answered=False) for at in range(1, 30))]
    assert first_verdict(sights)[0] == 10


def test_requests_that_advance_are_life_and_such_that_do_not_are_none():
    advancing = [look(at, slots=[busy(written=at)]) for at in range(100)]
    assert first_verdict(advancing) is None
    reading = [look(at, slots=[busy(read=at)]) for at in range(100)]
    assert first_verdict(reading) is None
    stuck = [*advancing[:50], *(look(at, slots=[busy(written=49)]) for at in range(50, 100))]
    assert first_verdict(stuck) == (59, "its requests have not advanced for 10 s")
    answered_one_by_one = [look(at, slots=[busy(task=at)]) for at in range(100)]
    assert first_verdict(answered_one_by_one) is None


def test_loading_lives_by_work_and_reading_alone():
    reading = [look(at, read=at << 20, answered=False) for at in range(500)]
    assert first_verdict(reading, loading=True) is None
    mapping = [look(at, mapped=at << 20, answered=False) for at in range(500)]
    assert first_verdict(mapping, loading=True) is None
    computing = [look(at, cpu=at * 1.0, answered=True) for at in range(500)]
    assert first_verdict(computing, loading=True) is None  # however long it takes: who waits has a timeout
    answering = [look(at, answered=True) for at in range(500)]  # /health is another thread's
    assert first_verdict(answering, loading=True)[0] == 10


def test_time_in_which_nobody_looked_proves_nothing():
    """The machine slept, or the watcher waited for a processor: one look without an answer afterwards is no hang."""
    slept = [look(0), look(1), look(100, answered=False), look(101)]
    assert first_verdict(slept) is None
    stopped = [look(0), look(1), *(look(at, answered=False) for at in range(100, 200))]
    assert first_verdict(stopped)[0] == 105  # half of the patience for the first look after it, and the rest as ever


def test_a_process_that_is_gone_is_not_judged():
    assert first_verdict([look(0), *(Sight(at, None, False) for at in range(1, 100))]) is None


@pytest.mark.parametrize("seed", range(20))
def test_no_history_with_a_sign_of_life_in_every_budget_is_a_hang(seed):
    """Random histories: as long as each stretch of 9 s holds an answer with progress, an idle answer or work, nothing is a hang."""
    rng = random.Random(seed)
    at, cpu, written, last_life = 0.0, 0.0, 0, 0.0
    watch = HangWatch(10.0)
    watch.look(look(0), loading=False)
    for _ in range(500):
        step = rng.uniform(0.5, 2.0)
        at += step
        alive = at - last_life > 6.0 or rng.random() < 0.4
        if alive:
            last_life = at
            kind = rng.choice(["advance", "idle"])
            written += kind == "advance"
            sight = look(at, cpu=cpu, slots=[busy(written=written)] if kind == "advance" else [])
        else:
            sight = look(at, cpu=cpu, answered=rng.random() < 0.5, slots=[busy(written=written)])
        assert watch.look(sight, loading=False) is None


# --- activity


def test_speed_now_is_of_the_requests_at_work():
    activity = Activity(0)
    activity.look(look(0, slots=[busy(task=1, written=10)]))
    activity.look(look(2, slots=[busy(task=1, written=30)]))
    assert activity.tokens_per_second == 10
    activity.look(look(4, slots=[busy(task=2, written=6)]))  # another request: all of its tokens are new
    assert activity.tokens_per_second == 3
    activity.look(look(6, slots=[SlotSight(0, False, 2, 0, 20)]))
    assert activity.tokens_per_second == 0
    facts = activity.facts(loading=False)
    assert (facts["memory_peak_bytes"], facts["loaded"]) == (100, None)


def test_a_look_that_was_not_answered_does_not_make_old_tokens_new():
    activity = Activity(0)
    activity.look(look(0, slots=[busy(task=1, written=300)]))
    activity.look(look(2, answered=False))  # a long batch: /slots came too late
    activity.look(look(4, slots=[busy(task=1, written=320)]))
    assert activity.tokens_per_second == 5


def test_loading_is_told_by_the_per_cent():
    activity = Activity(1000)
    told = []
    for at in range(100):
        activity.look(look(at, mapped=at * 5))
        told.append(activity.news())
    heard = [news for news in told if news is not None]
    assert 40 <= len(heard) <= 51
    assert heard[-1]["done"] <= 1000
    assert activity.facts(loading=True)["loaded"] == pytest.approx(0.495)
    assert Activity(0).news() is None
