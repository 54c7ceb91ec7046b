"""Marks of processes, connections, logs, records, reasons: one part at a time."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from server_fakes import gone_within

from noa_lab.server import _child, _listening
from noa_lab.server._channel import (
    UNIX_PATH_LIMIT,
    ChannelEnded,
    connect,
    listen,
    remove_address,
    socket_path,
    transport_for,
)
from noa_lab.server._child import _LISTENING, Child
from noa_lab.server._death import Guard, death_watch_for, end_steps, job_object, server_flags, watcher_flags
from noa_lab.server._exits import explain_exit
from noa_lab.server._identity import ProcessMark, here, is_alive, mark_of, own_mark, owns_port, signal_process
from noa_lab.server._log import LogWriter
from noa_lab.server._record import ServerRecord, read_record, write_record
from noa_lab.server._spawn import inherits_connections

# --- identity


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-IS", "-c", "import time; time.sleep(60)"])


def test_a_mark_holds_for_one_process_only():
    with sleeper() as process:
        mark = mark_of(process.pid)
        assert is_alive(mark)
        assert not is_alive(ProcessMark(process.pid, "ticks:1"))
        assert not is_alive(ProcessMark(process.pid, ""))
        assert signal_process(ProcessMark(process.pid, "ticks:1"), signal.SIGKILL) is False
        assert process.poll() is None
        assert signal_process(mark, signal.SIGKILL) is True
    assert not is_alive(mark)
    assert signal_process(mark, signal.SIGKILL) is False


def test_a_zombie_is_not_alive():
    process = sleeper()
    mark = mark_of(process.pid)
    process.kill()
    gone_within(process.pid, 20)
    assert psutil.pid_exists(process.pid)
    assert not is_alive(mark)
    process.wait()


def test_marks_by_proc_and_by_psutil_agree():
    from noa_lab.server import _identity

    mark = own_mark()
    if mark.started.startswith("ticks:"):
        ticks = int(mark.started[6:]) / os.sysconf("SC_CLK_TCK") + psutil.boot_time()
        assert abs(ticks - psutil.Process().create_time()) < 2
    assert _identity._mark_from_psutil(os.getpid()) == _identity._mark_from_psutil(os.getpid())
    assert _identity._mark_from_psutil(2**22 + 1) is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells everybody")
@pytest.mark.parametrize("netlink", [True, False], ids=["netlink", "proc"])
def test_who_listens_is_seen_in_both_families(netlink, monkeypatch):
    def refuse(family):
        raise PermissionError(1, "no netlink here")

    if not netlink:
        monkeypatch.setattr(_listening, "_ask", refuse)
    with (
        socket.create_server(("127.0.0.1", 0)) as four,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as six,
        socket.create_connection(four.getsockname()) as connected,
    ):
        for one in (four, six):
            found = _listening.listening_inodes(one.getsockname()[1])
            assert found == (os.fstat(one.fileno()).st_ino,)
            assert _listening.holds_socket(os.getpid(), found)
            assert not _listening.holds_socket(os.getppid(), found)
        assert _listening.listening_inodes(connected.getsockname()[1]) == ()  # it is connected, it does not listen


def test_owns_port_tells_our_listener_from_a_stranger():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener, sleeper() as other:
        port = listener.getsockname()[1]
        assert owns_port(own_mark(), port)
        assert not owns_port(mark_of(other.pid), port)
        other.kill()


# --- channel


@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_messages_cross_both_transports(tmp_path, transport):
    listener, address = listen(transport, tmp_path)
    channel = connect(address, 20)
    listener.setblocking(True)
    connection, _ = listener.accept()
    assert channel.receive(0) is None
    connection.sendall(b'{"a": 1}\n{"b"')
    assert channel.receive(20) == {"a": 1}
    assert channel.receive(0.01) is None
    connection.sendall(b": 2}\n")
    assert channel.receive(20) == {"b": 2}
    channel.send({"c": 3})
    assert connection.recv(100) == b'{"c": 3}\n'
    assert not os.get_inheritable(channel._socket.fileno())
    connection.close()
    with pytest.raises(ChannelEnded):
        channel.receive(20)
    channel.close()
    listener.close()
    remove_address(address, tmp_path)
    assert not (tmp_path / "watcher.sock").exists()


def test_a_deep_home_gets_a_short_socket(tmp_path):
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    path = socket_path(deep)
    assert len(os.fsencode(path)) <= UNIX_PATH_LIMIT
    assert path.parent.stat().st_mode & 0o777 == 0o700
    listener, address = listen("unix", deep)
    listener.close()
    remove_address(address, deep)
    assert not Path(address.removeprefix("unix:")).parent.exists()
    path.parent.rmdir()


def test_a_forked_child_does_not_keep_the_connection(tmp_path):
    listener, address = listen("unix", tmp_path)
    channel = connect(address, 20)
    listener.setblocking(True)
    connection, _ = listener.accept()
    child = os.fork()
    if child == 0:
        time.sleep(30)
        os._exit(0)
    try:
        channel._socket.close()  # as the kernel does when this process dies: no shutdown
        connection.settimeout(20)
        assert connection.recv(1) == b""
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        channel.close()
        connection.close()
        listener.close()


# --- decisions for other systems


def test_decisions_by_system():
    assert [transport_for(name) for name in ("posix", "nt")] == ["unix", "tcp"]
    assert [inherits_connections(name) for name in ("posix", "nt")] == [True, False]
    assert [death_watch_for(name) for name in ("linux", "darwin", "freebsd14", "win32")] == [
        "pdeathsig",
        "guard",
        "guard",
        "job",
    ]


def test_ending_takes_less_than_two_seconds_everywhere():
    for name, last in (("posix", "kill"), ("nt", "kill")):
        steps = end_steps(name)
        assert steps[-1][1] == last
        assert steps[-1][0] <= 1.2
        assert [when for when, _ in steps] == sorted(when for when, _ in steps)
    assert [action for _, action in end_steps("posix")] == ["terminate", "terminate", "kill"]


def test_windows_lets_the_watcher_leave_its_starters_job_and_reach_its_server_with_ctrl_break(monkeypatch, tmp_path):
    from noa_lab.server import _spawn

    group, unseen, breakaway = 0x200, 0x8000000, 0x1000000
    assert watcher_flags("posix") == (0,)
    assert watcher_flags("nt") == (group | unseen | breakaway, group | unseen)
    assert server_flags("posix") == 0
    assert server_flags("nt") == group  # not unseen: it shares the watcher's console, over which CTRL_BREAK goes
    assert [action for _, action in end_steps("nt")] == ["break", "kill"]
    tried = []

    def refuse(command, *, creationflags, **more):
        tried.append(creationflags)
        if creationflags & breakaway:
            raise PermissionError(13, "the job lets nobody leave it")
        return "started"

    monkeypatch.setattr(_spawn, "watcher_flags", lambda os_name: watcher_flags("nt"))
    monkeypatch.setattr(_spawn.subprocess, "Popen", refuse)
    assert _spawn._start_apart(["x"], None, tmp_path) == "started"
    assert tried == [group | unseen | breakaway, group | unseen]


def test_the_guard_spares_what_it_was_dismissed_from():
    with sleeper() as process:
        Guard(process.pid).dismiss()
        assert process.poll() is None
        process.kill()


def test_the_guard_kills_when_its_master_dies():
    with sleeper() as process:
        code = f"import os; from noa_lab.server._death import Guard; g = Guard({process.pid}); os.kill(os.getpid(), 9)"
        subprocess.run([sys.executable, "-c", code])
        assert process.wait(20) == -signal.SIGKILL


def test_what_nothing_would_end_with_the_watcher_is_ended_at_once(tmp_path, monkeypatch):
    """Where the guard, or Windows' job, cannot be had: a llama-server without it could outlive everybody."""
    started = []

    def refuse(pid):
        started.append(pid)
        raise OSError(11, "no process can be started")

    monkeypatch.setattr(_child, "Guard", refuse)
    log = LogWriter(tmp_path / "a.log")
    command = [sys.executable, "-IS", "-c", "import time; time.sleep(60)"]
    with pytest.raises(OSError, match="no process"):
        Child(command, {}, folder=tmp_path, log=log, death_watch="guard", notify=lambda kind, value: None)
    assert not psutil.pid_exists(started[0])
    log.close()


