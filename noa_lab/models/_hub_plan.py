"""What a reference to the hub means: which files of which commit, with their sizes and hashes, before a byte of them is fetched."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from noa_lab.download import Advice, Patience, encrypted, failed, refusal
from noa_lab.errors import DownloadFailed, NoaLabError, UnknownModel
from noa_lab.events import CancelToken, Progress, Report, silent
from noa_lab.models._arrived import STEP
from noa_lab.models._reference import HubFile, HubQuant
from noa_lab.models._split import is_later_part, part_names

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

__all__ = ["HubEntry", "HubPlan", "choose", "hub_advice", "hub_plan"]

_SECONDS = 10.0
"""How long the hub may take to answer; a hub that is out of reach must not hold up the sources after it."""
_ATTEMPTS = 3
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class HubEntry:
    """One file of a repository.

    Attributes:
        path: Its path in the repository.
        size_bytes: Its size; None where the hub does not say.
        etag: The hub's name for its bytes: their sha256, or of a small file git's hash.
    """

    path: str
    size_bytes: int | None
    etag: str

    @property
    def sha256(self) -> str | None:
        """Its sha256, as the hub says; None for a small file."""
        return self.etag if _SHA256.fullmatch(self.etag) else None


@dataclass(frozen=True, slots=True)
class HubPlan:
    """What to fetch.

    Attributes:
        repo: Owner and name.
        revision: The branch, tag or commit that was asked for.
        commit: Where it was.
        files: The model's files in order: one, or the parts of a split model.
    """

    repo: str
    revision: str
    commit: str
    files: tuple[HubEntry, ...]


def hub_plan(ref: HubFile | HubQuant, *, report: Report = silent, cancel: CancelToken | None = None) -> HubPlan:
    """Ask the hub what a reference means; one request.

    Args:
        ref: The reference.
        report: Told when the hub is waited for.
        cancel: Ends the wait.

    Raises:
        UnknownModel: When there is no such repository, revision or file; the nearest name is offered.
        DownloadFailed: When the hub cannot be asked, or a licence must be accepted first.
        Cancelled: When `cancel` was.
    """
    from huggingface_hub import HfApi, constants

    page = _page(ref.repo)
    if not encrypted(page, allow_http_loopback=True):
        reason = "HF_ENDPOINT is not encrypted: anyone on the way could read your token and change the model"
        raise failed("not encrypted", page, reason, advice=hub_advice(ref.repo))
    patience, token = Patience(_ATTEMPTS, 0.5), cancel or CancelToken()
    while True:
        token.check("The download")
        try:
            with _explained(ref):
                info = HfApi(endpoint=constants.ENDPOINT, library_name="noa_lab").model_info(
                    ref.repo, revision=ref.revision or None, files_metadata=True, timeout=_SECONDS
                )
            break
        except DownloadFailed as error:
            seconds = patience.wait_after(error, 0)
            if seconds is None:
                raise
            report(Progress(STEP, f"{error.fields['reason']}; next attempt in {seconds:.0f} s"))
            token.wait(seconds)
    found = {entry.path: entry for entry in map(_entry, info.siblings or ()) if entry is not None}
    if info.sha is None:
        reason = "the hub names no commit"
        raise failed("unreadable", page, reason, "Check HF_ENDPOINT.")
    names = choose(ref, found)
    return HubPlan(ref.repo, ref.revision or "main", info.sha, tuple(found[name] for name in names))


def _entry(sibling: RepoSibling) -> HubEntry | None:
    etag = sibling.lfs.sha256 if sibling.lfs is not None else sibling.blob_id
    if not sibling.rfilename.endswith(".gguf") or etag is None:
        return None
    return HubEntry(sibling.rfilename, sibling.size, etag)


def choose(ref: HubFile | HubQuant, names: Iterable[str]) -> tuple[str, ...]:
    """The files that a reference means, out of those that there are: one, or all parts of a split model.

    Raises:
        UnknownModel: When it means none, or a part is missing; the nearest name is offered.
    """
    there = sorted(name for name in names if name.endswith(".gguf"))
    where = f"the repository {ref.repo}"
    if isinstance(ref, HubFile):
        if ref.file not in there:
            raise UnknownModel.among("file", ref.file, there, where=where)
        first = ref.file
    else:
        ends = re.compile(rf"(?:^|[-._/]){re.escape(ref.quant)}(?:-00001-of-\d{{5}})?\.gguf$", re.IGNORECASE)
        fitting = [name for name in there if ends.search(name) and not _is_extra(name)]
        if not fitting:
            whole = [name for name in there if not is_later_part(name) and not _is_extra(name)]
            raise UnknownModel.among("file", ref.quant, whole, where=where)
        first = min(fitting, key=lambda name: (len(name), name))
    parts = part_names(first) or (first,)
    missing = [part for part in parts if part not in there]
    if missing:
        raise UnknownModel.among("file", missing[0], there, where=where)
    return parts


def _is_extra(name: str) -> bool:
    """Whether a file is not a language model but something beside one: a vision projector, a table of importances."""
    stem = PurePosixPath(name).name.lower()
    return stem.startswith(("mmproj", "imatrix", "mtp-", "draft-"))


def _page(repo: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repo}"


def hub_advice(repo: str) -> Advice:
    """What to do when a file of a repository does not come."""
    page = _page(repo)
    return {
        "unreachable": "Check the network connection, HF_ENDPOINT and HF_HUB_OFFLINE, then start it again.",
        "gated": f"Accept its licence at {page}, then set HF_TOKEN or run `hf auth login`.",
        "refused": f"See {page} for who may have it; set HF_TOKEN or run `hf auth login`.",
        "not found": f"See {page}/tree/main for what is there.",
        "rate limit": "Try again {when}; with HF_TOKEN set, the hub allows more.",
        "not encrypted": "Set HF_ENDPOINT to an https address.",
        "disk full": "set HF_HOME to a folder on another disk",
    }


@contextmanager
def _explained(ref: HubFile | HubQuant) -> Iterator[None]:
    """Turn what huggingface_hub raises into errors that say what to do."""
    import httpx2  # huggingface_hub's own client; its errors come through
    from huggingface_hub import errors

    page, advice = _page(ref.repo), hub_advice(ref.repo)
    try:
        yield
    except NoaLabError:
        raise
    except errors.GatedRepoError:
        raise failed("gated", page, "its licence must be accepted first", advice=advice) from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise _unknown("repository", ref.repo, "Check the name; a private one needs HF_TOKEN.") from None
    except errors.RevisionNotFoundError:
        raise _unknown("revision", f"{ref.repo}@{ref.revision}", f"See {page}/commits.") from None
    except errors.HfHubHTTPError as error:
        response = error.response
        raise refusal(page, response.status_code, response.headers, advice=advice) from None
    except errors.OfflineModeIsEnabled:
        raise failed("unreachable", page, "HF_HUB_OFFLINE is set", "Unset HF_HUB_OFFLINE.") from None
    except (httpx2.HTTPError, OSError, ValueError) as error:
        host = urlsplit(page).hostname
        reason = f"{host} cannot be reached ({str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__})"
        raise failed("unreachable", page, reason, advice=advice) from None


def _unknown(kind: str, name: str, fix: str) -> UnknownModel:
    return UnknownModel(
        f"The hub has no {kind} {name!r} that you may see.", fix=fix, kind=kind, name=name, nearest=None, known=[]
    )
