"""The embedded engine's child process: what it answers, and how it dies."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from inference_server import CONTEXT, RealServer

from noa_lab.errors import BadInput, ModelFileBroken, StreamBroken, TemplateInvalid, Unreachable
from noa_lab.inference import ChatMessage, EmbeddedEngine, InferenceConfig, LlamaInferenceEngine
from noa_lab.inference.embedded import TreeEngine

SHORT = InferenceConfig(temperature=0.0, max_tokens=2)
LONG = InferenceConfig(temperature=0.0, max_tokens=400)


@pytest.fixture(scope="module")
def engine(gguf: Path):
    with EmbeddedEngine(gguf, context_size=CONTEXT, threads=1) as engine:
        yield engine


def gone(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.real
@pytest.mark.parametrize(
    "messages",
    [
        [ChatMessage.user("Hi")],
        [ChatMessage.system("Be brief."), ChatMessage.user("  Zoë \n\n<|im_end|> 你好 ")],
        [ChatMessage.user("A"), ChatMessage.assistant("B"), ChatMessage.user("C")],
        [ChatMessage.user("A"), ChatMessage.assistant("It is a")],
        [ChatMessage.user("A"), ChatMessage.user("")],
    ],
)
def test_template_is_the_servers(engine: EmbeddedEngine, real_server: RealServer, messages: list[ChatMessage]) -> None:
    with LlamaInferenceEngine(real_server.url, "m", real_server.key) as server:
        assert engine.render(messages) == server.render(messages)
        assert engine.count_tokens(messages) == server.count_tokens(messages)


@pytest.mark.real
@pytest.mark.parametrize(
    "config",
    [
        InferenceConfig(temperature=0.0, max_tokens=12),
        InferenceConfig(max_tokens=12, seed=5),
        InferenceConfig(max_tokens=12, seed=7, temperature=1.2, top_k=0, top_p=1.0, min_p=0.02, repeat_penalty=1.3),
        InferenceConfig(max_tokens=12, seed=2**32 - 2, top_k=5, top_p=0.5),
        InferenceConfig(max_tokens=12, seed=3, temperature=1.5, grammar='root ::= ("red" | "blue" | " " | ",")+'),
    ],
)
def test_samplers_are_the_servers(engine: EmbeddedEngine, real_server: RealServer, config: InferenceConfig) -> None:
    messages = [ChatMessage.user("Name three colours.")]
    with LlamaInferenceEngine(real_server.url, "m", real_server.key, cache_prompt=False) as server:
        there = server.chat(messages, config)
    here = engine.chat(messages, config)
    same = ("text", "finish_reason", "prompt_tokens", "completion_tokens", "seed", "token_ids")
    assert [getattr(here, name) for name in same] == [getattr(there, name) for name in same]


@pytest.mark.real
def test_probabilities_are_the_servers(engine: EmbeddedEngine, real_server: RealServer) -> None:
    config = InferenceConfig(temperature=0.0, max_tokens=5, n_probs=4)
    with LlamaInferenceEngine(real_server.url, "m", real_server.key, cache_prompt=False) as server:
        for here, there in zip(
            engine.generate("The sky is", config).logprobs, server.generate("The sky is", config).logprobs, strict=True
        ):
            assert (here.token, here.piece) == (there.token, there.piece)
            assert here.logprob == pytest.approx(there.logprob, abs=0.02)
            assert [each.token for each in here.top][:2] == [each.token for each in there.top][:2]
        scored = [each.continuation_logprobs("The sky is", " blue and grey") for each in (engine, server)]
        assert [found.logprob for found in scored[0].tokens] == pytest.approx(
            [found.logprob for found in scored[1].tokens], abs=0.05
        )
        texts = ["Paris is a city.", "A town", "x " * 70]
        here, there = engine.embed(texts), server.embed(texts)
    assert here.prompt_tokens == there.prompt_tokens
    for one, other in zip(here.vectors, there.vectors, strict=True):
        assert sum(a * b for a, b in zip(one, other, strict=True)) > 0.999


@pytest.mark.real
def test_a_cancel_is_noticed_in_the_middle_of_the_prompt(gguf: Path) -> None:
    """One batch of 512 tokens takes longer than the bound; half of it has been read when the cancel comes."""
    with EmbeddedEngine(gguf, context_size=2048, threads=1) as engine:
        prompt = "word " * 500
        engine.count_tokens("x")  # the model is loaded now
        began = time.monotonic()
        engine.generate(prompt, SHORT)
        whole = time.monotonic() - began
        # A busy machine can make any single try too slow; a child that does not notice makes each of them so.
        assert any(left_early(engine, f"{number} {prompt}", whole) for number in range(6))
        again = engine.generate(prompt, SHORT)
        assert (again.cached_tokens, again.prompt_tokens) == (0, 501)


def left_early(engine: EmbeddedEngine, prompt: str, whole: float) -> bool:
    """Cancel a request after a third of the time that it takes; whether the child was then free before the half of it."""
    stream = engine.stream(prompt, SHORT)
    closer = threading.Timer(whole / 3, stream.close)
    closer.start()
    pieces = list(stream)
    closer.join()
    left = time.monotonic()
    cached = engine.generate("x", SHORT).cached_tokens  # waits until the child is free
    free = time.monotonic() - left
    assert cached == 0, "nothing half-read is reused"
    return not pieces and free < whole / 2


@pytest.mark.real
@pytest.mark.skipif(os.name == "nt", reason="sends signals")
def test_a_crash_is_an_error_and_the_next_request_works(gguf: Path) -> None:
    with EmbeddedEngine(gguf, context_size=CONTEXT, threads=1) as engine:
        engine.generate("x", SHORT)
        first = engine.pid
        stream = iter(engine.stream("Once upon a time", LONG))
        begun = next(stream) + next(stream)
        os.kill(first, signal.SIGILL)
        with pytest.raises(StreamBroken, match="SIGILL") as caught:
            list(stream)
        assert caught.value.fields["text"].startswith(begun)
        engine.count_tokens("x")
        os.kill(engine.pid, signal.SIGSTOP)
        killer = threading.Timer(0.2, os.kill, (engine.pid, signal.SIGKILL))
        killer.start()
        with pytest.raises(Unreachable, match="SIGKILL"):
            engine.generate("x", SHORT)
        killer.join()
        assert engine.generate("x", SHORT).completion_tokens == 2
        last = engine.pid
    assert gone(last, 10)
    assert engine.pid is None


@pytest.mark.real
@pytest.mark.skipif(os.name == "nt", reason="sends signals")
@pytest.mark.parametrize("how", ["kill", "exit", "forked"])
def test_dies_with_its_parent(gguf: Path, how: str) -> None:
    code = f"""
