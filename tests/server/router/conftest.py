"""Routers over the fake llama-server, in homes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from router_fakes import make_plan
from server_fakes import FakeLlama

from noa_lab.paths import Home
from noa_lab.server.router._plan import RouterPlan


@pytest.fixture
def fake_plan(bare_home: Home, fake: FakeLlama) -> RouterPlan:
    """Two models, "a" and "b", behind a router on a free port."""
    plan = make_plan("a", "b", budget=10**12)
    models = tuple(replace(one, file=fake.make_model(one.name)) for one in plan.models)
    return replace(plan, home=str(bare_home.root), runtime=fake.runtime, models=models)


class RouterHolder:
    """Another process that starts or joins a router and then does what its code says."""

    def __init__(self, home: Home, plan: RouterPlan, code: str, *, keep: bool) -> None:
        file = home.root / "test-plan.json"
        file.write_text(json.dumps(plan.as_dict()), encoding="utf-8")
        script = f"""
            import json, sys, time
            from pathlib import Path
            from noa_lab.paths import Home
            from noa_lab.server import start_router
            from noa_lab.server._http import ask_json
            from noa_lab.server.router._plan import RouterPlan

            def say(*words):
                print(*words, flush=True)

            def wait():
                time.sleep(3600)

            plan = RouterPlan.from_dict(json.loads(Path({str(file)!r}).read_text()))
            router = start_router(plan, home=Home(Path({str(home.root)!r})), keep={keep})
            for name in router.names:
                ask_json(router.base_url, "/completion", api_key=str(router.api_key), body={{"model": name}}, timeout=30)
            say(router.name, router.pid, router.base_url, router.joined)
        """
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script) + textwrap.dedent(code)],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.name = self.base_url = ""
        self.pid = 0
        self.joined = False

    def ready(self) -> RouterHolder:
        """Wait until its router has answered for every model."""
        words = self.line().split()
        self.name, self.pid, self.base_url, self.joined = words[0], int(words[1]), words[2], words[3] == "True"
        return self

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def kill(self) -> None:
        """SIGKILL, and collect it."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def router_holder(bare_home: Home, fake_plan: RouterPlan):
    """Makes `RouterHolder`s."""
    made: list[RouterHolder] = []

    def make(code: str = "wait()", *, keep: bool = False) -> RouterHolder:
        Path(bare_home.root).mkdir(exist_ok=True)
        made.append(RouterHolder(bare_home, fake_plan, code, keep=keep))
        return made[-1]

    yield make
    for one in made:
        one.kill()
