"""Who is served next, and which model has to go: the router's decisions, without any input or output.

Every method is one event; it returns what is to be done about it. The rules:

- A request for a loaded model is sent to it at once; llama-server's own slots do the rest.
- Requests for models that are not loaded wait. Memory goes to the one that has waited longest; nobody takes it away in between.
- Loaded models go on being served while it waits, so that mixed requests do not load a model for each of them, but only up to a bound:
  after `max_overtaken` requests that came later, or `max_wait_seconds`, the models that are in its way get nothing new.
- A model is ended only when nothing runs on it, and never when it is pinned. A model that has just become idle is left alone for
  `linger_seconds`: one client that asks one question after the other would else lose it after each answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from noa_lab.server.router._actions import Action, Dispatch, Refuse, Start, Stop
from noa_lab.server.router._model_state import ModelState
from noa_lab.server.router._room import choose_victims

__all__ = ["Policy", "Schedule"]

FAILURES = 3
"""Failed starts in a row after which a model is not tried again for `COOL_DOWN_SECONDS`."""
COOL_DOWN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Policy:
    """The bounds.

    Attributes:
        budget_bytes: Memory for all models together.
        max_overtaken: Requests that may be sent to loaded models past an older one that waits for memory, counted anew after each
            loading.
        max_wait_seconds: The same bound in seconds, counted from when the models in the way were loaded, if that was later.
        linger_seconds: How long an idle model is kept although another one waits for its memory.
        idle_seconds: After how long without a request a model is ended; 0 is never.
        max_waiting: Requests that may wait; more are refused.
    """

    budget_bytes: int
    max_overtaken: int = 32
    max_wait_seconds: float = 30.0
    linger_seconds: float = 0.25
    idle_seconds: float = 0.0
    max_waiting: int = 1000


class Schedule:
    """The state of all models and requests. Requests are numbered in the order in which they come.

    Args:
        models: The models, none of them loaded.
        policy: The bounds.
    """

    def __init__(self, models: Iterable[ModelState], policy: Policy) -> None:
        self.models = {model.name: model for model in models}
        self.policy = policy
        self._model_of: dict[int, ModelState] = {}
        self._last_start = 0.0

    # --- events: requests -----------------------------------------------------------------------------------------------

    def arrive(self, request: int, model: str, now: float) -> list[Action]:
        """A request has come. `request` is larger than those before it."""
        wanted = self.models[model]
        if wanted.resting_until > now:
            return [Refuse(request, "model_failed", wanted.failure)]
        if sum(len(one.waiting) for one in self.models.values()) >= self.policy.max_waiting:
            return [Refuse(request, "queue_full", f"{self.policy.max_waiting} requests wait already")]
        self._model_of[request] = wanted
        wanted.waiting[request] = now
        return self._decide(now)

    def leave(self, request: int, now: float) -> list[Action]:
        """A request is over: answered, failed, or its client has gone, also while it waited. Unknown ones are ignored."""
        model = self._model_of.pop(request, None)
        if model is None:
            return []
        if request in model.running:
            model.running.remove(request)
            model.last_used = now
        model.waiting.pop(request, None)
        if not model.waiting:
            model.overtaken = 0
        return self._decide(now)

    # --- events: servers ------------------------------------------------------------------------------------------------

    def started(self, model: str, measured_bytes: int, now: float) -> list[Action]:
        """A server that was to be started is ready, and takes this much memory."""
        one = self.models[model]
        one.state, one.last_used, self._last_start = "loaded", now, now
        one.failures, one.failure = 0, ""
        one.bytes = measured_bytes or one.bytes
        for other in self.models.values():
            other.overtaken = 0  # what was just loaded is worth its loading
        return self._decide(now)

    def start_failed(self, model: str, reason: str, now: float) -> list[Action]:
        """A server that was to be started is not: everyone who waits for it is told."""
        one = self.models[model]
        one.state = "unloaded"
        one.failures += 1
        one.failure = reason
        if one.failures >= FAILURES:
            one.resting_until = now + COOL_DOWN_SECONDS
        return [*self._refuse_all(one, "model_failed", reason), *self._decide(now)]

    def stopped(self, model: str, now: float) -> list[Action]:
        """A server has ended: it was told to, or it died. What ran on it is forgotten: who asks again is a new request."""
        one = self.models[model]
        one.state, one.closing = "unloaded", False
        for request in one.running:
            self._model_of.pop(request, None)
        one.running.clear()
        return self._decide(now)

    def measured(self, model: str, measured_bytes: int, now: float) -> list[Action]:
        """How much memory a loaded model takes; the most that was ever seen counts."""
        one = self.models[model]
        one.bytes = max(one.bytes, measured_bytes)
        return self._decide(now)

    def unload(self, model: str, now: float) -> list[Action] | None:
        """Somebody wants a model ended, pinned or not; None when it is at work."""
        one = self.models[model]
        if one.running or one.waiting or one.state in ("loading", "unloading"):
            return None
        return [] if one.state == "unloaded" else [self._stop(one), *self._decide(now)]

    def tick(self, now: float) -> list[Action]:
        """Time has passed; to be called at `wake_at`."""
        return self._decide(now)

    def wake_at(self, now: float) -> float | None:
        """When the passing of time alone will next change something; None where it will not."""
        times = []
        head = self._head()
        if head is not None:
            times.append(self._patient_until(head))
        for one in self.models.values():
            if one.idle and not one.pinned:
                if head is not None:
                    times.append(one.last_used + self.policy.linger_seconds)
                if self.policy.idle_seconds:
                    times.append(one.last_used + self.policy.idle_seconds)
        return min((time for time in times if time > now), default=None)

    # --- decisions ------------------------------------------------------------------------------------------------------

    def _decide(self, now: float) -> list[Action]:
        actions = list(self._end_unused(now))
        while True:
            news = [*self._make_room(now), *self._dispatch_one(now)]
            if not news:
                return actions
            actions += news

    def _head(self) -> ModelState | None:
        """The model that has waited longest for memory."""
        waiting = [one for one in self.models.values() if one.waiting and one.state == "unloaded"]
        return min(waiting, key=lambda one: one.oldest, default=None)

    def _dispatch_one(self, now: float) -> Iterator[Action]:
        """Send the oldest request that can be sent."""
        ready = [one for one in self.models.values() if one.waiting and one.state == "loaded" and not one.closing]
        if not ready:
            return
        chosen = min(ready, key=lambda one: one.oldest)
        request, _ = chosen.waiting.popitem(last=False)
        chosen.running.add(request)
        chosen.last_used = now
        for other in self.models.values():
            if other.state == "unloaded" and other.waiting and other.oldest < request:
                other.overtaken += 1
        yield Dispatch(request)

    def _make_room(self, now: float) -> Iterator[Action]:
        """Start the model that has waited longest, or do what brings that nearer."""
        head = self._head()
        doomed: list[ModelState] = []
        if head is not None:
            if head.bytes > self._most_for(head):
                yield from self._refuse_all(head, "model_too_large", self._too_large(head), head.bytes)
            elif head.bytes <= self._free():
                head.state, head.overtaken = "loading", 0
                yield Start(head.name)
            else:
                doomed = self._in_the_way_of(head, now)
        for one in self.models.values():
            one.closing = one in doomed
        for one in doomed:
            if one.idle:
                yield self._stop(one)

    def _in_the_way_of(self, head: ModelState, now: float) -> list[ModelState]:
        """The models that have to end for `head`, if that is to be begun now."""
        shortage = head.bytes - self._free() - self._coming()
        loaded = [one for one in self.models.values() if one.state == "loaded" and not one.pinned]
        # What came before the head goes before it, on a model that was only just loaded too.
        candidates = [one for one in loaded if not one.waiting or one.oldest > head.oldest]
        if head.overtaken < self.policy.max_overtaken and now < self._patient_until(head):
            rested = now - self.policy.linger_seconds
            candidates = [one for one in candidates if one.idle and one.last_used <= rested]
        return choose_victims(candidates, shortage)

    def _patient_until(self, head: ModelState) -> float:
        """Until when `head` lets the loaded models be served first."""
        return max(head.waiting[head.oldest], self._last_start) + self.policy.max_wait_seconds

    def _end_unused(self, now: float) -> Iterator[Action]:
        """End what nobody has used for long, and what was measured to be too much while it is idle."""
        idle = sorted((one for one in self.models.values() if one.idle and not one.pinned), key=lambda m: m.last_used)
        for one in idle:
            unused = self.policy.idle_seconds and now - one.last_used >= self.policy.idle_seconds
            if not one.waiting and (unused or self._overdrawn_by_others_than(one)):
                yield self._stop(one)

    def _overdrawn_by_others_than(self, model: ModelState) -> bool:
        """Whether more memory was measured than there is; a model that is alone is not ended for that."""
        others = any(one.state == "loaded" and one is not model for one in self.models.values())
        return others and self._free() + self._coming() < 0

    def _free(self) -> int:
        """Memory that nobody has; below zero when more was measured than was foreseen."""
        return self.policy.budget_bytes - sum(one.bytes for one in self.models.values() if one.state != "unloaded")

    def _coming(self) -> int:
        """Memory of models that are ending."""
        return sum(one.bytes for one in self.models.values() if one.state == "unloading")

    def _most_for(self, model: ModelState) -> int:
        """The most that `model` can ever get: everything but what is pinned."""
        pinned = (one for one in self.models.values() if one.pinned and one is not model and one.state != "unloaded")
        return self.policy.budget_bytes - sum(one.bytes for one in pinned)

    def _too_large(self, model: ModelState) -> str:
        most, budget = self._most_for(model), self.policy.budget_bytes
        rest = f", of which pinned models leave {most / 1e9:.2f} GB" if most < budget else ""
        return f"{model.name} needs about {model.bytes / 1e9:.2f} GB; the memory budget is {budget / 1e9:.2f} GB{rest}"

    def _refuse_all(self, model: ModelState, kind: str, reason: str, needed: int = 0) -> Iterator[Action]:
        while model.waiting:
            request, _ = model.waiting.popitem(last=False)
            self._model_of.pop(request, None)
            yield Refuse(request, kind, reason, needed)
        model.overtaken = 0

    @staticmethod
    def _stop(model: ModelState) -> Stop:
        model.state, model.closing = "unloading", False
        return Stop(model.name)
