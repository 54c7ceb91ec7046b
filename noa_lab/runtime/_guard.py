"""Runs one command and ends what it started with it, or all of it when our side of the pipe closes: however we die, it dies too.

Started as a script by `noa_lab.runtime._process`, never imported: standard library only. Its standard input is the pipe; output goes
where ours goes. It ends as the command ended: with its exit code, or by its signal.
"""

import os
import signal
import subprocess
import sys
import threading

GRACE_SECONDS = 2.0


def end_group(child: "subprocess.Popen[bytes]") -> None:
    """Ask the command's process group to end, then make it."""
    if os.name == "nt":
        subprocess.run(["taskkill", "/T", "/F", "/PID", str(child.pid)], capture_output=True, check=False)
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
            child.wait(GRACE_SECONDS)
        except (ProcessLookupError, PermissionError, subprocess.TimeoutExpired):
            continue


def watch(child: "subprocess.Popen[bytes]", ending: threading.Event) -> None:
    """Wait for the pipe to close."""
    while os.read(0, 4096):
        pass
    ending.set()
    end_group(child)


def end_as(returncode: int) -> None:
    """End with the exit code of the command, or by the signal that ended it."""
    if returncode < 0 and os.name != "nt":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -returncode not in {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(-returncode, signal.SIG_DFL)
        os.kill(os.getpid(), -returncode)
    # Windows has codes like 0xC000001D, which os._exit takes as a signed number only.
    os._exit(returncode - 2**32 if returncode >= 2**31 else returncode)


def main(command: "list[str]") -> None:
    """Run `command` until it ends or the pipe closes."""
    flags = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)  # only Windows has it
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, start_new_session=os.name != "nt", creationflags=flags
        )
    except OSError as error:
        print(f"{command[0]} cannot be started: {error}", file=sys.stderr, flush=True)
        os._exit(127)
    ending = threading.Event()
    watcher = threading.Thread(target=watch, args=(child, ending), daemon=True)
    watcher.start()
    returncode = child.wait()
    # The command has ended; what it started may not have.
    if ending.is_set():
        watcher.join(3 * GRACE_SECONDS)
    elif os.name != "nt":
        end_group(child)
    end_as(returncode)


if __name__ == "__main__":
    main(sys.argv[1:])
