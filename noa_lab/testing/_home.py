"""A home for one trial, with the llama.cpp and the models that are installed."""

from __future__ import annotations

import shutil
from pathlib import Path

from noa_lab.paths import Home

__all__ = ["borrowed_home"]


def borrowed_home(root: Path, lender: Home) -> Home:
    """A home of its own that uses the runtimes and the model files of another one.

    The folder of runtimes is linked as a whole, models file by file: a model that is added stays in the new home, and one that is
    removed there stays where it was.

    Args:
        root: A folder that does not exist yet.
        lender: Whose runtimes and models are used.
    """
    root.mkdir()
    (root / "runtimes").symlink_to(lender.runtimes)
    home = Home(root)
    for file in lender.models.iterdir():
        if file.suffix == ".json":
            shutil.copy(file, home.models)
        elif file.is_file():
            (home.models / file.name).symlink_to(file.resolve())
    return home
