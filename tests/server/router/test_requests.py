"""Which model a request means, what is filled in, and who may ask."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import httpx
import pytest
from router_fakes import make_plan
from starlette.responses import PlainTextResponse

from noa_lab.inference import InferenceConfig
from noa_lab.server.router._guard import guarded, host_name
from noa_lab.server.router._plan import RouterPlan
from noa_lab.server.router._requests import BadRequest, choose_model, read_body, with_sampling


def tagged() -> RouterPlan:
    plan = make_plan("a", "b", "code")
    a, b, code = plan.models
    return replace(
        plan, models=(replace(a, tags=("general",)), replace(b, tags=("code", "general")), code), default="b"
    )


# --- which model


@pytest.mark.parametrize(
    ("body", "query", "expected"),
    [
        ({"model": "a"}, b"", "a"),
        ({"model": "a"}, b"model=b", "a"),
        ({"model": "general"}, b"", "a"),
        ({"model": "code"}, b"", "code"),
        ({}, b"", "b"),
        ({"model": None}, b"", "b"),
        (None, b"model=a", "a"),
        (None, b"x=1&model=general&model=b", "a"),
        (None, b"modelx=a", "b"),
        (None, b"", "b"),
    ],
)
def test_a_name_then_a_tag_then_the_default(body, query, expected):
    assert choose_model(tagged(), body, query) == expected


@pytest.mark.parametrize(("model", "near"), [("xyz", None), ("genral", "general"), ("", None)])
def test_an_unknown_model_is_named_with_what_is_known(model, near):
    with pytest.raises(BadRequest) as caught:
        choose_model(tagged(), {"model": model}, b"")
    assert (caught.value.status, caught.value.kind) == (404, "model_not_found")
    assert caught.value.facts == {"nearest": near, "known": ["a", "b", "code", "code", "general"]}


@pytest.mark.parametrize("model", [1, ["a"], {"a": 1}, True])
def test_a_model_that_is_no_text_is_refused(model):
    with pytest.raises(BadRequest) as caught:
        choose_model(tagged(), {"model": model}, b"")
    assert caught.value.status == 400


# --- bodies


@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", "", "text/plain"])
def test_json_is_read_whatever_it_is_called(content_type):
    assert read_body(b' {"model": "a"}', content_type) == {"model": "a"}


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"", "application/json"),
        (b"--x\r\n", "multipart/form-data; boundary=x"),
        (b"a=1", "application/x-www-form-urlencoded"),
    ],
)
def test_what_is_no_json_is_passed_on_unread(content, content_type):
    assert read_body(content, content_type) is None


@pytest.mark.parametrize("content", [b"{", b"[1]", b"3", b'{"a":' * 3000, b"\xff", b'{"a": NaN'])
def test_broken_json_is_refused(content):
    with pytest.raises(BadRequest) as caught:
        read_body(content, "application/json")
    assert caught.value.status == 400


# --- sampling

FULL = InferenceConfig(temperature=0.1, max_tokens=9, stop_sequences=("END",)).model_dump(mode="json")


def test_what_a_request_leaves_out_is_filled_in():
    body = with_sampling("/v1/chat/completions", {"messages": [], "top_p": 0.3, "seed": None}, FULL)
    assert body["top_p"] == 0.3
    assert (body["temperature"], body["max_tokens"], body["stop"], body["top_k"]) == (0.1, 9, ["END"], 40)
    assert body["seed"] is None, "without a seed of server.yaml, llama-server draws one"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n_predict", "max_output_tokens"])
def test_a_length_by_any_of_its_names_is_the_requests(name):
    body = with_sampling("/completion", {"prompt": "x", name: 5}, FULL)
    lengths = {"max_tokens", "max_completion_tokens", "n_predict", "max_output_tokens"}
    assert {key: value for key, value in body.items() if key in lengths} == {name: 5}


def test_zero_and_empty_are_values():
    body = with_sampling("/completion", {"temperature": 0, "stop": []}, FULL)
    assert (body["temperature"], body["stop"]) == (0, [])


@pytest.mark.parametrize("path", ["/tokenize", "/v1/embeddings", "/v1/models", "/chat/completions/input_tokens"])
def test_other_routes_are_left_as_they_are(path):
    assert with_sampling(path, {"content": "x"}, FULL) is None


# --- who may ask


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("127.0.0.1:80", "127.0.0.1"),
        ("localhost", "localhost"),
        ("LOCALHOST.:8080", "localhost"),
        ("[::1]:8080", "::1"),
        ("[::1]", "::1"),
        ("evil.example:8080", "evil.example"),
        ("a:b:c", ""),
        ("", ""),
    ],
)
def test_the_name_in_a_host_header(host, name):
    assert host_name(host) == name


def ask(headers: dict[str, str], path: str = "/props", method: str = "GET", **options: object) -> httpx.Response:
    async def main() -> httpx.Response:
        app = guarded(PlainTextResponse("secret"), "key", **options)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(main())


@pytest.mark.parametrize("headers", [{"authorization": "Bearer key"}, {"authorization": "key"}, {"x-api-key": "key"}])
def test_the_key_opens(headers):
    assert ask(headers).text == "secret"


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer no"}, {"x-api-key": ""}, {"authorization": "Bearer no", "x-api-key": "key"}],
)
def test_without_the_key_nothing_is_told(headers):
    answer = ask(headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"
    assert "secret" not in answer.text


@pytest.mark.parametrize("path", ["/health", "/v1/health"])
def test_health_needs_no_key_but_this_machine(path):
    assert ask({}, path).text == "secret"
    assert ask({"host": "evil.example"}, path).status_code == 403


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "10.0.0.1", "a:b:c"])
def test_a_name_that_was_made_to_point_here_gets_nothing_even_with_the_key(host):
    answer = ask({"host": host, "authorization": "Bearer key"})
    assert answer.status_code == 403
    assert "secret" not in answer.text


@pytest.mark.parametrize("host", ["10.0.0.7:8080", "lab-machine", "LAB-MACHINE:8080"])
def test_where_other_machines_may_ask_addresses_and_its_name_are_let_through(host):
    headers = {"host": host, "authorization": "Bearer key"}
    assert ask(headers, names=("lab-machine",), addresses=True).text == "secret"
    assert ask({**headers, "host": "evil.example"}, names=("lab-machine",), addresses=True).status_code == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example", "file://"])
def test_a_page_of_another_origin_gets_nothing_even_with_the_key(origin):
    for method in ("GET", "POST", "OPTIONS"):
        headers = {"origin": origin, "authorization": "Bearer key", "access-control-request-method": "POST"}
        answer = ask(headers, method=method)
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
        assert "secret" not in answer.text


@pytest.mark.parametrize("origin", ["http://localhost:8888", "http://127.0.0.1", "https://localhost", "http://[::1]:1"])
def test_a_page_of_this_machine_may_ask_with_the_key(origin):
    answer = ask({"origin": origin, "authorization": "Bearer key"})
    assert answer.text == "secret"
    assert answer.headers["access-control-allow-origin"] == origin
    assert ask({"origin": origin}).status_code == 401
    preflight = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    answer = ask(preflight, method="OPTIONS")
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin)


# --- the plan


def test_a_plan_survives_being_written_down():
    plan = tagged()
    again = RouterPlan.from_dict(json.loads(json.dumps(plan.as_dict())))
    assert again == plan
    assert again.fingerprint == plan.fingerprint
    assert replace(plan, default="a").fingerprint != plan.fingerprint


def test_what_was_learnt_of_memory_meanwhile_makes_no_other_plan():
    """Each remembered load changes what is foreseen: who asks for the same models afterwards has to find the router that is up."""
    plan = tagged()
    surer = replace(plan, models=tuple(replace(one, predicted_bytes=one.predicted_bytes + 1) for one in plan.models))
    assert surer.fingerprint == plan.fingerprint
