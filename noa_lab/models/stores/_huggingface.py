"""The cache of huggingface_hub, which many tools share."""

from __future__ import annotations

import re
from pathlib import Path

from noa_lab.models.stores._stored import StoredModel, complete_models

__all__ = ["models_of_hugging_face"]

_SHA256 = re.compile(r"[0-9a-f]{64}")


def models_of_hugging_face(cache: Path | None = None) -> list[StoredModel]:
    """The GGUF models in the cache, of the newest revision that has each.

    Args:
        cache: The cache's folder; default: as HF_HUB_CACHE and HF_HOME say.
    """
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        scanned = scan_cache_dir(cache)
    except (CacheNotFound, ValueError, OSError):
        return []
    found: dict[str, StoredModel] = {}
    for repo in scanned.repos:
        if repo.repo_type != "model":
            continue
        for revision in sorted(repo.revisions, key=lambda each: each.last_modified):
            files = {
                _place(repo.repo_id, each.file_path, revision.snapshot_path): each.blob_path for each in revision.files
            }
            for name, paths in complete_models(
                (name, path) for name, path in files.items() if name.lower().endswith(".gguf")
            ):
                digest = paths[0].name if len(paths) == 1 and _SHA256.fullmatch(paths[0].name) else ""
                size = sum(path.stat().st_size for path in paths)
                found[name] = StoredModel("Hugging Face", name, paths, size, digest)
    return sorted(found.values(), key=lambda model: model.name)


def _place(repo: str, file: Path, snapshot: Path) -> str:
    return f"{repo}/{file.relative_to(snapshot).as_posix()}"
