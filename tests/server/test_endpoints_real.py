"""The endpoints of the real llama-server that this project relies on: what they answer, while loading and ready, and how they refuse."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from server_fakes import the_record, wait_until

from noa_lab import server
from noa_lab.errors import Unreachable
from noa_lab.paths import Home
from noa_lab.server import ServerSettings
from noa_lab.server._http import ask, ask_json

pytestmark = pytest.mark.real

SMALL = ServerSettings(context_size=512, slots=2, embeddings=True)
SECONDS = 120.0


@pytest.fixture(scope="module")
def running(tmp_path_factory, runtime, model):
    with server.serve(runtime, model, SMALL, home=Home(tmp_path_factory.mktemp("endpoints"))) as one:
        yield one


@pytest.fixture
def get(running):
    def call(path, body=None):
        return ask_json(running.base_url, path, api_key=running.api_key, body=body, timeout=SECONDS)

    return call


@pytest.fixture
def refused(running):
    """Status and error of a request that is refused."""
    import json

    def call(path, body=None, key=None):
        chosen = running.api_key if key is None else key
        status, data = ask(running.base_url, path, api_key=chosen, body=body, timeout=SECONDS)
        return status, json.loads(data)["error"]

    return call


# --- while it loads


def statuses_while_loading(home, runtime, model):
    """Path and status of what is answered from before it listens until it is ready."""
    seen = set()
    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(server.serve, runtime, model, SMALL, home=home)
        wait_until(lambda: serving.done() or ((record := the_record(home, model.name)) and record.port))
        while not serving.done():
            record = the_record(home, model.name)
            for path in ("/health", "/v1/models"):
                try:
                    status, body = ask(record.base_url, path, timeout=5)
                except Unreachable:
                    continue  # it does not listen yet
                seen.add((path, status))
                assert status != 503 or b"Loading model" in body
        serving.result().stop()
    return seen


def test_every_endpoint_says_503_while_the_model_loads(bare_home, runtime, model):
    seen = set()
    for _ in range(10):  # it loads for a few tenths of a second, in which this process may not get to ask
        seen |= statuses_while_loading(bare_home, runtime, model)
        if {("/health", 503), ("/v1/models", 503)} <= seen:
            break
    assert {("/health", 503), ("/v1/models", 503)} <= seen
    assert {status for _, status in seen} <= {503, 200, 401}


# --- ready


def test_health(get):
    assert get("/health") == {"status": "ok"}
    assert get("/v1/health") == {"status": "ok"}


def test_props_name_the_model_and_the_context_of_a_slot(get, model):
    props = get("/props")
    assert props["model_path"] == str(model.path)
    assert props["model_alias"] == model.name
    assert (props["total_slots"], props["default_generation_settings"]["n_ctx"]) == (2, 512)
    assert props["chat_template"]
    assert props["build_info"].startswith("b")
    assert props["endpoint_metrics"] is True
    assert props["endpoint_slots"] is True


def test_models(get, model):
    (listed,) = get("/v1/models")["data"]
    assert listed["id"] == model.name
    assert listed["meta"]["n_ctx_train"] == model.metadata.context_length


def test_tokenize_and_back(get):
    tokens = get("/tokenize", {"content": "Hello, world", "add_special": False})["tokens"]
    assert len(tokens) >= 2
    assert all(isinstance(token, int) for token in tokens)
    assert get("/detokenize", {"tokens": tokens})["content"] == "Hello, world"


def test_apply_template(get):
    prompt = get("/apply-template", {"messages": [{"role": "user", "content": "What is GGUF?"}]})["prompt"]
    assert "What is GGUF?" in prompt
    assert prompt.endswith("<|im_start|>assistant\n")


def test_completion(get):
    body = {"prompt": "The capital of France is", "n_predict": 4, "temperature": 0, "seed": 1}
    answer = get("/completion", body)
    assert "Paris" in answer["content"]
    assert (answer["stop"], answer["stop_type"], answer["tokens_predicted"]) == (True, "limit", 4)
    assert answer["generation_settings"]["seed"] == 1
    assert answer["timings"]["predicted_n"] == 4
    assert answer["timings"]["cache_n"] + answer["timings"]["prompt_n"] == answer["tokens_evaluated"]


def test_chat_completions(get, model):
    messages = [{"role": "user", "content": "Say yes."}]
    answer = get("/v1/chat/completions", {"messages": messages, "max_tokens": 4, "temperature": 0})
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["choices"][0]["finish_reason"] in ("stop", "length")
    assert answer["model"] == model.name
    assert answer["usage"]["completion_tokens"] <= 4


def test_slots_and_metrics_count(get, running):
    before = running.status()
    get("/completion", {"prompt": "Once", "n_predict": 5})
    slots = get("/slots")
    assert [slot["id"] for slot in slots] == [0, 1]
    assert {"is_processing", "id_task", "n_ctx", "next_token"} <= set(slots[0])
    after = running.status()
    assert after.tokens_per_second > 0
    assert after.slots_total == before.slots_total == 2
    metrics = ask(running.base_url, "/metrics", api_key=running.api_key)[1].decode()
    for name in (
        "tokens_predicted_total",
        "tokens_predicted_seconds_total",
        "prompt_tokens_total",
        "requests_processing",
    ):
        assert f"llamacpp:{name} " in metrics


# --- errors


def test_errors_have_a_code_a_type_and_a_message(refused):
    assert refused("/props", key="wrong")[1] == {
        "code": 401, "message": "Invalid API Key", "type": "authentication_error",
    }  # fmt: skip
    status, error = refused("/nothing")
    assert (status, error["type"]) == (404, "not_found_error")
    status, error = refused("/completion", {"prompt": "x " * 2000})
    assert (status, error["type"]) == (400, "exceed_context_size_error")
    assert error["n_prompt_tokens"] > error["n_ctx"] == 512
    status, error = refused("/completion", {"prompt": "x", "grammar": "no grammar"})
    assert (status, error["type"]) == (400, "invalid_request_error")
    status, error = refused("/v1/chat/completions", {"messages": "none"})
    assert status in (400, 500)
    assert error["message"]


def test_a_status_watches_a_request_at_work(running, get):
    body = {"prompt": "Count:", "n_predict": 400, "ignore_eos": True}
    thread = threading.Thread(target=lambda: get("/completion", body))
    thread.start()
    looks = []

    def at_work():
        looks.append(running.status())
        return looks[-1].state == "busy" and looks[-1].tokens_per_second_now > 0

    wait_until(at_work, 60)
    (slot,) = [slot for slot in looks[-1].slots if slot["busy"]]
    assert slot["written"] > 0
    thread.join()
    wait_until(lambda: (status := running.status()).state == "ready" and status.tokens_per_second_now == 0)


# --- the openai package


@pytest.fixture
def openai(running):
    from openai import OpenAI

    with OpenAI(base_url=f"{running.base_url}/v1", api_key=running.api_key, timeout=SECONDS) as client:
        yield client


def test_openai_chat_whole_and_streamed(openai, model):
    ask_for = {
        "model": model.name,
        "messages": [{"role": "user", "content": "Say yes."}],
        "max_tokens": 6,
        "temperature": 0,
    }
    whole = openai.chat.completions.create(**ask_for)
    pieces = [
        chunk.choices[0].delta.content or ""
        for chunk in openai.chat.completions.create(**ask_for, stream=True)
        if chunk.choices
    ]
    assert "".join(pieces) == whole.choices[0].message.content
    assert whole.usage.completion_tokens <= 6


def test_openai_completions_embeddings_and_models(openai, model):
    answer = openai.completions.create(model=model.name, prompt="The capital of France is", max_tokens=4, temperature=0)
    assert "Paris" in answer.choices[0].text
    embedded = openai.embeddings.create(model=model.name, input=["one", "two"])
    assert [len(one.embedding) for one in embedded.data] == [model.metadata.embedding_length] * 2
    assert [one.id for one in openai.models.list()] == [model.name]


def test_openai_without_v1_chats_too(running, model):
    """The address alone serves chats, embeddings and models; /completions is then llama-server's own, which is why /v1 is documented."""
    from openai import OpenAI

    with OpenAI(base_url=running.base_url, api_key=running.api_key, timeout=SECONDS) as client:
        messages = [{"role": "user", "content": "Say yes."}]
        answer = client.chat.completions.create(model=model.name, messages=messages, max_tokens=3)
        assert answer.choices[0].message.content
        assert client.completions.create(model=model.name, prompt="x", max_tokens=1).choices is None


def test_openai_with_a_wrong_key_is_refused(running, model):
    from openai import AuthenticationError, OpenAI

    with (
        OpenAI(base_url=f"{running.base_url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(AuthenticationError),
    ):
        client.chat.completions.create(model=model.name, messages=[{"role": "user", "content": "x"}])


# --- the command


def test_the_check_measures_ours_and_any_server(running):
    health, completion = server.test_server(running.base_url, running.api_key, timeout=SECONDS)
    assert (health.ok, completion.ok, completion.tokens) == (True, True, 8)
    assert completion.tokens_per_second > 0
    assert completion.ms > 1000 * (completion.tokens - 1) / completion.tokens_per_second, (
        "the answer's own time is a part of it"
    )
    assert all(check.ok for check in server.test_server(f"{running.base_url}/v1", running.api_key, timeout=SECONDS))
