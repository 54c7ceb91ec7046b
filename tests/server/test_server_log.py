"""Logs: levels, rotation, secrets, full disks; reading their end and following them."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from noa_lab import server
from noa_lab.errors import BadInput, ServerError
from noa_lab.server import LogSettings, _status
from noa_lab.server._log import KEPT, LogWriter, follow, redact, tail

INFO = "0.00.016.622 I srv    load_model: loading model 'x'"
WARNING = "0.00.013.636 W srv  llama_server: embeddings enabled"
ERROR = "0.00.004.602 E gguf_init_from_reader: failed to read header"
DEBUG = "0.01.000.000 D slot update: prompt"


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("error", [ERROR]),
        ("warning", [WARNING, ERROR]),
        ("info", [INFO, WARNING, ERROR]),
        ("debug", [INFO, WARNING, ERROR, DEBUG]),
    ],
)
def test_levels_decide_what_is_written(tmp_path, level, written):
    log = LogWriter(tmp_path / "a.log", level=level)
    for line in (INFO, WARNING, ERROR, DEBUG):
        log.write(line)
    log.note("ours is always written")
    log.close()
    assert (tmp_path / "a.log").read_text().splitlines() == [*written, "[noa_lab] ours is always written"]


def test_a_line_without_a_level_goes_with_the_one_before(tmp_path):
    log = LogWriter(tmp_path / "a.log", level="error")
    for line in ("what(): early", ERROR, "  its second line", INFO, "  not this"):
        log.write(line)
    log.close()
    assert (tmp_path / "a.log").read_text().splitlines() == ["what(): early", ERROR, "  its second line"]


def test_the_log_is_rotated_by_size_and_keeps_the_last(tmp_path):
    path = tmp_path / "a.log"
    log = LogWriter(path, max_bytes=100)
    for number in range(120):
        log.write(f"line {number:03d}")
    log.close()
    names = ["a.log", *(f"a.log.{number}" for number in range(1, KEPT + 1))]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    assert all(file.stat().st_size <= 100 for file in tmp_path.iterdir())
    assert tail(path, 12)[-1] == "line 119"
    assert tail(path, 12)[0] == "line 108"
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("rotation", "rotated"), [("hourly", True), ("daily", True), ("weekly", True), ("none", False)]
)
def test_the_log_is_rotated_when_its_period_is_over(tmp_path, monkeypatch, rotation, rotated):
    path = tmp_path / "a.log"
    now = time.time()
    log = LogWriter(path, rotation=rotation)
    log.write("before")
    monkeypatch.setattr(time, "time", lambda: now + 8 * 86400)
    log.write("after")
    log.write("and after")
    log.close()
    assert (tmp_path / "a.log.1").exists() == rotated
    assert path.read_text() == ("after\nand after\n" if rotated else "before\nafter\nand after\n")


def test_a_file_of_another_day_is_set_aside_by_the_next_writer(tmp_path):
    path = tmp_path / "a.log"
    path.write_text("yesterday\n")
    os.utime(path, (time.time() - 2 * 86400,) * 2)
    log = LogWriter(path)
    log.write("today")
    log.close()
    assert path.read_text() == "today\n"
    assert (tmp_path / "a.log.1").read_text() == "yesterday\n"


def test_the_log_holds_no_secret_and_survives_a_full_disk(tmp_path):
    log = LogWriter(tmp_path / "a.log", ("s3cret", ""))
    log.write("key s3cret.")

    class Full:
        closed = False

        def write(self, data):
            raise OSError(28, "No space left on device")

    real, log._file = log._file, Full()
    log.write("lost")
    log._file = real
    log.write("after")
    log.close()
    assert (tmp_path / "a.log").read_text() == "key [redacted].\n[noa_lab] 1 lines could not be written\nafter\n"


@pytest.mark.parametrize(
    "line",
    [
        "Authorization: Bearer sk-abcdefgh12345",
        "got api_key=abcdefgh12345 from",
        "x-api-key: abcdefgh12345",
        'api_key": "abcdefgh12345"',
    ],
)
def test_keys_of_others_are_masked_by_where_they_stand(line):
    assert "abcdefgh12345" not in redact(line, ())


def test_plain_lines_are_left_as_they_are():
    line = "W srv operator(): unauthorized: Invalid API Key"
    assert redact(line, ("", "other")) == line


def test_a_rotation_that_fails_loses_nothing(tmp_path, monkeypatch):
    """Windows renames no file that somebody has open."""
    log = LogWriter(tmp_path / "a.log", max_bytes=20)
    log.write("0123456789")

    def refuse(self, target):
        raise PermissionError(13, "used by another process")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", refuse)
        log.write("abcdefghij")
    log.write("after")
    log.close()
    text = (tmp_path / "a.log.1").read_text() + (tmp_path / "a.log").read_text()
    assert text == "0123456789\nabcdefghij\nafter\n"


def test_rotations_that_fail_do_not_push_the_older_files_out(tmp_path, monkeypatch):
    path = tmp_path / "a.log"
    log = LogWriter(path, max_bytes=20)
    for number in range(KEPT):
        log.write(f"old line number {number}")
    rename = Path.replace

    def refuse(self, target):
        if self == path:
            raise PermissionError(13, "used by another process")
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", refuse)
        for number in range(2 * KEPT):
            log.write(f"new line {number}")
    log.close()
    kept = [file.read_text() for file in tmp_path.glob("a.log.*")]
    assert sorted(kept) == [f"old line number {number}\n" for number in range(KEPT - 1)]
    assert path.read_text().startswith(f"old line number {KEPT - 1}\nnew line 0\n")


def test_a_disk_with_no_room_for_a_new_file_loses_lines_and_not_the_log(tmp_path, monkeypatch):
    path = tmp_path / "a.log"
    log = LogWriter(path, max_bytes=20)
    log.write("a line of the day")

    def refuse(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        for number in range(3):
            log.write(f"lost line {number}")
    log.write("after")
    log.close()
    assert path.read_text() == "[noa_lab] 3 lines could not be written\nafter\n"
    assert [file.read_text() for file in tmp_path.glob("a.log.*")] == ["a line of the day\n"]


def test_the_watchers_own_lines_may_come_while_the_file_is_set_aside(tmp_path, monkeypatch):
    log = LogWriter(tmp_path / "a.log", max_bytes=20)
    log.write("0123456789")
    rename, threads, failed = Path.replace, [], []

    def note():
        try:
            log.note("from the other thread")
        except Exception as error:
            failed.append(error)

    def meanwhile(self, target):
        if not threads:
            threads.append(threading.Thread(target=note))
            threads[0].start()
            threads[0].join(0.2)  # it may go on only when the new file is there
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", meanwhile)
    log.write("abcdefghijk")
    threads[0].join(5)
    log.close()
    written = [line for file in tmp_path.iterdir() for line in file.read_text().splitlines()]
    assert failed == []
    assert sorted(written) == ["0123456789", "[noa_lab] from the other thread", "abcdefghijk"]


def test_following_a_log_crosses_a_rotation(tmp_path):
    path = tmp_path / "a.log"
    log = LogWriter(path, max_bytes=40)
    log.write("before")
    seen = []
    lines = follow(path, interval=0.01)
    assert next(lines) == ""
    for number in range(3):
        log.write(f"new line number {number}")
        seen.append(next(line for line in lines if line))
    assert seen == [f"new line number {number}" for number in range(3)]
    log.write("unread 1 before")
    log.write("unread 2 after the rotation, which sets it aside")  # the first is in the file set aside by now
    log.close()
    rest = []
    while len(rest) < 2:
        rest += [line for line in [next(lines)] if line]
    assert [line[:8] for line in rest] == ["unread 1", "unread 2"]


def test_the_end_of_a_long_log_is_read_alone(tmp_path):
    path = tmp_path / "a.log"
    path.write_text("".join(f"{number:07d} {'x' * 90}\n" for number in range(50_000)))
    assert [line[:7] for line in tail(path, 3)] == ["0049997", "0049998", "0049999"]
    assert len(tail(path, 2000)) == 2000
    assert tail(path, 0) == []
    assert tail(tmp_path / "none.log", 5) == []


def test_settings_take_the_names_that_people_use(tmp_path):
    assert LogSettings(level="WARN").level == "warning"
    assert LogSettings(level="debug").verbosity == 5
    assert LogSettings(level="error").verbosity == 3  # the watcher reads what is said at 3
    with pytest.raises(BadInput):
        LogSettings(level="loud")
    with pytest.raises(BadInput):
        LogSettings(rotation="yearly")


def test_two_servers_do_not_write_to_one_file(tmp_path):
    log = LogSettings(file=tmp_path / "server.log")
    assert log.path_for("tiny", tmp_path, []) == tmp_path / "server.log"
    assert log.path_for("tiny", tmp_path, [str(tmp_path / "server.log")]) == tmp_path / "server-tiny.log"
    assert LogSettings().path_for("tiny", tmp_path, []) == tmp_path / "tiny.log"


def test_a_server_writes_where_it_was_told(serve, fake, bare_home, tmp_path):
    fake.behave(say=["an error"])
    running = serve(logging=LogSettings(level="error", file=tmp_path / "deep" / "mine.log"))
    text = (tmp_path / "deep" / "mine.log").read_text()
    assert "E an error" in text
    assert "listening" not in text
    assert running.logs()[-1].endswith("E an error")
    assert any("an error" in line for line in server.read_log(bare_home, "tiny"))
    running.stop()
    assert any("an error" in line for line in server.read_log(bare_home, "tiny"))


def test_a_log_that_cannot_be_written_is_named_and_nothing_is_started(serve, bare_home, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ServerError, match="cannot be written") as caught:
        serve(logging=LogSettings(file=tmp_path / "file" / "a.log"))
    assert "logging.file" in caught.value.fix
    assert server.servers(bare_home) == []


def test_logs_are_readable_by_name_also_afterwards(serve, bare_home):
    running = serve()
    assert any("listening on" in line for line in running.logs())
    running.stop()
    assert any("listening on" in line for line in server.read_log(bare_home, "tiny", lines=20))
    assert len(list(server.read_log(bare_home, "tiny", lines=1))) == 1


def test_following_a_log_ends_with_the_server(serve, bare_home):
    running = serve()
    lines = server.read_log(bare_home, "tiny", lines=0, follow=True)
    running.stop()
    seen = list(lines)
    assert any("llama-server ended" in line for line in seen)


def test_the_last_words_are_followed_also_where_they_come_between_two_looks(serve, bare_home, monkeypatch):
    """The watcher writes them and removes the record: after the last look into the log, and before the one for the record."""
    running = serve()

    def meanwhile(home, name):
        running.stop()
        return find(home, name)

    find = _status.find
    monkeypatch.setattr(_status, "find", meanwhile)
    assert any("llama-server ended" in line for line in server.read_log(bare_home, "tiny", lines=0, follow=True))


def test_what_is_written_while_the_last_lines_are_shown_is_followed_once(serve, bare_home):
    running = serve()
    log = running.log
    lines = server.read_log(bare_home, "tiny", lines=2, follow=True)
    shown = [next(lines)]
    with log.open("a") as file:
        file.write("written meanwhile\n")
    running.stop()
    shown += lines
    assert "listening on" in shown[1]
    assert shown.count("written meanwhile") == 1
    assert "llama-server ended" in shown[-1]
