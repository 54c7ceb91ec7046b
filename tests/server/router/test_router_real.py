"""The router over the real llama-server: SmolLM2-135M, and the same model quantised once more under another name."""

from __future__ import annotations

import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import openai
import pytest
from server_fakes import wait_until

import noa_lab as lab
from noa_lab import server
from noa_lab.errors import UnknownModel
from noa_lab.models import ModelFile, read_gguf
from noa_lab.paths import Home
from noa_lab.runtime import Runtime
from noa_lab.server import Router, ServerSettings
from noa_lab.server.router._memory import measured_bytes, predicted_bytes
from noa_lab.server.router._plan import PlannedModel, RouterPlan
from noa_lab.server.router._schedule import Policy

pytestmark = pytest.mark.real

SETTINGS = ServerSettings(context_size=512, slots=2)
STORY = "Once upon a time, in a land far away, there lived a"


@pytest.fixture(scope="module")
def second(runtime: Runtime, model: ModelFile, tmp_path_factory: pytest.TempPathFactory) -> ModelFile:
    """The model quantised once more."""
    path = tmp_path_factory.mktemp("models") / "second.gguf"
    command = [runtime.tool("llama-quantize"), "--allow-requantize", model.path, path, "Q4_0"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return ModelFile("second", path, "", path.stat().st_size, str(path), False, read_gguf(path))


def planned(file: ModelFile, *tags: str) -> PlannedModel:
    return PlannedModel(file, SETTINGS, tags, predicted_bytes=predicted_bytes(file, SETTINGS, Home.default()))


def make_plan(runtime: Runtime, home: Home, first: ModelFile, second: ModelFile, policy: Policy) -> RouterPlan:
    models = (planned(first, "general"), planned(second, "code"))
    sampling = {"temperature": 0.0, "max_tokens": 8, "seed": 1}
    return RouterPlan(str(home.root), runtime, models, first.name, policy, sampling)


def one_at_a_time(first: ModelFile, second: ModelFile) -> int:
    """A budget that holds either model and not both."""
    return int(1.4 * max(predicted_bytes(one, SETTINGS, Home.default()) for one in (first, second)))


@pytest.fixture(scope="module")
def router(
    runtime: Runtime, model: ModelFile, second: ModelFile, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Router]:
    """A router whose budget holds both models."""
    home = Home(tmp_path_factory.mktemp("home"))
    with server.start_router(make_plan(runtime, home, model, second, Policy(10**11)), home=home) as running:
        yield running
    server.stop_all(home)


@pytest.fixture
def client(router: Router) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=router.base_url + "/v1", api_key=str(router.api_key), max_retries=0) as made:
        yield made


def http(router: Router) -> httpx.Client:
    headers = {"Authorization": f"Bearer {router.api_key}"}
    return httpx.Client(base_url=router.base_url, headers=headers, timeout=120)


# --- as other programs see it


def test_the_openai_package_works(client):
    messages = [{"role": "user", "content": "Say hello."}]
    answer = client.chat.completions.create(model="second", messages=messages, max_tokens=6)
    assert answer.model == "second"
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens == 6
    pieces = list(client.chat.completions.create(model="general", messages=messages, max_tokens=6, stream=True))
    assert {piece.model for piece in pieces} == {"smollm2-135m"}
    assert len([piece for piece in pieces if piece.choices[0].delta.content]) >= 5
    assert client.completions.create(model="code", prompt=STORY, max_tokens=4).model == "second"
    assert [one.id for one in client.models.list()] == ["smollm2-135m", "second"]
    assert client.models.retrieve("second").id == "second"
    with pytest.raises(openai.NotFoundError, match="Did you mean 'second'"):
        client.completions.create(model="secnd", prompt="x")
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()


def test_an_engine_of_the_router_names_its_model(router):
    router.sampling = lab.InferenceConfig(temperature=0.0, max_tokens=5)
    with router.engine("code") as engine, router.engine() as default:
        answer = engine.generate(STORY)
        assert (answer.model, answer.completion_tokens) == ("second", 5)
        assert default.chat([lab.ChatMessage.user("Hi")]).model == "smollm2-135m"
        assert "".join(engine.stream(STORY)) == answer.text
        assert engine.fingerprint()["model"] == "second.gguf"
        assert engine.count_tokens("Hello world") == 2
        assert engine.capabilities.context_size == SETTINGS.context_size
    with pytest.raises(UnknownModel, match="Did you mean"):
        router.engine("secnd")


