"""Small labelled folders to try digest prompts on; they come with the package and are written where asked."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from noa_lab.errors import BadInput

__all__ = ["write_examples"]


def write_examples(folder: str | Path) -> dict[Path, str]:
    """Write twelve small projects into `folder`, each in a folder of its own.

    Files that are there already with the same content are left alone, so that a notebook's cell can be run again.

    Args:
        folder: Where to; made when missing.

    Returns:
        Each project's folder with a word that a good account of it contains: what `digest_inputs` takes.

    Raises:
        BadInput: A file of a project is there with other content.
    """
    import yaml

    examples: list[dict[str, Any]] = yaml.safe_load((files("noa_lab.agents") / "examples.yaml").read_text("utf-8"))
    labelled = {}
    for example in examples:
        top = Path(folder) / example["name"]
        for name, text in example["files"].items():
            _write(top / name, text)
        labelled[top] = str(example["expected"])
    return labelled


def _write(path: Path, text: str) -> None:
    if path.exists():
        if path.read_text("utf-8") != text:
            raise BadInput(
                f"{path} exists and is not the example's file.",
                fix="Give an empty folder.",
                field="folder",
                value=str(path),
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8", newline="\n")
