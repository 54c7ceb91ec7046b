"""Promises over many trials: a port thief, crashes at random moments, starts and stops without leaks. A tenth here, all with `-m full`."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import socket
import threading
import time

import psutil
import pytest
from server_fakes import gone_within, is_clean, wait_until

from noa_lab import server
from noa_lab.errors import NoaLabError, ServerExited, StreamBroken
from noa_lab.inference import CompletionRequest
from noa_lab.server import ServerSettings

PROMISE = 2.0
ASK = CompletionRequest(prompt="Once", max_tokens=3)


# --- the port thief


class Thief:
    """Grabs every port that it is told of as soon as it is free, and answers there as a llama-server would."""

    def __init__(self) -> None:
        self.wanted: set[int] = set()
        self.stolen: dict[int, socket.socket] = {}
        self.heard: list[bytes] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._grab, self._answer)]
        for thread in self._threads:
            thread.start()

    def _grab(self) -> None:
        while not self._stop.is_set():
            for port in list(self.wanted):
                for reuse in (False, True):
                    one = socket.socket()
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
                    try:
                        one.bind(("127.0.0.1", port))
                        one.listen()
                        one.settimeout(0.01)
                        self.stolen[port] = one
                        self.wanted.discard(port)
                        break
                    except OSError:
                        one.close()
            time.sleep(0.0005)

    def _answer(self) -> None:
        while not self._stop.wait(0.001):
            for one in list(self.stolen.values()):
                with contextlib.suppress(OSError):
                    connection, _ = one.accept()
                    with connection:
                        connection.settimeout(1)
                        self.heard.append(connection.recv(4096))
                        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"status":"ok"}')

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for one in self.stolen.values():
            one.close()


def pid_after(pid, running):
    """The pid after a restart: the new server may answer before the news of it is here, and after `release` there is no more news."""
    wait_until(lambda: running.pid not in (0, pid), 20)
    return running.pid


def check_thief(count, serve_, fake, seed):
    """Starts, crashes and ends under the eyes of the thief: whatever is asked reaches our server or nobody."""
    chance = random.Random(seed)
    thief = Thief()
    answered = refused = 0
    try:
        for _ in range(count):
            running = serve_()
            client = running.client()
            port, pid = int(running.base_url.rpartition(":")[2]), running.pid
            thief.wanted.add(port)
            assert all(check.ok for check in server.test_server(running.base_url, running.api_key))
            end = chance.choice(["crash", "stop", "release"])
            if end == "crash":
                os.kill(pid, signal.SIGKILL)
                answered += client.completion(ASK).content == " t0 t1 t2"
                pid = pid_after(pid, running)
            if end == "stop":
                running.stop()
            else:
                running.release()
            gone_within(pid, PROMISE + 3)
            try:
                client.completion(ASK)
            except NoaLabError:
                refused += 1
            del running, client
        gc.collect()
        wait_until(lambda: len(thief.stolen) >= count // 2, 10)  # it is a good thief: what is free at last, it gets
    finally:
        thief.close()
    return thief.heard, answered, refused


def test_a_port_thief_hears_nothing(bare_home, fake):
    heard, answered, refused = check_thief(8, lambda: server.serve(fake.runtime, fake.model, home=bare_home), fake, 3)
    assert heard == []
    assert refused == 8
    assert answered > 0


@pytest.mark.full
@pytest.mark.parametrize("part", range(2))
def test_a_port_thief_hears_nothing_in_two_hundred_starts(bare_home, fake, part):
    seed = 4 + part
    heard, _, refused = check_thief(100, lambda: server.serve(fake.runtime, fake.model, home=bare_home), fake, seed)
    assert heard == []
    assert refused == 100


# --- crashes at random moments


def check_crashes(count, home, fake, seed):
    """A request, and SIGKILL or SIGSTOP at a random moment of it: it is answered once, or fails by name, and never both."""
    chance = random.Random(seed)
    results = {"answered": 0, "broken": 0}
    settings = ServerSettings(hang_seconds=1.0)
    for _ in range(count):
        with server.serve(fake.runtime, fake.model, settings, home=home) as running:
            before, tokens_before = fake.requests, fake.tokens
            gate = chance.randrange(4)
            fake.let_pass(gate)
            result = []
            thread = threading.Thread(target=lambda: result.append(outcome(running.client())))  # noqa: B023
            thread.start()
            wait_until(lambda: fake.requests > before)  # noqa: B023
            wait_until(lambda: gate == 0 or fake.tokens > tokens_before)  # noqa: B023 - else it dies with no token sent
            time.sleep(chance.uniform(0, 0.05))
            pid = running.pid
            os.kill(pid, chance.choice([signal.SIGKILL, signal.SIGSTOP]))
            start = time.perf_counter()
            wait_until(lambda: running.state == "starting" or running.pid != pid, 1.0 + 5.0)  # noqa: B023
            assert time.perf_counter() - start < 1.0 + 5.0
            fake.let_pass(None)
            thread.join(30)
            sent = fake.requests - before
            assert result[0] in ("answered", "broken")
            assert sent == (2 if result[0] == "answered" else 1)
            assert (result[0] == "answered") == (gate == 0)
            results[result[0]] += 1
    return results


def outcome(client):
    try:
        return "answered" if client.completion(ASK).content == " t0 t1 t2" else "wrong"
    except StreamBroken as error:
        assert error.fields["text"] in (" t0", " t0 t1", " t0 t1 t2")
        return "broken"


def test_requests_survive_crashes_at_random_moments_or_fail_by_name(bare_home, fake):
    results = check_crashes(5, bare_home, fake, 7)
    assert sum(results.values()) == 5


@pytest.mark.full
@pytest.mark.parametrize("part", range(2))
def test_requests_survive_a_hundred_crashes_or_fail_by_name(bare_home, fake, part):
    results = check_crashes(50, bare_home, fake, 8 + part)
    assert results["answered"] > 3
    assert results["broken"] > 15


@pytest.mark.full
def test_loading_servers_that_die_are_started_again_or_given_up(bare_home, fake):
    """Forty servers of which the first 0 to 4 starts die while they load: up to two deaths are survived, three are the end, by name."""
    chance = random.Random(9)
    for _ in range(40):
        deaths = chance.randrange(5)
        (fake.folder / "starts").unlink(missing_ok=True)
        number = chance.choice([signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV])
        fake.behave(signal=number, bad_starts=deaths, load_seconds=chance.uniform(0, 0.1))
        if deaths < 3:
            with server.serve(fake.runtime, fake.model, home=bare_home) as running:
                assert running.restarts == deaths
        else:
            with pytest.raises(ServerExited, match="3 times in a row"):
                server.serve(fake.runtime, fake.model, home=bare_home)
        assert fake.starts == min(deaths, 2) + 1
    wait_until(lambda: is_clean(bare_home))


# --- starts and stops


def check_cycles(count, start, home):
    """Starts and stops leave no descriptors, threads, files or processes."""

    def cycle():
        with start() as running:
            pid = running.pid
            running.status()
        gone_within(pid, PROMISE)

    for _ in range(3):
        cycle()
    gc.collect()
    before = (psutil.Process().num_fds(), threading.active_count())
    for _ in range(count):
        cycle()
    gc.collect()
    # No more than before: what an earlier test has left may end meanwhile.
    wait_until(lambda: psutil.Process().num_fds() <= before[0] and threading.active_count() <= before[1])
    wait_until(lambda: is_clean(home))
    # A finished child of the child (`_watch` forks once) is collected by this process or by init.
    wait_until(lambda: not [one for one in psutil.Process().children() if one.status() == psutil.STATUS_ZOMBIE])


def test_starts_and_stops_leave_nothing(bare_home, fake):
    check_cycles(8, lambda: server.serve(fake.runtime, fake.model, home=bare_home), bare_home)


@pytest.mark.full
@pytest.mark.parametrize("part", range(4))
def test_a_thousand_starts_and_stops_of_the_fake(part, bare_home, fake):
    check_cycles(250, lambda: server.serve(fake.runtime, fake.model, home=bare_home), bare_home)


@pytest.mark.full
@pytest.mark.real
def test_fifty_starts_and_stops_of_the_real_one(bare_home, runtime, model):
    settings = ServerSettings(context_size=256, slots=1)
    check_cycles(50, lambda: server.serve(runtime, model, settings, home=bare_home), bare_home)
