#!/usr/bin/env python3
"""Set noa_lab up and start it. Needs Python 3.11 or newer, and nothing else.

    python lab.py                 set everything up, then open JupyterLab on notebooks/00_start_here.ipynb
    python lab.py demo            set everything up, then compare two prompts in the terminal
    python lab.py test [--full] [--no-browser]
                                  set everything up, then run every test

It can be stopped with Ctrl-C at any time and continues where it stopped. Everything goes into the folder .venv beside this file and
into noa_lab's home (NOA_LAB_HOME, else the user's data folder).

This file uses the standard library only and stays readable for Python 3.6, so that an old Python gets a sentence, not a SyntaxError.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(HERE, ".venv")
BIN = os.path.join(VENV, "Scripts" if os.name == "nt" else "bin")
PYTHON = os.path.join(BIN, "python.exe" if os.name == "nt" else "python")
STAMP = os.path.join(VENV, "noa_lab.stamp")
LOCKS = os.path.join(HERE, "configs", "locks")
ACTIVATE = r".venv\Scripts\activate" if os.name == "nt" else ". .venv/bin/activate"
OLDEST = (3, 11)
NEEDED_BYTES = 4 * 1024**3
REPORT = os.path.join(HERE, "reports", "demo.html")
SCRUBBED = ("PYTHONHOME", "PYTHONPATH", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV", "VIRTUAL_ENV")
NO_NETWORK = "PyPI cannot be reached: check the network or the proxy, then run the same command again."
FIXES = (
    ("No space left on device", "The disk is full: free about 4 GB and run the same command again."),
    ("Temporary failure in name resolution", NO_NETWORK),
    ("Failed to resolve", NO_NETWORK),
    ("NewConnectionError", NO_NETWORK),
    ("Failed to establish a new connection", NO_NETWORK),
    ("ConnectTimeoutError", NO_NETWORK),
    ("ProxyError", NO_NETWORK),
    ("Cannot connect to proxy", NO_NETWORK),
    ("Connection refused", NO_NETWORK),
    ("Read timed out", "PyPI answered too slowly: run the same command again, it continues where it stopped."),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "The network's certificate is not trusted: set PIP_CERT to your organisation's bundle.",
    ),
    ("DO NOT MATCH THE HASHES", "A package is not the one this release was tested with: a mirror may have changed it."),
    ("No matching distribution found", "PyPI has no such file for this Python: use CPython 3.11, 3.12 or 3.13."),
    ("Permission denied", "The folder cannot be written to: copy the project to a folder of your own."),
)


class Stop(Exception):
    """Setting up cannot go on: one sentence on what is missing, and one on what to do."""


def environment():
    """The environment that child processes get: the venv first on PATH, nothing that redirects pip."""
    env = {key: value for key, value in os.environ.items() if key not in SCRUBBED}
    env["PATH"] = BIN + os.pathsep + env.get("PATH", "")
    env["VIRTUAL_ENV"] = VENV
    env["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    env["PIP_NO_INPUT"] = "1"
    env["PYTHONUTF8"] = "1"
    return env


def say(text):
    """Print a line at once."""
    print(text, flush=True)


def run_step(title, command, env=None):
    """Run a command, showing what it is doing and for how long; its whole output appears only when it fails."""
    start = time.time()
    live = sys.stdout.isatty()
    say("· " + title)
    lines = []
    shown = start
    process = subprocess.Popen(
        command,
        env=env or environment(),
        cwd=HERE,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        encoding="utf-8",
        errors="replace",
    )
    packages = 0
    try:
        for line in process.stdout:
            lines.append(line)
            packages += line.startswith("Collecting ")
            now = time.time()
            if now - shown >= (0.2 if live else 15):
                shown = now
                where = "%3d s  %s" % (now - start, ("%d packages  " % packages if packages else "") + line.strip())
                print(
                    ("\r\033[K  " + where[:100]) if live else "  " + where[:100], end="" if live else "\n", flush=True
                )
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if live:
        print("\r\033[K", end="")
    if code:
        text = "".join(lines)
        fix = next(
            (fix for mark, fix in FIXES if mark in text), "Run it again; if it fails again, the lines above say why."
        )
        say("".join(lines[-25:]))
        raise Stop("%s failed (exit code %d).\n%s" % (title, code, fix))
    say("  done in %.0f s" % (time.time() - start))


def check_python():
    """Refuse a Python that is too old, in words."""
    if sys.version_info < OLDEST:
        raise Stop(
            "noa_lab needs Python %d.%d or newer; this is %s.\nInstall a newer Python and run: python%d.%d lab.py"
            % (OLDEST + (platform.python_version(),) + OLDEST)
        )


def check_disk():
    """Refuse to start on a disk that would be full half-way."""
    free = shutil.disk_usage(HERE).free
    if free < NEEDED_BYTES and not os.path.exists(STAMP):
        raise Stop(
            "Setting up needs about %d GB of disk space; %.1f GB are free in %s.\nFree some space and run it again."
            % (NEEDED_BYTES // 1024**3, free / 1024.0**3, HERE)
        )


def make_venv():
    """Make .venv, or make it anew when it is broken or belongs to another Python."""
    if os.path.exists(PYTHON):
        probe = "import pip, sys; sys.exit(sys.version_info[:2] != %r)" % (tuple(sys.version_info[:2]),)
        known = subprocess.call(
            [PYTHON, "-c", probe], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        if known == 0:
            return
        say("· The folder .venv is incomplete or of another Python; it is made anew")
        shutil.rmtree(VENV, ignore_errors=True)
    try:
        run_step("Making a virtual environment in .venv", [sys.executable, "-m", "venv", VENV])
    except Stop:
        shutil.rmtree(VENV, ignore_errors=True)
        raise Stop(
            "Python could not make a virtual environment.\nOn Debian and Ubuntu: sudo apt install python3-venv; "
            "elsewhere use the installer of python.org."
        )


def pip(title, arguments, **more):
    """One pip call inside the venv."""
    env = environment()
    env.update(more)
    run_step(title, [PYTHON, "-m", "pip", "install", "--progress-bar", "off"] + arguments, env)


def stamp_of(lock):
    """What the installed packages came from, and where noa_lab is; another value means that they must be installed again."""
    digest = hashlib.sha256()
    for path in (os.path.join(LOCKS, lock), os.path.join(LOCKS, "bindings.txt"), os.path.join(HERE, "pyproject.toml")):
        with open(path, "rb") as file:
            digest.update(file.read())
    digest.update(os.fsencode(HERE))
    return "%s %s" % (lock, digest.hexdigest())


def install_packages(lock):
    """Install the locked packages, the bindings without compiling them, and noa_lab itself, each checked by hash."""
    stamps = ""
    if os.path.exists(STAMP):
        with open(STAMP, encoding="utf-8") as file:
            stamps = file.read()
    wanted = stamp_of(lock)
    if wanted in stamps or (lock == "core.txt" and stamp_of("test.txt") in stamps):
        return
    pip("Installing the locked packages", ["--require-hashes", "-r", os.path.join(LOCKS, lock)])
    # A call of its own: pip's wheel cache does not know build settings, and a wheel without libraries must not get into it.
    pip(
        "Installing the llama.cpp bindings (without compiling them)",
        [
            "--no-cache-dir",
            "--no-deps",
            "--no-build-isolation",
            "--require-hashes",
            "-r",
            os.path.join(LOCKS, "bindings.txt"),
        ],
        CMAKE_ARGS="-DLLAMA_BUILD=OFF",
    )
    pip("Installing noa_lab", ["--no-deps", "--no-build-isolation", "-e", HERE])
    with open(STAMP, "w", encoding="utf-8") as file:
        file.write(wanted + "\n")


def noa_lab(*arguments):
    """The `noa-lab` command line."""
    return [PYTHON, "-m", "noa_lab.cli"] + list(arguments)


def hand_over(command):
    """End this program and become `command`, so that no parent is left between the terminal and it."""
    sys.stdout.flush()
    if os.name == "nt":
        sys.exit(foreground(command))
    os.chdir(HERE)
    os.execve(command[0], command, environment())


def foreground(command):
    """Run a command with this terminal; Ctrl-C goes to it, and its way of ending is waited for."""
    process = subprocess.Popen(command, env=environment(), cwd=HERE)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def set_up(lock):
    """Everything up to a verified llama.cpp and a verified model."""
    check_python()
    check_disk()
    make_venv()
    install_packages(lock)
    code = foreground(noa_lab("install"))
    if code:
        raise SystemExit(code)


def main(arguments):
    """Do what the command line says; returns the exit code where it does not hand over."""
    verb = arguments[0] if arguments else "lab"
    if verb in ("-h", "--help", "help"):
        say(__doc__)
        return 0
    if verb not in ("lab", "demo", "test"):
        say("lab.py knows no %r.\n%s" % (verb, __doc__))
        return 2
    start = time.time()
    set_up("test.txt" if verb == "test" else "core.txt")
    say("· Everything is set up (%.0f s)" % (time.time() - start))
    if sys.stdout.isatty():
        say("  For the noa-lab command in this terminal: %s" % ACTIVATE)
    if verb == "demo":
        os.makedirs(os.path.dirname(REPORT), exist_ok=True)
        experiment = os.path.join("configs", "experiments", "demo.yaml")
        hand_over(noa_lab("compare", experiment, "--fresh", "--html", REPORT, *arguments[1:]))
    if verb == "test":
        hand_over([PYTHON, os.path.join(HERE, "tests", "check.py")] + arguments[1:])
    hand_over(noa_lab("lab", *arguments[1:]))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Stop as stop:
        sys.exit("\n%s" % stop)
    except KeyboardInterrupt:
        sys.exit("\nStopped. Run the same command again: it continues where it stopped.")
