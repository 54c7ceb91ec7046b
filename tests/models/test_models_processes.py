"""Eight processes ask for one model at the same time: one complete copy, fetched once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

from model_rig import litter, random_model

from noa_lab.paths import Home
from noa_lab.testing import FakeHub

CHILD = """
import sys
from noa_lab import models
from noa_lab.paths import Home
sys.stdin.readline()
model = models.fetch(sys.argv[1], Home.default())
print(model.path, model.sha256)
"""


def test_eight_processes(hub: FakeHub, tmp_path: Path) -> None:
    content = random_model(tmp_path / "x.gguf", 6_000_000)
    hub.push("owner/some-GGUF", {"Some.F32.gguf": content})
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "NOA_LAB_HOME": str(tmp_path / "home"),
    }
    command = [sys.executable, "-c", CHILD, "hf://owner/some-GGUF/Some.F32.gguf"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    children = [subprocess.Popen(command, env=environment, text=True, **pipes) for _ in range(8)]
    answers: list[tuple[str, str]] = []
    threads = [threading.Thread(target=lambda each=each: answers.append(each.communicate("\n"))) for each in children]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
    assert [child.returncode for child in children] == [0] * 8, answers
    assert len({out for out, _ in answers}) == 1
    path = Path(answers[0][0].split()[0])
    assert path.read_bytes() == content
    blobs = list((tmp_path / "hf" / "hub").glob("models--*/blobs/*"))
    assert blobs == [path.resolve()]
    assert litter(Home(tmp_path / "home")) == []
    assert hub.sent(content) == len(content)
