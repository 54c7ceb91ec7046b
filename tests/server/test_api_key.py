"""Every place where the API key could have got to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from kernels import SERVE_REAL, Notebook

from noa_lab import server
from noa_lab.server._record import record_folder

pytestmark = pytest.mark.real


def test_the_key_is_in_no_notebook_log_argument_environment_of_others_or_error(home, tmp_path):
    """Everything that a session leaves: the saved notebook, logs, what `ps` shows, reprs, errors, the shell's history of the checks."""
    book = Notebook(home)
    try:
        printed = book.run(SERVE_REAL)
        printed += book.run(
            "print(running, repr(running.api_key), running._repr_html_(), running.status(), vars(running.settings))"
        )
        printed += book.run("running.client().completion(lab.CompletionRequest(prompt='x ' * 5000, max_tokens=1))")
        printed += book.run("print(running.engine(), running.client()); print(chr(10).join(running.logs(500)))")
        [status] = server.servers(home)
        record = server.find(home, status.name)
        key = record.api_key
        arguments = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
        outputs = [
            subprocess.run([sys.executable, "-m", "noa_lab.cli", *command], capture_output=True, text=True)
            for command in (
                ["status"],
                ["status", status.name],
                ["status", "--json"],
                ["logs", status.name],
                ["test-server"],
            )
        ]
        shown = subprocess.run(
            [sys.executable, "-m", "noa_lab.cli", "status", "--show-key"], capture_output=True, text=True
        )
        files = [path for path in home.root.rglob("*") if path.is_file() and not path.is_relative_to(home.root / "models")
                 and "runtimes" not in path.parts and path.name != "record.json"]  # fmt: skip
        texts = [printed, json.dumps(status.as_dict()), *arguments, *(out.stdout + out.stderr for out in outputs)]
        texts += [shown.stdout, shown.stderr, *(path.read_text(errors="replace") for path in files)]
        assert "ContextOverflow" in printed
        assert "masked" in printed
        assert all(out.returncode == 0 for out in outputs)
        assert shown.returncode == 2  # not a terminal
        assert not any(key in text for text in texts)
        holders = [psutil.Process(one) for one in (record.watcher.pid, book.pid)]
        assert not any(key in "".join(process.environ().values()) for process in holders)
        assert (Path(record_folder(home, status.name)) / "record.json").stat().st_mode & 0o077 == 0
    finally:
        book.close()


def test_the_key_is_in_no_saved_notebook(home, tmp_path):
    """A notebook with a server, its panel and its snippets, executed and saved as nbmake does it."""
    import nbformat
    from nbclient import NotebookClient

    cells = [
        "import os, noa_lab as lab",
        "server = lab.serve('smollm2-135m', context_size=256, slots=1)\nserver",
        "os.environ['NOA_LAB_API_KEY'] = server.api_key\nserver.api_key",
        "panel = lab.ServerPanel(); panel",
        "panel.settle(); panel",
        "from pathlib import Path; Path('key').write_text(str(server.api_key)); server.stop()",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    NotebookClient(book, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    saved = nbformat.writes(book)
    key = (tmp_path / "key").read_text()
    assert len(key) >= 32
    assert key not in saved
    assert "NOA_LAB_API_KEY" in saved
