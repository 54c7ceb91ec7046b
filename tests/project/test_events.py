"""Progress and cancelling: what every long work is told and tells."""

from __future__ import annotations

import threading

import pytest

from noa_lab.errors import Cancelled
from noa_lab.events import CancelToken, Progress


@pytest.mark.parametrize(
    ("progress", "eta"),
    [
        (Progress("x", done=25, total=100, unit="bytes", rate=5), 15),
        (Progress("x", done=100, total=100, unit="bytes", rate=5), 0),
        (Progress("x", done=120, total=100, unit="bytes", rate=5), 0),
        (Progress("x", done=25, total=100, unit="bytes"), None),
        (Progress("x", done=25, total=100, unit="bytes", rate=0), None),
        (Progress("x", done=25, unit="bytes", rate=5), None),
        (Progress("x", rate=5), None),
        (Progress("x", finished=True), 0),
    ],
)
def test_the_time_that_is_left(progress: Progress, eta: float | None) -> None:
    assert progress.eta_seconds == eta


def test_a_pause_lasts_until_it_is_over() -> None:
    token, went_on = CancelToken(), threading.Event()
    token.wait_while_paused()
    token.pause()
    assert token.paused

    def work() -> None:
        token.wait_while_paused()
        went_on.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert not went_on.wait(0.05)
    token.resume()
    assert went_on.wait(5)
    thread.join()
    assert not token.paused


def test_cancelling_ends_a_pause_for_good() -> None:
    token = CancelToken()
    token.pause()
    token.cancel()
    with pytest.raises(Cancelled):
        token.wait_while_paused()
    token.pause()
    assert not token.paused