def test_every_route_of_a_model_can_be_had(router):
    with http(router) as ask:
        props = ask.get("/props", params={"model": "code"}).json()
        assert Path(props["model_path"]).name == "second.gguf"
        assert Path(ask.get("/props").json()["model_path"]).name == "SmolLM2-135M-Instruct.Q4_1.gguf"
        tokens = ask.post("/tokenize", json={"model": "second", "content": "Hello world"}).json()["tokens"]
        assert ask.post("/detokenize", json={"tokens": tokens}).json()["content"] == "Hello world"
        rendered = ask.post("/apply-template", json={"messages": [{"role": "user", "content": "Hi"}]})
        assert "<|im_start|>user" in rendered.json()["prompt"]
        assert len(ask.get("/slots", params={"model": "second"}).json()) == 2
        assert "llamacpp:" in ask.get("/metrics", params={"model": "second"}).text
        assert ask.get("/v1/chat/completions").status_code == 404, "its own errors come through"
        too_long = ask.post("/completion", json={"prompt": "word " * 700})
        assert too_long.json()["error"]["type"] == "exceed_context_size_error"


def test_what_a_request_leaves_out_is_as_in_server_yaml(router):
    with http(router) as ask:
        used = ask.post("/completion", json={"prompt": STORY}).json()["generation_settings"]
        assert (used["temperature"], used["n_predict"], used["seed"]) == (0.0, 8, 1)
        used = ask.post("/completion", json={"prompt": STORY, "n_predict": 3, "temperature": 0.5}).json()
        assert used["tokens_predicted"] == 3
        assert used["generation_settings"]["temperature"] == 0.5


def test_a_stream_comes_while_it_is_written(router):
    body = {"prompt": STORY, "n_predict": 480, "stream": True, "ignore_eos": True, "model": "second"}
    with http(router) as look, http(router) as ask, ask.stream("POST", "/completion", json=body) as answer:
        pieces = [line for line, _ in zip(filter(None, answer.iter_lines()), range(5), strict=False)]
        written = _at_work(look)
    assert len(pieces) == 5
    assert written is not None, "it was over before its first pieces were here: they were gathered"
    assert 5 <= written < 480


