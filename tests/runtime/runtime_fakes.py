"""Folders of fake llama.cpp programs that fail in chosen ways, and a tiny source tree that compiles in a second."""

from __future__ import annotations

import io
import sys
import tarfile
import textwrap
from pathlib import Path

from noa_lab.runtime import PROGRAMS

SERVER = """
#!{python} -IS
import os, signal, sys, time
fault, devices = {fault!r}, {devices!r}
if "--version" in sys.argv:
    if fault == "version hangs":
        time.sleep(600)
    text = "llama thing, edition nine" if fault == "foreign version" else "version: 0.5.0-dev (build {build}, commit {commit})"
    if fault == "old version":
        text = "version: 4315 (abcdef01)"
    if fault.startswith("says "):
        text = fault[5:]
    print(text, file=sys.stderr)
    print("built with GNU 12.2.0 for Linux x86_64", file=sys.stderr)
    sys.exit(0)
if "--help" in sys.argv:
    if devices is not None:
        print("--list-devices            print list of available devices and exit")
    print("-m,    --model FNAME     model path\\n-kvu,  --kv-unified, -no-kvu, --no-kv-unified\\n          use -x or --y\\n")
    sys.exit(0)
if "--list-devices" in sys.argv:
    print("Available devices:")
    print("\\n".join("  " + device for device in devices) or "  (none)")
    sys.exit(0)
if fault == "library":
    print("llama-server: error while loading shared libraries: libcudart.so.13: cannot open shared object file", file=sys.stderr)
    sys.exit(127)
if fault == "illegal instruction":
    os.kill(os.getpid(), signal.SIGILL)
if fault == "bad model":
    print("error: failed to load model", file=sys.stderr)
    sys.exit(1)
if fault in ("hang", "lives on"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pid_file = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "pid")
    open(pid_file + ".new", "w").write(str(os.getpid()))
    os.rename(pid_file + ".new", pid_file)
    time.sleep(600)
assert os.environ["LLAMA_API_KEY"] and sys.argv[sys.argv.index("--host") + 1] == "127.0.0.1"
assert not any(name.startswith("LLAMA_ARG") or "TOKEN" in name for name in os.environ), "the environment was not scrubbed"
import json, socket
listener = socket.create_server(("127.0.0.1", 0))
print("0.00 I srv  llama_server: listening on http://127.0.0.1:%d" % listener.getsockname()[1], file=sys.stderr, flush=True)
while True:
    # By hand: importing http.server takes longer than everything else here.
    connection, data = listener.accept()[0], b""
    while b"\\r\\n\\r\\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\\r\\n\\r\\n")
    lines = {{line.partition(b":")[0].lower(): line.partition(b":")[2].strip() for line in head.split(b"\\r\\n")}}
    while len(body) < int(lines.get(b"content-length", 0)):
        body += connection.recv(65536)
    good = lines.get(b"authorization") == b"Bearer " + os.environ["LLAMA_API_KEY"].encode()
    if head.startswith(b"POST"):
        if fault == "segfault": os.kill(os.getpid(), signal.SIGSEGV)
        if fault == "silent": time.sleep(600)
        answer = {{"content": "" if fault == "empty" else "there was a", "tokens_predicted": 0 if fault == "empty" else 8}}
    else:
        answer = {{"build_info": "b7777-0123abcd9" if fault.startswith("says ") else "b1"}}
    text = json.dumps(answer).encode()
    connection.sendall(b"HTTP/1.1 %d X\\r\\nContent-Length: %d\\r\\nConnection: close\\r\\n\\r\\n" % (200 if good else 401, len(text)) + text)
    connection.close()
"""

BENCH = """
#!{python} -IS
import json, sys
times = {times!r}
for threads in sys.argv[sys.argv.index("-t") + 1].split(","):
    for share in (0.25, 0.75):
        print(json.dumps({{"n_threads": int(threads), "samples_ns": [int(times[threads] * share * 1e9), 10**12]}}))
"""


REJECTED = {
    "illegal instruction": "SIGILL",
    "segfault": "SIGSEGV",
    "hang": "hung",
    "version hangs": "hung",
    "foreign version": "edition nine",
    "library": "libcudart.so.13",
    "empty": "gave 0",
}
"""Ways in which the fake llama-server fails its trial, and a word that the rejection must hold."""


def write_program(path: Path, text: str) -> None:
    path.write_text(textwrap.dedent(text).lstrip())
    path.chmod(0o755)


def fake_programs(
    folder: Path,
    fault: str = "",
    *,
    build: int = 11312,
    commit: str = "0c1e57098",
    devices: tuple[str, ...] | None = None,
) -> Path:
    """A folder of programs whose llama-server has a fault, or none.

    `devices` is what it lists with `--list-devices`; None makes it too old to know that.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in PROGRAMS:
        write_program(folder / name, "#!/bin/sh\nexit 0\n")
    server = SERVER.format(python=sys.executable, fault=fault, build=build, commit=commit, devices=devices)
    write_program(folder / "llama-server", server)
    times = {str(count): abs(count - 2) + 1.0 for count in range(1, 257)}
    write_program(folder / "llama-bench", BENCH.format(python=sys.executable, times=times))
    (folder / "libllama.so.0.5.0").write_bytes(b"\x7fELF, not really")
    for link, target in (("libllama.so.0", "libllama.so.0.5.0"), ("libllama.so", "libllama.so.0")):
        if not (folder / link).is_symlink():
            (folder / link).symlink_to(target)
    return folder


def tiny_source(folder: Path, *, broken: bool = False, slow: bool = False) -> Path:
    """A CMake project with llama.cpp's targets that compiles in a second."""
    folder.mkdir(parents=True)
    targets = "\n".join(f"add_executable({name} main.cpp)" for name in PROGRAMS)
    stall = "add_custom_target(stall COMMAND sleep 300)\nadd_dependencies(llama-server stall)\n" if slow else ""
    (folder / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.14)\nproject(tiny CXX)\n"
        "set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)\n"
        'add_compile_definitions(BUILD="${LLAMA_BUILD_NUMBER}" COMMIT="${LLAMA_BUILD_COMMIT}")\n'
        + targets
        + "\n"
        + stall
    )
    fault = "\nint oops = undeclared_thing;" if broken else ""
    (folder / "main.cpp").write_text(f'#include <cstdio>\nint main() {{ std::puts(BUILD " " COMMIT); }}{fault}\n')
    return folder


def tar_of(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    """A .tar.gz with exactly these members."""
    with tarfile.open(path, "w:gz") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def file_member(name: str, content: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), content


def link_member(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""
