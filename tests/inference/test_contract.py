"""What every engine promises, checked on each: llama-server, OpenAI's API on it, the embedded model, a script, a recording and its replay."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inference_server import CONTEXT

from noa_lab.errors import BadInput, Cancelled, ContextOverflow, NoaLabError, Unsupported
from noa_lab.inference import (
    Capabilities,
    CassetteEngine,
    ChatMessage,
    Completion,
    EmbeddedEngine,
    Embeddings,
    Emit,
    EngineBase,
    InferenceConfig,
    InferenceEngine,
    LlamaClient,
    LlamaInferenceEngine,
    OpenAIEngine,
    Prompt,
    Question,
    Reply,
    RoutedEngine,
    ScriptedEngine,
    Tool,
)

REAL = {LlamaInferenceEngine, RoutedEngine, OpenAIEngine, EmbeddedEngine}
COUNTING = "1, 2, 3, 4, 5,"
SMILES = "🙂 🙂 🙂 🙂 🙂 🙂 🙂 🙂"
ENDLESS = "Once upon a time"
LONG = InferenceConfig(max_tokens=400, temperature=0.0)


def greedy(max_tokens: int, **more: object) -> InferenceConfig:
    return InferenceConfig(temperature=0.0, max_tokens=max_tokens, **more)


def script(prompt: Prompt, config: InferenceConfig) -> Reply:
    if prompt == COUNTING:
        return Reply(" 6, 7, 8, 9, 10, 11, 12, 13, 14, 15")
    if prompt == SMILES:
        return Reply(" 🙂 🙂 🙂 🙂")
    return Reply("word " * config.max_tokens, piece_delay=0.002)


class Rerun(EngineBase):
    """Records each question from a scripted engine, and answers from what a new cassette engine plays back."""

    def __init__(self, folder: Path) -> None:
        super().__init__("smollm2-135m")
        self.inner = scripted()
        self._path = folder / "cassette.jsonl"
        self._recorder = CassetteEngine(self._path, self.inner)

    async def _ask(self, question: Question, emit: Emit) -> Completion:
        return await self._twice("_ask", question, lambda piece: None, play=(question, emit))

    async def _answer(self, question: Question, emit: Emit) -> Completion:
        raise NotImplementedError

    async def _twice(self, name: str, *given: object, play: tuple[object, ...] = ()) -> Any:
        with contextlib.suppress(NoaLabError):
            await getattr(self._recorder, name)(*given)
        player = CassetteEngine(self._path)
        player._tape._played.update({key: len(found) - 1 for key, found in player._tape._records.items()})
        found = await getattr(player, name)(*(play or given))
        assert not isinstance(found, Completion) or found.replayed
        return found

    async def _render(self, messages: Sequence[ChatMessage], tools: Sequence[Tool] = ()) -> str:
        return await self._twice("_render", messages, tools)

    async def _tokenize(self, text: str) -> list[int]:
        return await self._twice("_tokenize", text)

    async def _detokenize(self, tokens: Sequence[int]) -> str:
        return await self._twice("_detokenize", tokens)

    async def _embed(self, texts: list[str]) -> Embeddings:
        return await self._twice("_embed", texts)

    async def _capabilities(self) -> Capabilities:
        return await self._twice("_capabilities")

    async def _fingerprint(self) -> dict[str, Any]:
        return await self._twice("_fingerprint")

    async def _close(self) -> None:
        await self._recorder.aclose()


def scripted() -> ScriptedEngine:
    return ScriptedEngine(script, model_name="smollm2-135m", context_size=CONTEXT)


def make(kind: str, request: pytest.FixtureRequest) -> EngineBase:
    if kind in {"server", "routed", "openai"}:
        server = request.getfixturevalue("real_server")
        if kind == "openai":
            return OpenAIEngine(server.url + "/v1", "smollm2-135m", server.key)
        return {"server": LlamaInferenceEngine, "routed": RoutedEngine}[kind](server.url, "smollm2-135m", server.key)
    if kind == "embedded":
        gguf = request.getfixturevalue("gguf")
        return EmbeddedEngine(gguf, context_size=CONTEXT, threads=1, model_name="smollm2-135m")
    if kind == "scripted":
        return scripted()
    folder = request.getfixturevalue("tmp_path_factory").mktemp(kind)
    return Rerun(folder) if kind == "replayed" else CassetteEngine(folder / "tape.jsonl", scripted())


@pytest.fixture(
    scope="module",
    params=[
        *(pytest.param(kind, marks=pytest.mark.real) for kind in ("server", "openai", "embedded")),
        # The routed engine differs from the server's in one field of each request.
        pytest.param("routed", marks=[pytest.mark.real, pytest.mark.full]),
        *("scripted", "recording", "replayed"),
    ],
)
def engine(request: pytest.FixtureRequest) -> Iterator[EngineBase]:
    made = make(request.param, request)
    yield made
    made.close()


def wait_idle(engine: EngineBase, request: pytest.FixtureRequest) -> None:
    """Until nothing is being generated; fails after 3 s. 400 tokens take longer than that."""
    end = time.monotonic() + 3
    if isinstance(engine, LlamaInferenceEngine | OpenAIEngine):
        server = request.getfixturevalue("real_server")
        with LlamaClient(server.url, server.key) as client:
            while any(slot["is_processing"] for slot in client.slots()):
                assert time.monotonic() < end
                time.sleep(0.01)
    elif isinstance(engine, EmbeddedEngine):
        engine.generate("x", greedy(1))  # waits for its turn
        assert time.monotonic() < end
    else:
        calls = next(inner for inner in inside(engine) if isinstance(inner, ScriptedEngine)).calls
        while calls[-1].outcome == "running":
            assert time.monotonic() < end
            time.sleep(0.005)
        assert calls[-1].outcome == "cancelled" or isinstance(engine, Rerun)  # which has recorded all before it plays


def inside(engine: EngineBase) -> Iterator[EngineBase]:
    """The engine, and those that it asks."""
    yield engine
    for name in ("inner", "_engine"):
        if isinstance(inner := getattr(engine, name, None), EngineBase):
            yield from inside(inner)


def test_is_an_engine(engine: EngineBase) -> None:
    assert isinstance(engine, InferenceEngine)
    assert engine.model_name == "smollm2-135m"
    assert engine.capabilities.context_size == CONTEXT
    assert engine.capabilities.slots >= 1


@pytest.mark.parametrize("prompt", ["What is Rust programming language?", "Write a hello world program in Rust."])
def test_seed_example_prompts(engine: EngineBase, prompt: str) -> None:
    answer = engine.chat([ChatMessage.user(prompt)], InferenceConfig(temperature=0.7, max_tokens=16, seed=1))
    assert answer.text.strip()
    assert 0 < answer.completion_tokens <= 16
    assert engine.generate(prompt, InferenceConfig(max_tokens=4, seed=1)).prompt_tokens == engine.count_tokens(prompt)


def test_generate_reports_everything(engine: EngineBase) -> None:
    answer = engine.generate("Once upon a time", InferenceConfig(max_tokens=8, seed=11))
    assert str(answer) == answer.text
    assert answer.model == "smollm2-135m"
    assert answer.finish_reason == "length"
    assert answer.completion_tokens == 8
    assert not answer.truncated
    assert answer.seed == 11
    timings = answer.timings
    assert 0 <= timings.queue_ms <= timings.ttft_ms <= timings.total_ms
    assert timings.total_ms >= timings.decode_ms > 0
    assert answer.raw_request
    assert answer.raw_response
    assert answer.text in answer._repr_html_()


def test_drawn_seed_is_reported_and_repeats_the_answer(engine: EngineBase) -> None:
    config = InferenceConfig(max_tokens=6, temperature=1.0)
    first, second = engine.generate("The", config), engine.generate("The", config)
    assert first.seed is not None
    assert first.seed != second.seed
    again = engine.generate("The", InferenceConfig(max_tokens=6, temperature=1.0, seed=first.seed))
    assert (again.seed, again.text) == (first.seed, first.text)


def test_greedy_repeats_and_has_no_seed(engine: EngineBase) -> None:
    answers = [engine.generate(COUNTING, greedy(8)) for _ in range(3)]
    assert len({answer.text for answer in answers}) == 1
    assert answers[0].seed is None


def test_stream_is_the_answer_in_pieces(engine: EngineBase) -> None:
    stream = engine.stream(COUNTING, greedy(10))
    with pytest.raises(BadInput):
        stream.result  # noqa: B018
    pieces = list(stream)
    assert len(pieces) > 2
    assert "".join(pieces) == stream.result.text == engine.generate(COUNTING, greedy(10)).text
    with pytest.raises(BadInput):
        list(stream)


def test_stream_of_a_conversation(engine: EngineBase) -> None:
    messages = [ChatMessage.system("Be brief."), ChatMessage.user("Hi")]
    stream = engine.stream(messages, greedy(5))
    assert "".join(stream) == stream.result.text == engine.chat(messages, greedy(5)).text


def test_leaving_the_loop_cancels(engine: EngineBase, request: pytest.FixtureRequest) -> None:
    for _ in engine.stream(ENDLESS, LONG):
        break
    wait_idle(engine, request)


def test_closing_from_another_thread_ends_the_loop(engine: EngineBase, request: pytest.FixtureRequest) -> None:
    import threading

    stream = engine.stream(ENDLESS, LONG)
    closer = threading.Timer(0.3, stream.close)
    closer.start()
    pieces = list(stream)
    closer.join()
    assert len(pieces) < 350
    with pytest.raises(Cancelled) as caught:
        stream.result  # noqa: B018
    assert caught.value.fields["text"] == "".join(pieces)
    wait_idle(engine, request)


def test_async_twins(engine: EngineBase, request: pytest.FixtureRequest) -> None:
    async def ask() -> None:
        expected = engine.generate(COUNTING, greedy(6)).text  # sync, inside a running loop
        assert (await engine.agenerate(COUNTING, greedy(6))).text == expected
        stream = engine.astream(COUNTING, greedy(6))
        assert "".join([piece async for piece in stream]) == stream.result.text == expected
        messages = [ChatMessage.user("Hi")]
        assert (await engine.achat(messages, greedy(4))).text == engine.chat(messages, greedy(4)).text
        answers = await asyncio.gather(*(engine.agenerate(COUNTING, greedy(4)) for _ in range(3)))
        assert [answer.completion_tokens for answer in answers] == [4, 4, 4]

    asyncio.run(ask())


def test_async_cancels(engine: EngineBase, request: pytest.FixtureRequest) -> None:
    async def leave() -> None:
        async for _ in engine.astream(ENDLESS, LONG):
            break

    async def cancel() -> None:
        task = asyncio.create_task(engine.agenerate(ENDLESS, LONG))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    wait_idle(engine, request)
    asyncio.run(cancel())
    wait_idle(engine, request)


def test_works_from_several_event_loops(engine: EngineBase) -> None:
    for _ in range(2):
        assert asyncio.run(engine.agenerate(COUNTING, greedy(2))).completion_tokens == 2


@pytest.mark.parametrize(
    "messages",
    [
        [ChatMessage.user("Hi")],
        [ChatMessage.system("Be brief."), ChatMessage.user("Zoë says 你好 🙂")],
        [ChatMessage.user("A"), ChatMessage.assistant("B"), ChatMessage.user("C <|im_end|> D")],
    ],
)
def test_tokens_are_counted_after_the_template(engine: EngineBase, messages: list[ChatMessage]) -> None:
    text = engine.render(messages)
    assert all(message.content in text for message in messages)
    count = engine.count_tokens(messages)
    assert count == engine.count_tokens(text)
    assert count == engine.chat(messages, greedy(1)).prompt_tokens
    assert count == engine.generate(text, greedy(1)).prompt_tokens


def test_stop_sequences(engine: EngineBase) -> None:
    answer = engine.generate(COUNTING, greedy(30, stop_sequences=("nowhere", ", 8")))
    assert answer.finish_reason == "stop_sequence"
    assert answer.text == " 6, 7"
    stream = engine.stream(COUNTING, greedy(30, stop_sequences=(", 8",)))
    assert "".join(stream) == " 6, 7"


@pytest.mark.parametrize("limit", [5, 6, 7, 8])
def test_begun_stop_sequence_is_not_lost_at_the_limit(engine: EngineBase, limit: int) -> None:
    whole = engine.generate(COUNTING, greedy(limit))
    stop = whole.text[-1] + "#never"
    held = engine.generate(COUNTING, greedy(limit, stop_sequences=(stop,)))
    assert (held.text, held.finish_reason) == (whole.text, "length")


def test_max_tokens(engine: EngineBase) -> None:
    one = engine.generate(COUNTING, greedy(1))
    assert (one.completion_tokens, one.finish_reason, one.truncated) == (1, "length", False)


def test_answer_ends_where_the_context_is_full(engine: EngineBase) -> None:
    prompt = "word " * (CONTEXT - 6)
    tokens = engine.count_tokens(prompt)
    assert CONTEXT - 12 < tokens < CONTEXT
    answer = engine.generate(prompt, InferenceConfig(max_tokens=300, seed=1))
    if answer.finish_reason == "length":
        assert answer.truncated
        assert answer.completion_tokens == CONTEXT - tokens
    else:
        assert answer.completion_tokens <= CONTEXT - tokens


def test_overflow_at_the_boundary(engine: EngineBase) -> None:
    words = CONTEXT + 4
    while engine.count_tokens("word " * words) > CONTEXT:
        words -= 1
    assert engine.count_tokens("word " * words) == CONTEXT
    for extra in (0, 1):
        with pytest.raises(ContextOverflow) as caught:
            engine.generate("word " * (words + extra), greedy(5))
        assert caught.value.fields == {
            "prompt_tokens": CONTEXT + extra,
            "max_tokens": 5,
            "context_size": CONTEXT,
        }
    last = engine.generate("word " * (words - 1), greedy(5))
    assert (last.prompt_tokens, last.completion_tokens) == (CONTEXT - 1, 1)


def test_unicode_and_emoji(engine: EngineBase) -> None:
    stream = engine.stream(SMILES, greedy(12))
    pieces = list(stream)
    assert "🙂" in stream.result.text
    assert "\ufffd" not in "".join(pieces)
    odd = "Zoë\u2028\u0085 \x00 \U0001f468\u200d\U0001f469\u200d\U0001f467 ﷽ \u202eabc"
    answer = engine.generate(odd, greedy(2))
    assert answer.prompt_tokens == engine.count_tokens(odd)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**12}, "max_tokens"),
        ({"top_p": 1.5}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"temprature": 1}, "temprature"),
    ],
)
def test_impossible_values_are_named(engine: EngineBase, values: dict[str, float], field: str) -> None:
    with pytest.raises(BadInput) as caught:
        engine.generate("x", InferenceConfig(**values))
    assert caught.value.fields["field"] == field


@pytest.mark.parametrize("prompt", ["", "half a \ud83d character", 7, None, b"bytes"])
def test_impossible_prompts(engine: EngineBase, prompt: str) -> None:
    with pytest.raises(BadInput) as caught:
        engine.generate(prompt, greedy(1))
    assert caught.value.fields["field"] == "prompt"
    assert engine.generate(COUNTING, greedy(1)).completion_tokens == 1


@pytest.mark.parametrize(
    "messages", [[], "text", [{"role": "user", "content": "x"}], [ChatMessage.user("\udc00")], None]
)
def test_impossible_conversations(engine: EngineBase, messages: list[ChatMessage]) -> None:
    with pytest.raises(BadInput):
        engine.chat(messages, greedy(1))


def test_extreme_but_allowed_values(engine: EngineBase) -> None:
    wild = InferenceConfig(
        temperature=10, top_p=0.000001, top_k=1, min_p=1, repeat_penalty=10, seed=2**32 - 2, max_tokens=2
    )
    assert engine.generate("x", wild).seed == 2**32 - 2
    assert (
        engine.generate(
            "x", InferenceConfig(top_k=0, top_p=1, max_tokens=1_000_000, stop_sequences=("e", "a", "word"))
        ).text
        is not None
    )


def test_fingerprint_is_stable_and_holds_no_secret(engine: EngineBase) -> None:
    first = engine.fingerprint()
    assert first == engine.fingerprint()
    assert first["context_size"] == CONTEXT
    assert "contract-key" not in repr(first) + repr(engine)


def test_reuse_is_reported(engine: EngineBase) -> None:
    if not engine.capabilities.reports_cached_tokens:
        assert engine.generate(COUNTING, greedy(1)).cached_tokens == 0
        return
    prompt = "The quick brown fox jumps over the lazy dog. " * 4
    engine.generate(prompt, greedy(1))
    second = engine.generate(prompt, greedy(1))
    assert second.cached_tokens == second.prompt_tokens - 1


def test_tokens_go_back_and_forth(engine: EngineBase) -> None:
    text = "One, two and Zoë 🙂"
    tokens = engine.tokenize(text)
    assert engine.detokenize(tokens) == text
    assert engine.count_tokens(text) == engine.count_tokens(tokens) == len(tokens)
    by_text, by_tokens = engine.generate(text, greedy(4)), engine.generate(tokens, greedy(4))
    assert (by_tokens.text, by_tokens.prompt_tokens) == (by_text.text, len(tokens))
    assert len(by_text.token_ids) == by_text.completion_tokens
    assert engine.detokenize(by_text.token_ids) == by_text.text
    for wrong in ([], [1, "a"], [-1], [True]):
        with pytest.raises(BadInput):
            engine.generate(wrong, greedy(1))


def test_rolling_window_over_text(engine: EngineBase) -> None:
    prompt = "beginning " + "word " * CONTEXT + COUNTING
    with pytest.raises(ContextOverflow):
        engine.generate(prompt, greedy(8))
    answer = engine.generate(prompt, greedy(8, overflow="rolling_window"))
    assert answer.prompt_tokens == CONTEXT - 8
    assert answer.dropped.tokens == engine.count_tokens(prompt) - answer.prompt_tokens
    assert (answer.dropped.policy, answer.dropped.messages, answer.truncated) == ("rolling_window", 0, False)
    assert engine.generate(COUNTING, greedy(8, overflow="rolling_window")).dropped is None


def test_rolling_window_over_turns(engine: EngineBase) -> None:
    turns = [ChatMessage.system("Be brief.")]
    for number in range(12):
        turns += [ChatMessage.user(f"Question {number}? " + "word " * 40), ChatMessage.assistant("Yes.")]
    turns.append(ChatMessage.user("And now?"))
    answer = engine.chat(turns, greedy(8, overflow="rolling_window"))
    gone = answer.dropped.messages
    assert gone % 2 == 0
    assert engine.count_tokens([turns[0], *turns[1 + gone :]]) == answer.prompt_tokens <= CONTEXT - 8
    assert engine.count_tokens([turns[0], *turns[gone - 1 :]]) > CONTEXT - 8  # no turn more than need be
    middle = engine.chat(turns, greedy(8, overflow="truncate_middle"))
    kept = [*turns[:3], *turns[3 + middle.dropped.messages :]]
    assert engine.count_tokens(kept) == middle.prompt_tokens
    with pytest.raises(ContextOverflow, match="last message"):
        engine.chat([ChatMessage.user("word " * CONTEXT)], greedy(8, overflow="rolling_window"))


def test_what_cannot_be_done_is_refused(engine: EngineBase) -> None:
    what = engine.capabilities
    if not what.logprobs:
        with pytest.raises(Unsupported) as caught:
            engine.generate("x", greedy(1, n_probs=2))
        assert caught.value.fields["what"] == "logprobs"
    for constraint, value in {"grammar": 'root ::= "a"', "json_schema": {"type": "integer"}}.items():
        if constraint not in what.constraints:
            with pytest.raises(Unsupported, match=constraint):
                engine.generate("x", greedy(1, **{constraint: value}))
    if not what.embeddings:
        with pytest.raises(Unsupported):
            engine.embed("x")
    if not what.continuation_logprobs:
        with pytest.raises(Unsupported):
            engine.continuation_logprobs("x", " y")


def test_embeddings(engine: EngineBase) -> None:
    if not engine.capabilities.embeddings:
        return
    found = engine.embed(["Paris is a city.", "A town called Paris", "Bake at 200 degrees"])
    assert asyncio.run(engine.aembed("Paris is a city."))[0] == pytest.approx(found[0], abs=1e-4)
    vectors = np.asarray(found)
    assert vectors.shape[0] == len(found) == 3
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert near > far
    for wrong in ("", [], ["a", ""], None, [7], "\ud83d"):
        with pytest.raises(BadInput):
            engine.embed(wrong)


def test_logprobs_of_generated_tokens(engine: EngineBase) -> None:
    if not engine.capabilities.logprobs:
        return
    answer = engine.generate(COUNTING, greedy(6, n_probs=3))
    assert [found.token for found in answer.logprobs] == list(answer.token_ids)
    assert b"".join(found.piece for found in answer.logprobs).decode() == answer.text
    for found in answer.logprobs:
        assert found.logprob <= 0
        assert len(found.top) == 3
        assert found.top[0].token == found.token  # greedy
        assert [each.logprob for each in found.top] == sorted((each.logprob for each in found.top), reverse=True)
    cold, hot = (
        engine.generate(COUNTING, InferenceConfig(temperature=value, seed=1, max_tokens=1, n_probs=3)).logprobs[0].top
        for value in (0.1, 5.0)
    )
    assert [each.logprob for each in cold] == pytest.approx([each.logprob for each in hot], abs=0.02)


def test_logprobs_of_given_continuations(engine: EngineBase) -> None:
    if not engine.capabilities.continuation_logprobs:
        return
    prompt = "The capital of France is"
    paris = engine.continuation_logprobs(prompt, " Paris")
    soup = asyncio.run(engine.acontinuation_logprobs(prompt, " soup, of course 🙂"))
    assert paris.logprob > soup.logprob
    assert paris.greedy
    assert not soup.greedy
    assert b"".join(token.piece for token in soup.tokens).decode() == " soup, of course 🙂"
    chosen = engine.generate(prompt, greedy(3, n_probs=1))
    scored = engine.continuation_logprobs(prompt, chosen.token_ids)
    assert [found.logprob for found in scored.tokens] == pytest.approx(
        [found.logprob for found in chosen.logprobs], abs=0.05
    )
    by_tokens = engine.continuation_logprobs(engine.tokenize(prompt), " Paris")
    assert by_tokens.logprob == pytest.approx(paris.logprob, abs=0.05)
    turns = [ChatMessage.user("Hi")]
    assert engine.continuation_logprobs(turns, "Hello").prompt_tokens == engine.count_tokens(turns)
    with pytest.raises(ContextOverflow):
        engine.continuation_logprobs(prompt, " word" * CONTEXT)
    for wrong in ("", [], None, [-1]):
        with pytest.raises(BadInput):
            engine.continuation_logprobs(prompt, wrong)


def test_grammar(engine: EngineBase) -> None:
    if "grammar" not in engine.capabilities.constraints or not REAL & set(map(type, inside(engine))):
        return
    answer = engine.generate("x", InferenceConfig(max_tokens=20, temperature=2.0, grammar='root ::= "yes" | "no"'))
    assert answer.text in {"yes", "no"}
    assert answer.finish_reason == "stop"
    with pytest.raises(BadInput, match="both constrain"):
        InferenceConfig(grammar="root ::= [a]", json_schema={})
    with pytest.raises(NoaLabError, match="grammar"):
        engine.generate("x", greedy(2, grammar="root ::= ("))
    assert engine.generate(COUNTING, greedy(1)).completion_tokens == 1


def test_closing_twice(engine: EngineBase, request: pytest.FixtureRequest) -> None:
    other = make(request.node.callspec.params["engine"], request)
    with other:
        assert other.count_tokens("one two") >= 2
    other.close()
    for use in (lambda: other.generate("x"), lambda: other.stream("x"), lambda: other.capabilities):
        with pytest.raises(BadInput, match="closed"):
            use()
