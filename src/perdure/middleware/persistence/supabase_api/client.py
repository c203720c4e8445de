"""The official client over a connection of our own, made when first used and never shared with a forked child."""

import logging
import os
import threading
import weakref
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

from perdure.errors import SettingsError
from perdure.middleware.persistence.supabase_api.deadline import DeadlineTransport, is_ours

if TYPE_CHECKING:
    from supabase import Client

__all__ = ["SupabaseApi"]

_all: "weakref.WeakSet[SupabaseApi]" = weakref.WeakSet()
_of_our_parent: list[object] = []
"""A forked child must neither use nor close them: the sockets are its parent's."""


class SupabaseApi:
    """One project and one key. Safe to use from many threads at once."""

    def __init__(self, url: str, key: str, *, most_connections: int = 32) -> None:
        """
        Raises:
            SettingsError: `url` is not the address of a project.
        """
        self.url = _project_url(url)
        self.where = urlsplit(self.url).netloc
        """Names the project to people."""
        self._key = key
        self._most_connections = most_connections
        self._lock = threading.Lock()
        self._http: httpx.Client | None = None
        self._client: Client | None = None
        _all.add(self)

    @property
    def client(self) -> "Client":
        """The official client. Its requests need a deadline: `deadline.within`."""
        with self._lock:
            if self._client is None:
                # Half a second of imports: for those who use it, when they use it.
                from supabase import ClientOptions, create_client  # noqa: PLC0415

                options = ClientOptions(
                    httpx_client=self._own_http(),
                    postgrest_client_retry=False,  # only reads, and for seconds beyond any deadline
                    auto_refresh_token=False,
                    persist_session=False,
                )
                self._client = create_client(self.url, self._key, options=options)
            return self._client

    @property
    def http(self) -> httpx.Client:
        """For what the official client does not do: resumable uploads, downloads in pieces."""
        with self._lock:
            return self._own_http()

    @property
    def headers(self) -> dict[str, str]:
        """Of a request by `http`. They hold the key: for this project's own address alone."""
        return {"apikey": self._key, "Authorization": f"Bearer {self._key}"}

    def close(self) -> None:
        with self._lock:
            http, self._http, self._client = self._http, None, None
        if http is not None:
            http.close()

    def __repr__(self) -> str:
        return f"<SupabaseApi {self.where}>"

    def _own_http(self) -> httpx.Client:
        if self._http is None:
            transport = DeadlineTransport(self.url, most_connections=self._most_connections)
            _keep_requests_out_of_the_log()
            # A redirect would take the key to wherever it leads.
            self._http = httpx.Client(transport=transport, follow_redirects=False, timeout=None)  # noqa: S113 - the transport has one
        return self._http

    def _leave_to_parent(self) -> None:
        _of_our_parent.extend((self._http, self._client))
        self._lock = threading.Lock()
        self._http = self._client = None


def _keep_requests_out_of_the_log() -> None:
    """httpx logs each request with its whole address at INFO. Those of the application's own are left alone."""
    log = logging.getLogger("httpx")
    if _not_ours not in log.filters:
        log.addFilter(_not_ours)


def _not_ours(_record: logging.LogRecord) -> bool:
    return not is_ours()


def _project_url(url: str) -> str:
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise SettingsError(
            "SUPABASE_URL is not the address of a project.",
            remedy="copy it from the project's settings, under API: https://….supabase.co, with no key in it.",
        )
    # People paste the address of one of the services.
    path = parts.path.rstrip("/")
    for service in ("/rest/v1", "/storage/v1", "/auth/v1"):
        path = path.removesuffix(service)
    return f"{parts.scheme}://{parts.netloc}{path}"


def _after_fork_in_child() -> None:
    for api in list(_all):
        api._leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
