"""The Lab: one home folder, and the verbs over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from noa_lab import runtime
from noa_lab.events import CancelToken, Report, silent
from noa_lab.paths import Home
from noa_lab.runtime import InstallOptions, InstallPlan, Runtime, RuntimeList
from noa_lab.workbench import _check
from noa_lab.workbench._comparisons import Comparisons
from noa_lab.workbench._served_models import get_model, resolve_model

if TYPE_CHECKING:
    from noa_lab.models import ModelFile, Models
    from noa_lab.server import CheckList, Router, Server, ServerList, Tuned
    from noa_lab.server.config import ServerConfig

__all__ = ["Lab", "default_lab"]


class Lab(Comparisons):
    """A workbench over one home folder. Making one costs nothing; the verbs do the work.

    Args:
        home: Where everything is kept; default: NOA_LAB_HOME, else the platform's user data folder.
    """

    def __init__(self, home: Home | None = None) -> None:
        super().__init__()
        self._home = home

    def __repr__(self) -> str:
        return f"<Lab at {self.home.root}>"

    @property
    def home(self) -> Home:
        """Where this Lab keeps everything; NOA_LAB_HOME is read each time, so that it can be changed."""
        return self._home or Home.default()

    @property
    def models(self) -> Models:
        """The models: list, get, find, show, verify."""
        from noa_lab.models import Models

        return Models(self.home)

    def check(self) -> _check.Report:
        """What this machine has and what is missing; changes nothing, needs no network."""
        return _check.check(self.home, self.models.default)

    @runtime.spelled_out
    def install(
        self,
        *,
        report: Report = silent,
        cancel: CancelToken | None = None,
        **options: Unpack[InstallOptions],
    ) -> Runtime:
        """Make sure that a verified llama.cpp and the default model are here.

        Without arguments the first call takes what suits this machine: conda's llama.cpp, a release for its GPU, or a build from source
        (about 6 minutes on 2 cores); later calls return at once. Whatever fails its trial leaves the old one in place, and the `notes`
        of the result say what was passed over. `plan_install` says beforehand what would be done, `rollback` goes back.

        Args:
            source: "auto", "release", "source", "system", or the path of an archive or folder of llama.cpp's programs.
            tag: Release: "b11312", "latest-stable", "latest-nightly".
            backend: "cpu", "cuda", "vulkan", "rocm", "metal", ...
            native: Compile for this very CPU.
            mirror: Address of a copy of the releases.
            source_path: An archive, a checkout or a folder of llama.cpp's source.
            report: Told about the progress.
            cancel: Stops it within a second.
            options: The first six of these, which `plan_install` takes too.

        Raises:
            BadInput: When the arguments contradict each other.
            SetupError: When the machine lacks something: ToolMissing, DiskFull, BuildFailed, RuntimeRejected.
            DownloadFailed: When what was asked for, or PyPI, cannot be reached.
            Cancelled: When `cancel` was.
        """
        model = self.models.get(report=report, cancel=cancel)
        return runtime.install(self.home, model=model.path, report=report, cancel=cancel, **options)

    @runtime.spelled_out
    def plan_install(self, **options: Unpack[InstallOptions]) -> InstallPlan:
        """What `install` would do with these arguments: its steps, what comes next if one fails, what stands in the way.

        Changes nothing and needs no network; what only the network can tell is left open.

        Args:
            options: As for `install`.

        Raises:
            BadInput: When the arguments contradict each other.
        """
        plan = runtime.plan_install(self.home, **options)
        name = self.models.default
        if self.models.find(name) is not None:
            return plan
        first = f"Get the model {name}, which llama.cpp is tried with"
        return replace(plan, steps=(first,) if plan.ready else (first, *plan.steps), ready=False)

    def rollback(self) -> Runtime:
        """Use the llama.cpp that was used before the current one again; a second rollback undoes the first.

        Takes milliseconds and needs no network. Servers that are up keep the llama.cpp that they were started with.

        Raises:
            RuntimeMissing: When there was none before.
        """
        return runtime.rollback(self.home)

    def runtimes(self) -> RuntimeList:
        """The llama.cpp builds of this home, the current one first; `marks` says what each is used for. A table in a notebook."""
        return runtime.runtimes(self.home)

    def server_config(self, path: str | Path | None = None) -> ServerConfig:
        """What server.yaml and the environment say.

        Args:
            path: The file; None for the nearest `configs/server.yaml` upward from the working folder (or what NOA_LAB_CONFIG names).

        Raises:
            ConfigInvalid: With file and line, or the environment variable.
        """
        from noa_lab.server.config import load_server_config

        return load_server_config(path)

    def serve(
        self,
        ref: str | None = None,
        *,
        keep: bool = False,
        allow_oversize: bool = False,
        report: Report = silent,
        cancel: CancelToken | None = None,
        **settings: Any,
    ) -> Server:
        """A llama-server with this model: joins one that is up with equal settings, else starts one.

        It ends when the last process that holds it has ended, unless `keep` is set. What the nearest server.yaml says about this model,
        and about all models, holds where the call says nothing.

        Args:
            ref: A name of server.yaml or of the catalogue, a reference or a path; None for the catalogue's default model.
            keep: Whether it stays after its last holder.
            allow_oversize: Start it even if it does not fit into memory.
            report: Told about the progress.
            cancel: Gives up the start when cancelled.
            settings: Fields of `ServerSettings`: context_size, slots, threads, ...

        Raises:
            UnknownModel: When the reference names nothing.
            RuntimeMissing: When llama.cpp is not installed.
            ServerExited: When llama-server ended while starting.
            ServerNotReady: When it took too long.
            NotEnoughMemory: When it cannot fit into the memory that is free.
            BadInput: When a setting is wrong; ConfigInvalid for one of server.yaml.
        """
        from noa_lab import server
        from noa_lab.workbench._memory import ServerMemory

        config = self.server_config()
        name = ref or self.models.default
        chosen = config.settings(name, **settings)
        current = runtime.current(self.home)
        model = get_model(config, name, self.models, report=report, cancel=cancel)
        memory = ServerMemory(self.home, current, model, report=report, cancel=cancel)
        up = server.serve(
            current,
            model,
            chosen,
            home=self.home,
            keep=keep,
            admit=None if allow_oversize else memory.admit,
            logging=config.log_settings,
            report=report,
            cancel=cancel,
        )
        if not up.joined:
            memory.remember(up)
        up.sampling = config.inference
        return up

    def route(
        self,
        models: Sequence[str] | str = (),
        *,
        config: str | Path | None = None,
        keep: bool = False,
        report: Report = silent,
        cancel: CancelToken | None = None,
        **settings: Any,
    ) -> Router:
        """One OpenAI-compatible address for several models: joins a router that is up with the same configuration, else starts one.

        Each model's llama-server starts on the first request for it; idle ones end when memory is needed. The router, and the servers
        with it, ends when the last process that holds it has ended, unless `keep` is set.

        Args:
            models: Which to serve: names of server.yaml or of the catalogue, references or paths; none: all of server.yaml. Those that
                are not here yet are fetched first.
            config: The server.yaml; None for the nearest one.
            keep: Whether it stays after its last holder.
            report: Told about the progress.
            cancel: Gives up the start when cancelled.
            settings: Fields of `ServerSettings` that stand above server.yaml: `port` (0: one that the system chooses), `host` and
                `allow_remote` of the one address, everything else for each model.

        Raises:
            BadInput: When a setting is wrong.
            ConfigInvalid: When server.yaml is wrong.
            UnknownModel: When a name means nothing.
            RuntimeMissing: When llama.cpp is not installed.
            PortTaken: When another program listens on the port; says which.
        """
        from noa_lab.workbench._route import route

        names = (models,) if isinstance(models, str) else models
        chosen = self.server_config(config)
        return route(
            chosen,
            names,
            home=self.home,
            models=self.models,
            keep=keep,
            settings=settings,
            report=report,
            cancel=cancel,
        )

    def tune(
        self,
        ref: str | None = None,
        *,
        rounds: int = 3,
        report: Report = silent,
        cancel: CancelToken | None = None,
    ) -> Tuned:
        """Measure which threads, batch and number of slots are fastest for a model on this machine; servers start with them afterwards.

        Takes about a minute for a small model, several for a large one. What a call or server.yaml says stands above the result.

        Args:
            ref: A name of server.yaml or of the catalogue, a reference or a path; None for the catalogue's default model.
            rounds: How often everything is measured; each candidate counts with its best round.
            report: Told about the progress.
            cancel: Gives up.

        Raises:
            UnknownModel: When the reference names nothing.
            RuntimeMissing: When llama.cpp is not installed.
            ServerError: When llama-bench or llama-server fails on the model.
        """
        from noa_lab import server
        from noa_lab.workbench._memory import ServerMemory

        config = self.server_config()
        name = ref or self.models.default
        current = runtime.current(self.home)
        model = get_model(config, name, self.models, report=report, cancel=cancel)
        settings = config.settings(name)
        memory = ServerMemory(self.home, current, model, report=report, cancel=cancel)
        return server.tune(
            current,
            model,
            home=self.home,
            gpu_layers=settings.gpu_layers,
            most_slots=memory.most_slots(settings),
            rounds=rounds,
            report=report,
            cancel=cancel,
        )

    def tuned(self, ref: str | None = None) -> Tuned | None:
        """What `tune` has found for a model that is here, with this build on this machine; None where nothing was measured.

        Raises:
            UnknownModel: When the reference names nothing.
        """
        from noa_lab import server

        model = self._model_here(ref)
        return None if model is None else server.find_tuned(self.home, runtime.current(self.home), model)

    def forget_tuned(self, ref: str | None = None) -> bool:
        """Forget what `tune` has found for a model; whether there was something.

        Raises:
            UnknownModel: When the reference names nothing.
        """
        from noa_lab import server

        model = self._model_here(ref)
        return model is not None and server.forget_tuned(self.home, runtime.current(self.home), model)

    def _model_here(self, ref: str | None) -> ModelFile | None:
        """The model that `serve` would take, if it is on this machine."""
        name = ref or self.models.default
        return self.models.find(resolve_model(self.server_config(), name, self.models))

    def servers(self) -> ServerList:
        """The servers of this home that are up, starting or crashed. A table in a notebook; `pandas.DataFrame` takes it."""
        from noa_lab import server

        return server.servers(self.home)

    def foreign_servers(self) -> ServerList:
        """llama-servers on this machine that noa_lab did not start from this home, as a table; they are left alone."""
        from noa_lab import server

        return server.foreign_servers(self.home)

    def keep(self, name: str, *, stay: bool = True) -> None:
        """Let a server stay when its last holder has gone; with `stay=False` let it end then.

        Raises:
            ServerMissing: When no such server is up.
        """
        from noa_lab import server

        server.keep(self.home, name, stay=stay)

    def test_server(self, target: str | None = None, *, api_key: str | None = None, timeout: float = 60.0) -> CheckList:
        """Ask a server for its health and for one completion, and say how long each took. A table in a notebook.

        Args:
            target: The address of any server, or the name of one of ours; None for the one of ours that is up.
            api_key: The key for an address; default: NOA_LAB_API_KEY. Ours are known.
            timeout: Seconds that it may take to answer.

        Raises:
            BadInput: When `target` is neither an address nor a name.
            ServerMissing: When no such server is up.
        """
        from noa_lab import server

        url, key = server.address_of(self.home, target, api_key)
        return server.test_server(url, key, timeout=timeout)

    def stop(self, name: str) -> None:
        """Stop a server, whoever holds it.

        Raises:
            ServerMissing: When no such server is up.
        """
        from noa_lab import server

        server.stop(self.home, name)


@lru_cache(maxsize=1)
def default_lab() -> Lab:
    """The Lab whose verbs stand at the top of `noa_lab`; panels use it where none is given."""
    return Lab()
