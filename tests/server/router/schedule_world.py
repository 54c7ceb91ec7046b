"""A world for the schedule to act on: it obeys, and checks that no rule is ever broken."""

from __future__ import annotations

from noa_lab.server.router._actions import Action, Dispatch, Refuse, Start, Stop
from noa_lab.server.router._model_state import ModelState
from noa_lab.server.router._schedule import Policy, Schedule


class World:
    """What is true outside of the schedule: servers and requests."""

    def __init__(self, sizes: dict[str, int], policy: Policy, pinned: tuple[str, ...] = ()) -> None:
        self.policy = policy
        self.pinned = set(pinned)
        self.schedule = Schedule((ModelState(name, size, name in pinned) for name, size in sizes.items()), policy)
        self.now = 0.0
        self.state = dict.fromkeys(sizes, "unloaded")
        self.sizes = dict(sizes)
        self.waiting: dict[int, str] = {}
        self.running: dict[int, str] = {}
        self.answered: list[int] = []
        self.refused: dict[int, Refuse] = {}
        self.starts: list[str] = []
        self.sent_past: dict[int, int] = {}
        self._next = 0
        self._unload = ""

    # --- what happens ----------------------------------------------------------------------------------------------

    def ask(self, model: str) -> int:
        self._next += 1
        request = self._next
        self.waiting[request] = model
        self.obey(self.schedule.arrive(request, model, self.now))
        return request

    def leave(self, request: int) -> None:
        self.waiting.pop(request, None)
        if self.running.pop(request, None) is not None:
            self.answered.append(request)
        self.obey(self.schedule.leave(request, self.now))

    def started(self, model: str, size: int | None = None) -> None:
        assert self.state[model] == "loading"
        self.state[model] = "loaded"
        self.sizes[model] = size or self.sizes[model]
        self.sent_past.clear()
        self.obey(self.schedule.started(model, self.sizes[model], self.now))

    def start_failed(self, model: str) -> None:
        assert self.state[model] == "loading"
        self.state[model] = "unloaded"
        self.obey(self.schedule.start_failed(model, "broken", self.now))

    def stopped(self, model: str) -> None:
        """Also a death."""
        self.state[model] = "unloaded"
        self.running = {request: name for request, name in self.running.items() if name != model}
        self.obey(self.schedule.stopped(model, self.now))

    def grew(self, model: str, size: int) -> None:
        self.sizes[model] = max(size, self.sizes[model])
        self.obey(self.schedule.measured(model, size, self.now))

    def unload(self, model: str) -> bool:
        self._unload = model
        actions = self.schedule.unload(model, self.now)
        if actions is not None:
            self.obey(actions)
        self._unload = ""
        return actions is not None

    def wait(self, seconds: float) -> None:
        """Time passes, with a tick whenever one is due."""
        end = self.now + seconds
        for _ in range(10_000):
            due = self.schedule.wake_at(self.now)
            if due is None or due > end:
                self.now = end
                return
            assert due > self.now
            self.now = due
            self.obey(self.schedule.tick(self.now))
        raise AssertionError("the schedule wakes up without end")

    def settle(self) -> None:
        """Everything that can happen by itself happens, until nothing waits and nothing runs."""
        for _ in range(100_000):
            for model, state in list(self.state.items()):
                if state == "loading":
                    self.started(model)
                elif state == "unloading":
                    self.stopped(model)
            for request in list(self.running):
                self.leave(request)
            if not self.waiting and not self.running and "unloading" not in self.state.values():
                return
            self.wait(self.policy.linger_seconds)
        raise AssertionError(f"these wait for ever: {self.waiting}")

    # --- what the schedule wants --------------------------------------------------------------------------------------

    def obey(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Dispatch(request):
                    self._dispatch(request)
                case Refuse(request):
                    assert request in self.waiting, "refused twice, or after it was sent"
                    del self.waiting[request]
                    self.refused[request] = action
                case Start(model):
                    self._start(model)
                case Stop(model):
                    self._stop(model)

    def _dispatch(self, request: int) -> None:
        model = self.waiting.pop(request)  # a KeyError: sent twice
        assert self.state[model] == "loaded", "sent to a model that is not there"
        assert all(other > request for other, name in self.waiting.items() if name == model), "not in order"
        self.running[request] = model
        head = min((other for other, name in self.waiting.items() if self.state[name] == "unloaded"), default=None)
        # With several models in its way the schedule chooses which to close; with one there is no choice.
        alone = all(state == "unloaded" for name, state in self.state.items() if name != model)
        if head is not None and head < request and alone and model not in self.pinned:
            self.sent_past[head] = self.sent_past.get(head, 0) + 1
            assert self.sent_past[head] <= self.policy.max_overtaken, "a request was overtaken too often"

    def _start(self, model: str) -> None:
        assert self.state[model] == "unloaded"
        self.state[model] = "loading"
        self.starts.append(model)
        taken = sum(self.sizes[name] for name, state in self.state.items() if state != "unloaded")
        assert taken <= self.policy.budget_bytes, "more memory than there is"

    def _stop(self, model: str) -> None:
        assert self.state[model] == "loaded"
        assert model not in self.running.values(), "a busy model was ended"
        assert model not in self.pinned or model == self._unload, "a pinned model was ended"
        self.state[model] = "unloading"
