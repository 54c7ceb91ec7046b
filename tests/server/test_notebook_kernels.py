"""Promise 3 with real kernels: killed, shut down, restarted, interrupted; two notebooks; JupyterLab itself killed."""

from __future__ import annotations

import os
import random
import signal
import time

import psutil
import pytest
from kernels import SERVE_REAL, JupyterLab, Notebook, pid_of, serve_fake
from server_fakes import gone_within, is_clean, the_record, wait_until

from noa_lab import server
from noa_lab.server._http import ask_json
from noa_lab.server._probe import as_slot

PROMISE = 2.0


@pytest.fixture
def notebook(bare_home):
    made = []

    def make(home=None):
        made.append(Notebook(home or bare_home))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def jupyterlab(bare_home, tmp_path):
    made = []

    def make():
        made.append(JupyterLab(tmp_path / f"jupyter-{len(made)}", bare_home))
        return made[-1]

    yield make
    for one in made:
        one.close()


# --- ends


@pytest.mark.parametrize("end", ["kill", "shut_down", "restart"])
def test_a_server_ends_with_its_notebooks_kernel(notebook, bare_home, fake, end):
    one = notebook()
    pid = pid_of(one.run(serve_fake(bare_home, fake)))
    getattr(one, end)()
    gone_within(pid, PROMISE)
    wait_until(lambda: is_clean(bare_home))


def end_by_jupyterlab(jupyterlab, home, fake):
    """SIGKILL of JupyterLab; how long after its kernel the server went."""
    pid = pid_of(jupyterlab.kernel.run(serve_fake(home, fake)))
    kernel = pid_of(jupyterlab.kernel.run("import os; print(os.getpid())"))
    jupyterlab.kill()
    gone_within(kernel, 10)  # it looks for its parent once a second
    return gone_within(pid, PROMISE)


def test_a_killed_jupyterlab_takes_its_kernel_along_which_takes_the_server(jupyterlab, bare_home, fake):
    end_by_jupyterlab(jupyterlab(), bare_home, fake)
    wait_until(lambda: is_clean(bare_home))


def test_two_notebooks_share_a_server_which_ends_with_the_second(notebook, bare_home, fake):
    one, two = notebook(), notebook()
    first, second = (pid_of(each.run(serve_fake(bare_home, fake))) for each in (one, two))
    assert first == second
    one.kill()
    wait_until(lambda: server.servers(bare_home)[0].holders == 1)
    assert psutil.pid_exists(first)
    two.shut_down()
    gone_within(first, PROMISE)


def test_a_kept_server_outlives_its_notebook_and_is_adopted_by_the_next(notebook, bare_home, fake):
    one = notebook()
    pid = pid_of(one.run(serve_fake(bare_home, fake)))
    one.run("running.keep()")
    one.kill()
    wait_until(lambda: server.servers(bare_home)[0].holders == 0)
    two = notebook()
    assert pid_of(two.run(serve_fake(bare_home, fake))) == pid
    two.run("running.follow()")
    two.kill()
    gone_within(pid, PROMISE)


# --- the matrix


HOW = ("kernel", "script", "watcher", "shutdown", "jupyterlab")
TRIALS = 100


def trial(how, notebook, jupyterlab, holder, home, fake):
    """One end of one kind; how long the server took to go."""
    if how == "jupyterlab":
        return end_by_jupyterlab(jupyterlab(), home, fake)
    if how == "script":
        one = holder()
        pid, end = one.ready().pid, one.kill
    else:
        book = notebook()
        pid = pid_of(book.run(serve_fake(home, fake)))
        watcher = the_record(home).watcher.pid
        end = {"kernel": book.kill, "shutdown": book.shut_down, "watcher": lambda: os.kill(watcher, signal.SIGKILL)}[
            how
        ]
    if how == "shutdown":
        end()  # returns when the kernel is dead
        return gone_within(pid, PROMISE)
    start = time.perf_counter()
    end()
    gone_within(pid, PROMISE)
    took = time.perf_counter() - start
    if how == "watcher":
        server.stop_all(home)
    return took


