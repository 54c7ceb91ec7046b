"""Asking web servers for parts of a file: encrypted, with redirects followed by hand, and cut at any moment.

urllib3 and threads, because the bytes of a model are many: measured here, httpx takes 5 times the CPU time for each of them.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from noa_lab.download._faults import Advice, encrypted, failed, header_number, shown

if TYPE_CHECKING:
    import urllib3

__all__ = ["Connections", "Origin", "named_errors"]

_CONNECT_SECONDS = 10.0
_MOST_REDIRECTS = 8
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SMALL_BODY = 2**16

Origin = tuple[str, str, int | None]
"""Scheme, host and port."""


class Connections:
    """The connections of one download. Thread-safe; `cut` ends whatever the other threads wait for.

    Args:
        url: The address that is asked first.
        headers: Sent with every request.
        authorization: Sent to the host of `url`, and to no other.
        most: Connections at a time.
        stall_seconds: Silence after which a server counts as stalled.
        allow_http_loopback: Also speak http, with this very machine.
        advice: What to do, by kind of fault.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        authorization: str | None = None,
        most: int = 1,
        stall_seconds: float = 30.0,
        allow_http_loopback: bool = False,
        advice: Advice | None = None,
    ) -> None:
        self._url = url
        self._location = url
        # gzip would make the bytes, and their number, those of something else.
        self._headers = {"User-Agent": "noa-lab", **(headers or {}), "Accept-Encoding": "identity"}
        self._authorization = authorization
        self._most = most
        self._stall_seconds = stall_seconds
        self._allow_http_loopback = allow_http_loopback
        self._advice = advice
        self._managers: dict[str | None, urllib3.PoolManager] = {}
        self._sockets: set[socket.socket] = set()
        self._is_cut = False
        self._lock = threading.Lock()
        """Guards the managers, the sockets and whether they were cut."""

    @property
    def host(self) -> str:
        """The host that is asked next."""
        return urlsplit(self._location).hostname or ""

    def ask(self, headers: Mapping[str, str]) -> tuple[str, urllib3.BaseHTTPResponse]:
        """Ask for the file, where the last redirect led to if that still answers, else at its address.

        Args:
            headers: Range, If-Range.

        Returns:
            The address that answered, and its answer, unread; whatever its status.

        Raises:
            DownloadFailed: With kind "unreachable", "stalled", "cut", "redirects", "bad address" or "not encrypted".
        """
        url, answer = self._follow(self._location, headers)
        if url != self._url and answer.status in (401, 403, 404, 410):
            # A signed address has run out; a new one is asked for, once.
            answer.close()
            url, answer = self._follow(self._url, headers)
        self._location = url if answer.status in (200, 206) else self._url
        return url, answer

    def _follow(self, url: str, headers: Mapping[str, str]) -> tuple[str, urllib3.BaseHTTPResponse]:
        secret = self._authorization is not None and _origin(url) == _origin(self._url)
        for _ in range(_MOST_REDIRECTS):
            self._check(url)
            sent = {**self._headers, **headers} | ({"Authorization": str(self._authorization)} if secret else {})
            with named_errors(url, self._advice):
                answer = self._send(url, sent)
            target = answer.headers.get("location")
            if answer.status not in _REDIRECTS or not target:
                return url, answer
            _drop(answer)
            before = _origin(url)
            with named_errors(url, self._advice):
                url = urljoin(url, target)
                secret = secret and _origin(url) == before
        raise failed("redirects", url, "its redirects lead in a circle", advice=self._advice)

    def _check(self, url: str) -> None:
        if not encrypted(url, allow_http_loopback=self._allow_http_loopback):
            parts = urlsplit(url)
            reason = f"the address leads to {parts.scheme}://{parts.hostname}, which is not encrypted"
            raise failed("not encrypted", url, reason, advice=self._advice)

    def _send(self, url: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        import urllib3

        return self._manager(url).urlopen(
            "GET",
            url,
            headers=headers,
            redirect=False,
            retries=False,
            preload_content=False,
            decode_content=False,
            timeout=urllib3.Timeout(connect=_CONNECT_SECONDS, read=self._stall_seconds),
        )

    def _manager(self, url: str) -> urllib3.PoolManager:
        proxy = None if self._allow_http_loopback else _proxy(url)
        with self._lock:
            if proxy not in self._managers:
                self._managers[proxy] = self._new_manager(proxy)
            return self._managers[proxy]

    def _new_manager(self, proxy: str | None) -> urllib3.PoolManager:
        import urllib3

        options: dict[str, Any] = {"num_pools": 4, "maxsize": self._most, "ssl_context": _trust()}
        if proxy is None:
            manager = urllib3.PoolManager(**options)
        else:
            user, password = urlsplit(proxy).username, urlsplit(proxy).password
            basic = urllib3.make_headers(proxy_basic_auth=f"{user}:{password or ''}") if user else None
            manager = urllib3.ProxyManager(proxy, proxy_headers=basic, **options)
        manager.pool_classes_by_scheme = _pool_classes(self._opened)
        return manager

    def _opened(self, opened: socket.socket) -> None:
        with self._lock:
            self._sockets = {known for known in self._sockets if known.fileno() >= 0} | {opened}
            late = self._is_cut
        if late:
            _shut(opened)

    def cut(self) -> None:
        """End every connection, also those that other threads are reading from: they see it as cut. For good."""
        with self._lock:
            self._is_cut = True
            sockets = list(self._sockets)
        for each in sockets:
            _shut(each)

    def close(self) -> None:
        """Cut, and let go of everything."""
        self.cut()
        with self._lock:
            managers = list(self._managers.values())
        for manager in managers:
            manager.clear()


def _pool_classes(opened: Any) -> dict[str, Any]:
    """urllib3's pools, with connections that tell of their sockets."""
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

    class Plain(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            opened(self.sock)

    class Encrypted(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            opened(self.sock)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class EncryptedPool(HTTPSConnectionPool):
        ConnectionCls = Encrypted

    return {"http": PlainPool, "https": EncryptedPool}


def _shut(each: socket.socket) -> None:
    try:
        # Not the method of an SSL socket, which would take the session from under its reader.
        socket.socket.shutdown(each, socket.SHUT_RDWR)
    except OSError:
        pass


def _drop(answer: urllib3.BaseHTTPResponse) -> None:
    """Be done with an answer that nobody wants to read; the connection is kept where that costs little."""
    length = header_number(answer.headers, "content-length")
    if length is not None and length <= _SMALL_BODY:
        answer.drain_conn()
    else:
        answer.close()


def _origin(url: str) -> Origin:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _proxy(url: str) -> str | None:
    """The proxy of the environment or the system for an address."""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


def _trust() -> ssl.SSLContext:
    """Whom to trust: SSL_CERT_FILE or SSL_CERT_DIR, else what the operating system trusts."""
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if file or folder:
        return ssl.create_default_context(cafile=file or None, capath=None if file else folder)
    import truststore

    return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@contextmanager
def named_errors(url: str, advice: Advice | None = None) -> Iterator[None]:
    """Turn what urllib3 raises into `DownloadFailed`, with one of the kinds "unreachable", "stalled", "cut", "bad address"."""
    from urllib3 import exceptions

    try:
        yield
    except (exceptions.LocationValueError, UnicodeError, ValueError) as error:
        raise failed("bad address", url, f"it leads to an address that is none ({error})", advice=advice) from None
    except exceptions.ReadTimeoutError:
        raise failed("stalled", url, f"{_host(url)} went silent", advice=advice) from None
    except (exceptions.ConnectTimeoutError, exceptions.NewConnectionError, exceptions.ProxyError) as error:
        raise failed("unreachable", url, f"{_host(url)} cannot be reached ({_words(error)})", advice=advice) from None
    except exceptions.SSLError as error:
        raise failed("unreachable", url, f"{_host(url)} cannot be trusted ({_words(error)})", advice=advice) from None
    except (exceptions.HTTPError, OSError) as error:
        raise failed("cut", url, f"the connection broke off ({_words(error)})", advice=advice) from None


def _host(url: str) -> str:
    return urlsplit(url).hostname or shown(url)


def _words(error: Exception) -> str:
    """What an exception says, without the objects that urllib3 puts in front."""
    inner = error.args[-1] if error.args and isinstance(error.args[-1], Exception) else error
    text = str(inner).rsplit(">: ", 1)[-1].removeprefix("Failed to establish a new connection: ")
    return text or type(error).__name__
