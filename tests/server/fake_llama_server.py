"""A stand-in for llama-server: same log lines, same endpoints, same exit codes, ready in 30 ms; misbehaves on request.

How it behaves is read from `behaviour.json` beside it, because its environment is scrubbed. `test_fake.py` holds it against the real one.
"""

import json
import os
import signal
import socket
import sys
import threading
import time

FOLDER = os.path.dirname(os.path.abspath(__file__))
START = time.monotonic()


def log(level, text):
    sys.stderr.write(f"0.00.{int((time.monotonic() - START) * 1000):03d}.000 {level} {text}\n")
    sys.stderr.flush()


def option(*names):
    for name in names:
        if name in sys.argv:
            return sys.argv[sys.argv.index(name) + 1]
    return ""


def behaviour():
    try:
        with open(os.path.join(FOLDER, "behaviour.json"), encoding="utf-8") as file:
            return json.load(file)
    except OSError:
        return {}


def answer(connection, ready, key):
    with connection:
        data = b""
        while b"\r\n\r\n" not in data:
            piece = connection.recv(65536)
            if not piece:
                return
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        path = head.split(b" ")[1].decode()
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        while len(body) < length:
            body += connection.recv(65536)
        status, content = respond(path, head, ready, key)
        if path == "/hang":
            time.sleep(3600)
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        connection.sendall(
            b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, len(data)) + data
        )


def respond(path, head, ready, key):
    if not ready.is_set():
        return 503, {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}
    if path == "/health":
        return 200, {"status": "ok"}
    if f"authorization: bearer {key}".lower().encode() not in head.lower():
        log("W", "srv    operator(): unauthorized: Invalid API Key")
        return 401, {"error": {"message": "Invalid API Key", "type": "authentication_error", "code": 401}}
    slots = int(option("-np"))
    if path == "/props":
        return 200, behaviour().get("props") or {
            "model_path": option("-m"),
            "model_alias": option("-a"),
            "total_slots": slots,
        }
    if path == "/slots":
        return 200, [
            {"id": number, "is_processing": number == 0 and os.path.exists(FOLDER + "/busy")} for number in range(slots)
        ]
    if path == "/metrics":
        return 200, b"llamacpp:tokens_predicted_total 50\nllamacpp:tokens_predicted_seconds_total 2.5\n"
    if path == "/completion":
        return 200, {"content": " Noa", "tokens_predicted": 1}
    return 404, {"error": {"message": "File Not Found", "type": "not_found_error", "code": 404}}


def main():
    acts = behaviour()
    if acts.get("deaf"):  # as with open streams: SIGTERM changes nothing
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    listener = socket.create_server(("127.0.0.1", int(option("--port"))), backlog=64)
    log("I", f"srv    load_model: loading model '{option('-m')}'")
    for line in acts.get("say", []):
        log("E", line.replace("KEY", os.environ["LLAMA_API_KEY"]))
    time.sleep(acts.get("load_seconds", 0.03))
    if "exit" in acts:
        sys.exit(acts["exit"])
    if "signal" in acts:
        os.kill(os.getpid(), acts["signal"])
    ready = threading.Event()
    ready.set()
    log("I", "srv  llama_server: model loaded")
    log("I", f"srv  llama_server: listening on http://127.0.0.1:{listener.getsockname()[1]}")
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection, ready, os.environ["LLAMA_API_KEY"]), daemon=True).start()


main()