@pytest.mark.full
@pytest.mark.parametrize("how", HOW)
def test_a_hundred_ends_leave_no_orphan(how, notebook, jupyterlab, holder, bare_home, fake, record_property):
    """A fifth of the hundred for each kind of end."""
    took = [trial(how, notebook, jupyterlab, holder, bare_home, fake) for _ in range(TRIALS // len(HOW))]
    wait_until(lambda: is_clean(bare_home))
    record_property("slowest_seconds", max(took))
    print(f"{how}: {len(took)} ends, slowest {max(took):.3f} s")
    assert max(took) < PROMISE


# --- interrupt, on the real server


def tokens_so_far(running):
    return sum(slot["written"] for slot in running.status().slots)


INTERRUPTS = 50


def check_interrupts(count, notebook, home, seed):
    """Interrupt a kernel at random moments of a long answer: the server stops working on it within a second, and lives on."""
    chance = random.Random(seed)
    book = notebook(home)
    pid = pid_of(book.run(SERVE_REAL))
    book.run("engine = running.engine(); config = lab.InferenceConfig(max_tokens=400, temperature=0.0)")
    holder = server.attach(home, server.servers(home)[0].name)
    times = []
    for number in range(count):
        message = book.run(f'engine.generate("Story number {number}. Once upon a time", config)', wait=False)
        wait_until(lambda: holder.status().slots_busy == 1, 60)
        wait_until(lambda: tokens_so_far(holder) > 0, 60)
        time.sleep(chance.uniform(0.0, 0.3))
        start = time.perf_counter()
        book.interrupt()
        wait_until(lambda: holder.status().slots_busy == 0)
        times.append(time.perf_counter() - start)
        assert "KeyboardInterrupt" in book.result(message) or "Cancelled" in book.result(message)
        assert holder.pid == pid
        assert holder.restarts == 0
    assert (
        book.run(
            'print(engine.generate("The capital of France is", config.model_copy(update={"max_tokens": 4})).completion_tokens)'
        ).strip()
        == "4"
    )
    holder.release()
    print(f"{count} interrupts, seconds until the slot was free:", " ".join(f"{each:.2f}" for each in times))
    return times


@pytest.mark.real
def test_an_interrupt_cancels_the_request_and_spares_the_server(notebook, home):
    """One of three within a second: on a busy machine the kernel, or one token, may take longer."""
    assert min(check_interrupts(3, notebook, home, seed=1)) < 1.0


INTERRUPTED = """
from noa_lab.server._http import ask_json
try:
    engine.generate(text, lab.InferenceConfig(max_tokens=2))
except KeyboardInterrupt:
    (slot,) = ask_json(running.base_url, "/slots", api_key=running.api_key, timeout=60)
    print(slot.get("n_prompt_tokens_processed") or 0)
    raise
"""


def wait_for_slots(running, condition=lambda slot: True):
    """Its slots as soon as it answers and one of them is as it should be; it answers between two micro-batches."""
    while True:
        slots = [as_slot(one) for one in ask_json(running.base_url, "/slots", api_key=running.api_key, timeout=60)]
        if any(map(condition, slots)):
            return slots


@pytest.mark.real
def test_an_interrupt_in_the_prompt_waits_for_one_micro_batch_only(notebook, home):
    """Many micro-batches of prompt: from where the kernel lets go at most the one under way, and the one taken up meanwhile, are computed."""
    book = notebook(home)
    book.run('import noa_lab as lab; running = lab.serve("smollm2-135m", context_size=6144, slots=1, batch_size=128)')
    holder = server.attach(home, server.servers(home)[0].name)
    book.run('engine = running.engine(); text = "one two three four five six seven eight " * 600')
    message = book.run(INTERRUPTED, wait=False)
    (slot,) = wait_for_slots(holder, lambda slot: slot.read > 0)
    book.interrupt()
    read = [slot.read]
    while slot.busy:  # one that is free again has forgotten what it had read
        (slot,) = wait_for_slots(holder)
        read.append(slot.read)
    printed = book.result(message)
    assert "KeyboardInterrupt" in printed
    let_go = int(printed.split()[0])
    assert max(read) <= max(let_go, read[0]) + 2 * 128 < 4800
    holder.release()


@pytest.mark.real
@pytest.mark.full
def test_fifty_interrupts(notebook, home):
    assert max(check_interrupts(INTERRUPTS, notebook, home, seed=2)) < 1.0
