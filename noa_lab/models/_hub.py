"""Models from the Hugging Face hub, through huggingface_hub: its cache, its tokens, its offline switch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from noa_lab.download import check_disk
from noa_lab.errors import DownloadFailed, NoaLabError, UnknownModel
from noa_lab.events import CancelToken, Progress, Report
from noa_lab.models._record import hash_file
from noa_lab.models._reference import HubFile, HubQuant
from noa_lab.models._transports import STEP, Arrived

__all__ = ["file_of_quant", "from_hub"]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PART_OF_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_SPARE_BYTES = 100_000_000


def from_hub(file: HubFile, *, report: Report, cancel: CancelToken | None) -> Arrived:
    """Get a file into the hub's cache; one that is there already is not fetched again.

    Raises:
        UnknownModel: When the repository or the file does not exist.
        DownloadFailed: When it does not arrive, or a licence must be accepted first.
        DiskFull: When it does not fit.
        Cancelled: When `cancel` was.
    """
    from huggingface_hub import constants, hf_hub_download

    with _explained(file.repo, file.file):
        if not constants.is_offline_mode():
            plan = hf_hub_download(file.repo, file.file, dry_run=True)
            if plan.will_download:
                cache = Path(constants.HF_HUB_CACHE)
                cache.mkdir(parents=True, exist_ok=True)
                check_disk(cache, (plan.file_size or 0) + _SPARE_BYTES)
        path = Path(hf_hub_download(file.repo, file.file, tqdm_class=_reporting_bar(report, cancel)))
    # The cache names a large file's bytes by their sha256, as the hub gave it.
    name = path.resolve().name
    digest = hash_file(path, step="Check the model", report=report, cancel=cancel)
    return Arrived(path.resolve(), digest, name if _SHA256.fullmatch(name) else None, shared=True)


def file_of_quant(ref: HubQuant) -> HubFile:
    """The file of one quantisation in a repository.

    Raises:
        UnknownModel: When the repository has none, with those that it has.
        DownloadFailed: When the hub cannot be asked.
    """
    from huggingface_hub import HfApi

    with _explained(ref.repo, f"a .gguf file of {ref.quant}"):
        listed = HfApi().list_repo_files(ref.repo)
    whole = [name for name in listed if name.endswith(".gguf") and not _PART_OF_SPLIT.search(name)]
    ends = re.compile(rf"(?:^|[-._/]){re.escape(ref.quant)}\.gguf$", re.IGNORECASE)
    found = sorted((name for name in whole if ends.search(name)), key=len)
    if not found:
        raise UnknownModel.among("file", ref.quant, whole, where=f"the repository {ref.repo}")
    return HubFile(ref.repo, found[0])


@contextmanager
def _explained(repo: str, wanted: str) -> Iterator[None]:
    import httpx2  # huggingface_hub's own client; its errors come through
    from huggingface_hub import errors

    source = f"hf://{repo}"
    try:
        yield
    except NoaLabError:
        raise
    except errors.GatedRepoError:
        raise DownloadFailed(
            f"The repository {repo} asks you to accept its licence first.",
            fix=f"Accept it at https://huggingface.co/{repo}, then set HF_TOKEN or run `hf auth login`.",
            source=source,
            reason="gated",
        ) from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise UnknownModel(
            f"The hub has no repository {repo!r} that you may see.",
            fix="Check the name; a private one needs HF_TOKEN.",
            kind="repository",
            name=repo,
            nearest=None,
            known=[],
        ) from None
    except errors.RemoteEntryNotFoundError:
        raise UnknownModel(
            f"The repository {repo!r} has no {wanted!r}.",
            fix=f"See https://huggingface.co/{repo}/tree/main.",
            kind="file",
            name=wanted,
            nearest=None,
            known=[],
        ) from None
    except (
        errors.OfflineModeIsEnabled,
        errors.LocalEntryNotFoundError,
        OSError,
        httpx2.HTTPError,
        errors.XetDownloadError,
    ) as error:
        reason = str(error).strip().split("\n")[0]
        raise DownloadFailed(
            f"{repo} did not arrive from the hub: {reason}",
            fix="Check the network connection, HF_ENDPOINT and HF_HUB_OFFLINE, then start it again.",
            source=source,
            reason=reason,
        ) from None


def _reporting_bar(report: Report, cancel: CancelToken | None) -> Any:
    """A progress bar class, as huggingface_hub wants one, that reports instead of drawing."""
    from tqdm.auto import tqdm  # type: ignore[import-untyped,unused-ignore]

    class _Bar(tqdm):  # type: ignore[type-arg,misc,unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._arrived = float(kwargs.get("initial") or 0)
            kwargs["disable"] = True
            super().__init__(*args, **{name: value for name, value in kwargs.items() if name != "name"})
            self._size = kwargs.get("total")

        def update(self, n: float | None = 1) -> None:
            if cancel is not None:
                cancel.check("The download")
            self._arrived += n or 0
            report(Progress(STEP, done=self._arrived, total=self._size, unit="bytes"))

    return _Bar