class Kernel32:
    """What `job_object` asks of Windows, written down; `refuse` names the call that fails."""

    class _Call:
        def __init__(self, result, calls, name):
            self.result, self.calls, self.name = result, calls, name

        def __call__(self, *arguments):
            self.calls.append((self.name, *arguments))
            return self.result

    def __init__(self, refuse=""):
        self.calls = []
        results = {"CreateJobObjectW": 7, "OpenProcess": 9, "SetInformationJobObject": 1, "AssignProcessToJobObject": 1}
        for name, result in {**results, "CloseHandle": 1}.items():
            setattr(self, name, self._Call(None if name == refuse else result, self.calls, name))

    def closed(self):
        return [call[1].value for call in self.calls if call[0] == "CloseHandle"]


def test_windows_kills_the_server_with_the_last_handle_of_its_job(monkeypatch):
    kernel = Kernel32()
    monkeypatch.setattr(ctypes, "WinDLL", lambda name, use_last_error: kernel, raising=False)
    assert job_object(4711) == 7, "whoever has this handle keeps the server alive"
    asked = {call[0]: call[1:] for call in kernel.calls}
    assert asked["OpenProcess"][2] == 4711
    job, what, _, size = asked["SetInformationJobObject"]
    assert (job.value, what) == (7, 9)  # JobObjectExtendedLimitInformation
    assert size == (144 if ctypes.sizeof(ctypes.c_void_p) == 8 else 112)
    assert [handle.value for handle in asked["AssignProcessToJobObject"]] == [7, 9]
    assert kernel.closed() == [9], "the job's handle stays open"


