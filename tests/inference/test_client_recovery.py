"""A server that goes away and comes back: what is sent again, and what never is."""

from __future__ import annotations

import pytest
from client_rig import ASK

from noa_lab.errors import RequestRefused, StreamBroken, Unreachable
from noa_lab.inference import LlamaClient, LlamaInferenceEngine
from noa_lab.testing import FakeLlamaServer, Script

LOADING = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}


class Supervisor:
    """Says where the server is after it has gone."""

    def __init__(self, *addresses: str | None) -> None:
        self.addresses = list(addresses)
        self.errors: list[Exception] = []

    async def recover(self, error: Exception) -> str | None:
        self.errors.append(error)
        return self.addresses.pop(0)


def test_a_request_without_a_token_is_sent_again_where_the_server_is_back() -> None:
    with FakeLlamaServer([Script(cut_after=0)]) as old, FakeLlamaServer() as new:
        supervisor = Supervisor(new.base_url)
        with LlamaInferenceEngine(old.base_url, "m", recover=supervisor.recover) as engine:
            answer = engine.generate("x")
            assert answer.text == "Hello there"
            assert answer.timings.queue_ms > 0
            assert isinstance(supervisor.errors[0], StreamBroken)
            assert (len(old.seen), len(new.seen)) == (1, 1)
            engine.generate("y")  # and it stays there
            assert len(old.seen) == 1


def test_a_loading_server_is_waited_for() -> None:
    with FakeLlamaServer([Script(status=503, body=LOADING), Script()]) as fake:
        supervisor = Supervisor(fake.base_url)
        with LlamaClient(fake.base_url, recover=supervisor.recover) as client:
            assert client.completion(ASK).content == "Hello there"


@pytest.mark.parametrize("pieces", [["one"], [""]])
def test_a_request_with_a_token_is_never_sent_again(pieces: list[str]) -> None:
    with FakeLlamaServer([Script(pieces=pieces, cut_after=1), Script()]) as fake:
        supervisor = Supervisor(fake.base_url)
        with LlamaClient(fake.base_url, recover=supervisor.recover) as client, pytest.raises(StreamBroken) as caught:
            client.completion(ASK)
        assert supervisor.errors == []
        assert caught.value.fields["text"] == pieces[0]
        assert len(fake.seen) == 1


def test_sending_again_ends() -> None:
    with FakeLlamaServer([Script(cut_after=0)]) as fake:
        supervisor = Supervisor(*[fake.base_url] * 9)
        with LlamaClient(fake.base_url, recover=supervisor.recover) as client, pytest.raises(StreamBroken):
            client.completion(ASK)
        assert len(fake.seen) == 3
        gone = Supervisor(None)
        with LlamaClient(fake.base_url, recover=gone.recover) as client, pytest.raises(StreamBroken):
            client.completion(ASK)
    again = Supervisor(None)
    with LlamaClient("http://127.0.0.1:1", recover=again.recover) as client, pytest.raises(Unreachable):
        client.tokenize("x")
    assert len(again.errors) == 1


def test_a_refusal_is_not_sent_again() -> None:
    with FakeLlamaServer([Script(status=400, body={"error": "no"})]) as fake:
        supervisor = Supervisor(fake.base_url)
        with LlamaClient(fake.base_url, recover=supervisor.recover) as client, pytest.raises(RequestRefused):
            client.completion(ASK)
        assert supervisor.errors == []
