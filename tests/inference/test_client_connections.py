"""The client's connections: addresses, the key, proxies, and servers that close them."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest
from client_rig import ASK

from noa_lab.errors import BadInput, RequestRefused, StreamBroken, Unreachable
from noa_lab.inference import AsyncLlamaClient, LlamaClient, LlamaInferenceEngine, OpenAIEngine
from noa_lab.testing import FakeLlamaServer, Script

KEY = "sk-very-secret"


def test_health_check_never_raises() -> None:
    with FakeLlamaServer() as fake:
        client = LlamaClient(fake.base_url)
        assert client.health_check() is True
        assert asyncio.run(AsyncLlamaClient(fake.base_url).health_check()) is True
    assert client.health_check() is False
    assert LlamaClient("http://127.0.0.1:1").health_check() is False
    assert LlamaClient("http://no-such-host.invalid").health_check() is False


def test_health_of_a_server_that_breaks_off() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer_half() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 503 X\r\nContent-Length: 50\r\n\r\n{")

        answering = threading.Thread(target=answer_half)
        answering.start()
        with LlamaClient(f"http://127.0.0.1:{listening.getsockname()[1]}") as client:
            assert client.health_check() is False
        answering.join(5)


@pytest.mark.parametrize("patience", [0, -1.0, float("nan"), None])
def test_no_time_to_wait(patience: float) -> None:
    for make in (
        lambda: LlamaClient("http://h", patience=patience),
        lambda: OpenAIEngine("http://h/v1", "m", patience=patience),
    ):
        with pytest.raises(BadInput, match="patience"):
            make()


def test_unreachable_is_named() -> None:
    with pytest.raises(Unreachable, match="noa-lab serve") as caught:
        LlamaClient("http://127.0.0.1:1").completion(ASK)
    assert caught.value.fields["url"] == "http://127.0.0.1:1"
    assert isinstance(caught.value, ConnectionError)


def test_the_key_is_sent_and_never_shown() -> None:
    refusal = Script(
        status=401, body={"error": {"code": 401, "message": "Invalid API Key", "type": "authentication_error"}}
    )
    with FakeLlamaServer([Script(), refusal]) as fake:
        client, engine = LlamaClient(fake.base_url, KEY), LlamaInferenceEngine(fake.base_url, "m", KEY)
        answer = engine.generate("x")
        assert fake.seen[0].headers["authorization"] == f"Bearer {KEY}"
        with pytest.raises(RequestRefused) as caught:
            client.completion(ASK)
        shown = [client, engine, answer, answer.raw_request, answer.raw_response, caught.value, caught.value.fields]
        assert KEY not in "".join(map(repr, shown)) + str(caught.value)
        assert caught.value.fields["status"] == 401
        assert "api_key" in caught.value.fix
        client.close()
        engine.close()


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8080", "ftp://x", "http://", "", "http://h:99999", "http://user:pw@127.0.0.1:1", None]
)
def test_bad_addresses(url: str) -> None:
    with pytest.raises(BadInput) as caught:
        LlamaClient(url)
    assert caught.value.fields["field"] == "base_url"
    assert "pw" not in str(caught.value) + repr(caught.value.fields)


def test_no_proxy_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with FakeLlamaServer() as fake, LlamaClient(fake.base_url) as client:
        assert client.completion(ASK).content


@pytest.mark.parametrize("left_out", ["", "models.invalid"])
def test_a_proxy_is_asked_for_other_machines(monkeypatch: pytest.MonkeyPatch, left_out: str) -> None:
    with FakeLlamaServer() as proxy:
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, proxy.base_url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.setenv(name, left_out)
        with (
            LlamaClient("http://models.invalid:8080") as client,
            pytest.raises(Unreachable if left_out else RequestRefused),
        ):
            client.completion(ASK)
        assert [seen.path for seen in proxy.seen] == ([] if left_out else ["http://models.invalid:8080/completion"])


def test_a_stale_connection_is_replaced_once() -> None:
    with FakeLlamaServer([Script(), Script(drop=True), Script()]) as fake, LlamaClient(fake.base_url) as client:
        assert client.completion(ASK).content == "Hello there"
        assert client.completion(ASK).content == "Hello there"
        assert [seen.connection for seen in fake.seen] == [1, 1, 2]


def test_a_fresh_connection_is_not_retried() -> None:
    with FakeLlamaServer([Script(drop=True), Script()]) as fake, LlamaClient(fake.base_url) as client:
        with pytest.raises(Unreachable):
            client.completion(ASK)
        assert len(fake.seen) == 1


def test_idle_connections_closed_by_the_server() -> None:
    with FakeLlamaServer() as fake, LlamaClient(fake.base_url) as client:
        for _ in range(5):
            assert client.completion(ASK).content == "Hello there"
            fake.close_idle()


def test_nothing_is_sent_twice_once_text_has_come() -> None:
    with FakeLlamaServer([Script(), Script(pieces=["one", " two", " three"], cut_after=2), Script()]) as fake:
        client = LlamaClient(fake.base_url)
        client.completion(ASK)
        stream, got = client.stream(ASK), []
        with pytest.raises(StreamBroken) as caught:
            got.extend(stream)
        assert got == ["one", " two"]
        assert caught.value.fields["text"] == "one two"
        assert len(fake.seen) == 2
        with pytest.raises(StreamBroken):
            stream.result  # noqa: B018
        client.close()