@pytest.mark.parametrize(
    ("refused", "closed"),
    [
        ("CreateJobObjectW", [9]),
        ("OpenProcess", [7]),
        ("SetInformationJobObject", [9, 7]),
        ("AssignProcessToJobObject", [9, 7]),
    ],
)
def test_a_job_that_windows_refuses_is_an_error_and_leaves_no_handle(monkeypatch, refused, closed):
    kernel = Kernel32(refused)
    monkeypatch.setattr(ctypes, "WinDLL", lambda name, use_last_error: kernel, raising=False)
    with pytest.raises(OSError, match="job object"):
        job_object(4711)
    assert kernel.closed() == closed


# --- record


def record(**changes) -> ServerRecord:
    values = {
        **dict.fromkeys(("name", "alias", "fingerprint", "runtime", "log"), "a"),
        "state": "ready",
        "api_key": "kkk",
        "secret": "sss",
        "model": {},
        "settings": {},
        "port": 1,
        "here": here(),
        "watcher": own_mark(),
        "process": own_mark(),
    }
    return ServerRecord(**{**values, **changes})


def test_a_record_survives_the_disk_and_hides_its_secrets(tmp_path):
    folder = tmp_path / "a"
    written = record(notes=("n",))
    write_record(folder, written)
    assert read_record(folder) == written
    assert (folder / "record.json").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert "kkk" not in repr(written)
    assert "sss" not in repr(written)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"name": 1', "\0"])
def test_a_broken_record_is_no_record(tmp_path, content):
    (tmp_path / "record.json").write_text(content)
    assert read_record(tmp_path) is None


def test_a_record_is_stale_when_its_watcher_is_gone_from_this_machine():
    gone = ProcessMark(os.getpid(), "ticks:1")
    assert not record().stale
    assert record(watcher=gone).stale
    assert not record(watcher=gone, state="crashed").stale
    assert not record(watcher=gone, here="another-host/boot/ns").stale
    host, _, place = here().partition("/")
    rebooted = f"{host}/another-boot/ns"
    assert record(here=rebooted).stale
    assert not record(here=rebooted).local
    renamed = f"new-name/{place}"
    assert record(here=renamed).local
    assert record(here=renamed, watcher=gone).stale


# --- what llama-server says


@pytest.mark.parametrize(
    ("line", "port"),
    [
        ("0.00.651.706 I srv  llama_server: listening on http://127.0.0.1:34211", "34211"),
        ("main: server is listening on http://127.0.0.1:8080 - starting the main loop", "8080"),
        ("srv load_model: loading model '/x/llama_server: listening on http://127.0.0.1:99'", None),
        ("srv load_model: loading model '/x/llama_server: listening on http://127.0.0.1:99.gguf'", None),
        ("srv  llama_server: listening on http://[::1]:34211", "34211"),
        ("srv  llama_server: listening on http://10.0.0.1:34211 or so", None),
    ],
)
def test_the_port_is_read_from_the_servers_own_line_only(line, port):
    found = _LISTENING.search(line)
    assert (found[1] if found else None) == port


BAD = "0.00.004.602 E gguf_init_from_reader: failed to read header\n0.00.004.622 E cmn  common_init_: failed to load model '/x/bad.gguf'"


@pytest.mark.parametrize(
    ("code", "log", "kind", "words"),
    [
        (1, BAD, "model", "gguf_init_from_reader: failed to read header"),
        (1, "E srv start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 80", "port", "couldn't bind"),
        (1, "error: invalid argument: --frob", "argument", "--frob"),
        (
            127,
            "llama-server: error while loading shared libraries: libllama.so: cannot open shared object file",
            "library",
            "libllama.so",
        ),
        (
            1,
            "E ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 9",
            "memory",
            "failed to allocate",
        ),
        (-4, "", "cpu", "SIGILL"),
        (-6, "GGML_ASSERT(n > 0) failed", "crash", "GGML_ASSERT(n > 0) failed"),
        (-9, "", "signal", "SIGKILL"),
        (-11, "", "crash", "SIGSEGV"),
        (-24, "", "signal", "SIGXCPU"),
        (0xC000001D, "", "cpu", "SIGILL"),
        (3, "0.00.1 E srv x: nothing works", "other", "exit code 3: srv x: nothing works"),
        (3, "", "other", "exit code 3"),
    ],
)
def test_exits_are_put_into_words(code, log, kind, words):
    reason = explain_exit(code, log.splitlines())
    assert reason.kind == kind
    assert words in reason.words
    assert reason.fix.endswith(".")


def test_a_kill_for_lack_of_memory_is_named_by_the_kernels_count():
    assert explain_exit(-9, [], oom_before=3, oom_after=4).kind == "memory"
    assert explain_exit(-9, [], oom_before=3, oom_after=3).kind == "signal"


def test_threads_may_share_a_channel(tmp_path):
    listener, address = listen("unix", tmp_path)
    channel = connect(address, 20)
    threads = [threading.Thread(target=channel.send, args=({"n": number},)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    listener.setblocking(True)
    connection, _ = listener.accept()
    channel.close()
    with connection.makefile("rb") as sent:
        assert len(sent.readlines()) == 20
    for end in (connection, listener):
        end.close()