import os, sys, time
from pathlib import Path
from noa_lab.inference import EmbeddedEngine, InferenceConfig
engine = EmbeddedEngine(Path({str(gguf)!r}), context_size=512, threads=1)
for piece in engine.stream("Once upon a time", InferenceConfig(temperature=0.0, max_tokens=400)):
    if {how!r} == "forked" and os.fork() == 0:
        sys.stdout.close(); os.close(1); time.sleep(15); os._exit(0)  # holds the pipe open
    print(engine.pid, flush=True)
    if {how!r} == "exit":
        break
    time.sleep(30)
"""
    parent = subprocess.Popen(
        [sys.executable, "-W", "always::ResourceWarning", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    child = int(parent.stdout.readline())
    assert psutil.pid_exists(child)
    if how == "exit":
        assert parent.wait(10) == 0
        assert parent.stderr.read() == b""
    else:
        parent.kill()
        parent.wait()
    assert gone(child, 10)
    parent.stdout.close()
    parent.stderr.close()


@pytest.mark.real
def test_a_folder_full_of_traps_changes_nothing(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jinja2.py").write_text("raise SystemExit('imported from the working folder')")
    monkeypatch.chdir(tmp_path)
    with EmbeddedEngine(gguf, context_size=CONTEXT, threads=1) as engine:
        assert engine.chat([ChatMessage.user("Hi")], SHORT).text is not None


@pytest.mark.real
def test_two_assistants_at_the_end_are_refused(engine: EmbeddedEngine) -> None:
    with pytest.raises(TemplateInvalid, match="two assistant"):
        engine.render([ChatMessage.user("A"), ChatMessage.assistant("B"), ChatMessage.assistant("C")])
    assert engine.count_tokens("x") == 1


class SlowChild:
    """A child whose model is loaded when the test says so."""

    def __init__(self) -> None:
        self.begun, self.loaded, self.stopped = threading.Event(), threading.Event(), threading.Event()

    async def start(self) -> None:
        self.begun.set()
        await asyncio.to_thread(self.loaded.wait, 5)

    async def stop(self) -> None:
        self.stopped.set()


def test_a_child_that_is_there_after_the_engine_was_closed_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    engine, child = EmbeddedEngine(tmp_path / "m.gguf"), SlowChild()
    monkeypatch.setattr(engine, "_new_child", lambda: child)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(engine.tokenize, "x")
        assert child.begun.wait(5)
        engine.close()
        child.loaded.set()
        with pytest.raises(BadInput, match="closed"):
            asking.result(5)
    assert child.stopped.is_set()
    assert engine.pid is None


def test_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "page.gguf").write_text("<html>")
    for path in (tmp_path / "missing.gguf", tmp_path / "page.gguf", tmp_path):
        with pytest.raises(ModelFileBroken):
            EmbeddedEngine(path)


@pytest.mark.real
def test_a_cut_off_model(gguf: Path, tmp_path: Path) -> None:
    broken = tmp_path / "cut.gguf"
    with gguf.open("rb") as whole:
        broken.write_bytes(whole.read(1_000_000))
    with EmbeddedEngine(broken, context_size=CONTEXT) as engine, pytest.raises(ModelFileBroken, match="could not load"):
        engine.generate("x", SHORT)


@pytest.mark.real
def test_a_context_larger_than_trained_for(gguf: Path) -> None:
    with EmbeddedEngine(gguf, context_size=100_000) as engine, pytest.raises(ModelFileBroken, match="8192"):
        engine.generate("x", SHORT)


@pytest.mark.parametrize(
    "values",
    [{"context_size": 0}, {"threads": 0}, {"context_size": 10.5}, {"threads": "2"}, {"lanes": 0}, {"lanes": 126}],
)
def test_impossible_sizes(tmp_path: Path, values: dict[str, object]) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    kind = TreeEngine if "lanes" in values else EmbeddedEngine
    with pytest.raises(BadInput) as caught:
        kind(tmp_path / "m.gguf", **values)
    assert caught.value.fields["field"] in values
