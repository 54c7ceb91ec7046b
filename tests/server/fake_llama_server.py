"""A stand-in for llama-server: same log lines, same endpoints, same exit codes, ready in 30 ms; misbehaves on request.

How it behaves is read from `behaviour.json` beside it, because its environment is scrubbed; `starts` counts its starts. A file `busy`
makes slot 0 busy, `stall` keeps /slots from being answered, `gate` keeps the answer to /completion from going on after as many tokens
as it says, `requests` counts those requests and `tokens` the tokens sent. `test_server_real.py` holds it against the real one.
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
        if path == "/completion" and b'"stream": true' in body and authorised(head, key):
            stream(connection)
            return
        status, content = respond(path, head, ready, key)
        if path == "/hang":
            time.sleep(3600)
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        connection.sendall(
            b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, len(data)) + data
        )


def authorised(head, key):
    return f"authorization: bearer {key}".lower().encode() in head.lower()


def gate():
    try:
        with open(FOLDER + "/gate", encoding="utf-8") as file:
            return int(file.read() or 0)
    except OSError:
        return 1000


def stream(connection):
    """Three tokens and the end, as llama-server sends them."""
    count("requests")
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
    end = {
        "content": "",
        "stop": True,
        "stop_type": "limit",
        "model": option("-a"),
        "tokens_evaluated": 2,
        "tokens_predicted": 3,
    }
    for number, event in enumerate([{"content": f" t{n}", "tokens": [n], "stop": False} for n in range(3)] + [end]):
        while number >= gate():
            time.sleep(0.01)
        try:
            connection.sendall(b"data: " + json.dumps(event).encode() + b"\n\n")
        except OSError:
            return
        if not event["stop"]:
            count("tokens")


def count(name):
    with open(os.path.join(FOLDER, name), "a", encoding="utf-8") as file:
        file.write("x")


def respond(path, head, ready, key):
    if not ready.is_set():
        return 503, {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}
    if path == "/health":
        return 200, {"status": "ok"}
    if not authorised(head, key):
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
        while os.path.exists(FOLDER + "/stall"):
            time.sleep(0.02)
        busy = os.path.exists(FOLDER + "/busy")
        return 200, [{"id": number, "is_processing": number == 0 and busy, "id_task": 7} for number in range(slots)]
    if path == "/metrics":
        return 200, b"llamacpp:tokens_predicted_total 50\nllamacpp:tokens_predicted_seconds_total 2.5\n"
    if path == "/completion":
        return 200, {"content": " Noa", "tokens_predicted": 1}
    return 404, {"error": {"message": "File Not Found", "type": "not_found_error", "code": 404}}


def main():
    acts = behaviour()
    if acts.get("deaf"):  # as with open streams: SIGTERM changes nothing
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    listener = socket.create_server(
        (option("--host"), int(option("--port"))), backlog=64, reuse_port="--reuse-port" in sys.argv
    )
    count("starts")
    starts = os.path.getsize(os.path.join(FOLDER, "starts"))
    log("I", f"srv    load_model: loading model '{option('-m')}'")
    for line in acts.get("say", []):
        log("E", line.replace("KEY", os.environ["LLAMA_API_KEY"]))
    time.sleep(acts.get("load_seconds", 0.03))
    if starts <= acts.get("bad_starts", 1000):
        if "exit" in acts:
            sys.exit(acts["exit"])
        if "signal" in acts:
            os.kill(os.getpid(), acts["signal"])
    ready = threading.Event()
    ready.set()
    log("I", "srv  llama_server: model loaded")
    log("I", f"srv  llama_server: listening on http://{option('--host')}:{listener.getsockname()[1]}")
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection, ready, os.environ["LLAMA_API_KEY"]), daemon=True).start()


main()