def test_cancelling_a_client_stops_the_decoding(router):
    body = {"prompt": STORY, "n_predict": 480, "ignore_eos": True, "model": "second", "stream": True}
    with http(router) as look:
        with http(router) as ask, ask.stream("POST", "/completion", json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            assert _at_work(look) is not None
        _within(20, lambda: look.get("/v1/models").json()["data"][1]["in_flight"] == 0)
        # How long llama-server takes to notice depends on the machine; how far it has come tells whether it was cancelled.
        furthest, deadline = 0, time.perf_counter() + 60
        while (written := _at_work(look)) is not None:
            furthest = max(furthest, written)
            assert time.perf_counter() < deadline
        assert furthest < 400, "it went on to the end"


def _at_work(ask: httpx.Client) -> int | None:
    """Tokens written so far by the second model's slot that is at work; None when none is."""
    slots = ask.get("/slots", params={"model": "second"}).json()
    return next((one["next_token"][0]["n_decoded"] for one in slots if one["is_processing"]), None)


def _within(seconds: float, condition: Callable[[], bool]) -> None:
    deadline = time.perf_counter() + seconds
    while not condition():
        assert time.perf_counter() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_memory_is_measured_and_was_foreseen_about_right(router, model, second):
    with http(router) as ask:
        for name in router.names:
            ask.post("/completion", json={"prompt": STORY * 6, "n_predict": 8, "model": name})
    measured = {
        record.name: measured_bytes(record.process.pid) for record in _records(router) if record.kind == "server"
    }
    for file in (model, second):
        assert 0.5 < measured[file.name] / predicted_bytes(file, SETTINGS, Home.default()) < 1.3


def _records(router: Router) -> list:
    from noa_lab.server._record import read_records

    return read_records(router._home)


# --- two models where memory holds one


class Mixed:
    """Many requests for two models from several clients, with what became of each."""

    def __init__(self, router: Router, clients: int, requests: int) -> None:
        self.router, self.clients, self.requests = router, clients, requests
        self.answered: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.waits: list[float] = []
        self.most_loaded = self.starts = 0
        self._done = threading.Event()

    def run(self) -> None:
        watching = threading.Thread(target=self._watch)
        watching.start()
        try:
            with ThreadPoolExecutor(self.clients) as pool:
                list(pool.map(self._client, range(self.clients)))
        finally:
            self._done.set()
            watching.join()

    def _client(self, number: int) -> None:
        with http(self.router) as ask:
            for index in range(self.requests // self.clients):
                # Each client changes its mind at other times than the others, so that both models are always wanted.
                wanted = self.router.names[(index // (1 + number % 3) + number) % 2]
                body = {"prompt": STORY, "n_predict": 4 + index % 5, "model": wanted, "ignore_eos": True}
                began = time.perf_counter()
                answer = ask.post("/completion", json=body)
                self.waits.append(time.perf_counter() - began)
                said = answer.json()
                right = answer.status_code == 200 and said["model"] == wanted == answer.headers["X-Noa-Lab-Model"]
                if not right or said["tokens_predicted"] != body["n_predict"]:
                    self.wrong.append(answer.text[:200])
                self.answered[wanted] += 1

    def _watch(self) -> None:
        """How many models' servers are alive at once, by their processes and not by the router's word."""
        from noa_lab.server._identity import is_alive

        while not self._done.wait(0.1):
            alive = [one for one in _records(self.router) if one.kind == "server" and is_alive(one.process)]
            self.most_loaded = max(self.most_loaded, len(alive))


def _mix(runtime: Runtime, home: Home, model: ModelFile, second: ModelFile, requests: int) -> Mixed:
    policy = Policy(one_at_a_time(model, second), max_overtaken=16, max_wait_seconds=10)
    plan = make_plan(runtime, home, model, second, policy)
    with server.start_router(plan, home=home) as router:
        mixed = Mixed(router, clients=8, requests=requests)
        mixed.run()
        with http(router) as ask:
            counters = ask.get("/metrics").text
    mixed.starts = starts = sum(
        int(line.rsplit(" ", 1)[1]) for line in counters.splitlines() if line.startswith("noa_lab_router_starts")
    )
    failures = [line for line in counters.splitlines() if "failures_total{" in line and not line.endswith(" 0")]
    assert mixed.wrong == [], "answered by the wrong model, or not at all, or cut short"
    assert sum(mixed.answered.values()) == requests
    assert min(mixed.answered.values()) >= requests // 4
    assert failures == [], "no server was ended under a request"
    assert mixed.most_loaded == 1, "the budget holds one"
    # How many are together depends on which client gets to ask when: one that comes late may cost two more starts.
    assert starts <= requests / 2, "requests of one model were answered together"
    assert max(mixed.waits) < 60, "nobody starves"
    return mixed


def test_mixed_requests_where_memory_holds_one_model(runtime, model, second, tmp_path):
    home = Home(tmp_path / "home")
    _mix(runtime, home, model, second, requests=24)
    wait_until(lambda: server.servers(home) == [])


@pytest.mark.full
def test_two_hundred_mixed_requests_from_eight_clients(runtime, model, second, tmp_path):
    mixed = _mix(runtime, Home(tmp_path / "home"), model, second, requests=200)
    assert mixed.starts <= 35, "requests of one model were answered together"
    print(
        f"waits: most {max(mixed.waits):.1f} s, mean {sum(mixed.waits) / len(mixed.waits):.1f} s; {dict(mixed.answered)}"
    )


def test_a_long_answer_is_not_cut_short_by_a_model_that_waits(runtime, model, second, tmp_path):
    home = Home(tmp_path / "home")
    policy = Policy(one_at_a_time(model, second), max_overtaken=2, max_wait_seconds=0.5)
    with server.start_router(make_plan(runtime, home, model, second, policy), home=home) as router, http(router) as ask:
        body = {"prompt": STORY, "n_predict": 200, "stream": True, "ignore_eos": True}
        with ask.stream("POST", "/completion", json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            with ThreadPoolExecutor(1) as pool, http(router) as other, http(router) as look:
                waiting = pool.submit(other.post, "/completion", json={"prompt": STORY, "model": "second"})
                tokens = looks = 0
                for line in filter(None, lines):
                    tokens += '"stop":false' in line
                    at_work, wanted = look.get("/v1/models").json()["data"]
                    if at_work["in_flight"] and wanted["waiting"]:
                        looks += 1
                    if at_work["in_flight"]:
                        assert wanted["status"]["value"] == "unloaded", (
                            "it is not loaded while the other one is at work"
                        )
                assert looks
                assert tokens >= 195
                assert waiting.result(60).json()["model"] == "second"


def test_a_pinned_model_stays(runtime, model, second, tmp_path):
    home = Home(tmp_path / "home")
    plan = make_plan(runtime, home, model, second, Policy(one_at_a_time(model, second)))
    first, other = plan.models
    plan = replace(plan, models=(replace(first, pinned=True), other))
    with server.start_router(plan, home=home) as router, http(router) as ask:
        assert ask.post("/completion", json={"prompt": STORY}).status_code == 200
        refused = ask.post("/completion", json={"prompt": STORY, "model": "second"})
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "model_too_large")
        assert "pinned" in refused.json()["error"]["message"]
