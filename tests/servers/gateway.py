"""A stand-in for Supabase's gateway with PostgREST and storage-api behind it, thin over a real Postgres.

Only what those servers do besides SQL is here; who may see what, and what fails, is decided by Postgres. It runs in a
thread, or as a process of its own (`python -m servers.gateway CONFIG.json`), which a test may kill.
"""

import json
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from servers import gateway_errors as errors
from servers.gateway_database import Pool
from servers.gateway_faults import Fault, Faults, carry_out
from servers.gateway_functions import SchemaCache
from servers.gateway_http import ClientGone, ConnectionCut, HttpServer, Reply, Request
from servers.gateway_keys import Keys
from servers.gateway_objects import Objects
from servers.gateway_rest import Rest
from servers.gateway_storage import Storage
from servers.gateway_tus import Tus, TusRules

CONTROL = "/_gateway/"


@dataclass(frozen=True)
class GatewayOptions:
    """Limits and habits in which projects and versions differ; the defaults are those of a hosted project."""

    postgrest: int = 14
    """12 says PGRST301 where 14 says PGRST303."""
    statement_timeouts: dict[str, str] = field(
        default_factory=lambda: {"anon": "3s", "authenticated": "8s", "service_role": "8s"}
    )
    rest_pool: int = 10
    storage_pool: int = 10
    pool_patience: float = 10.0
    """Seconds until PGRST003, and 544 from storage."""
    schema_cache_delay: float = 0.1
    rest_body_limit: int = 100 * 1000 * 1000
    file_size_limit: int = 50 * 1024 * 1024
    """The project's; also of one bucket it can only be smaller."""
    retries_for_ever: bool = False
    """Whether 40001 and 40P01 are tried again without an end, as PostgREST 12 to 14 do."""
    tus: TusRules = field(default_factory=TusRules)


@dataclass(frozen=True)
class GatewayConfig:
    """All that a gateway needs; its `folder` and the database are its whole state."""

    port: int
    folder: Path
    rest_url: str
    storage_url: str
    keys: Keys
    options: GatewayOptions = field(default_factory=GatewayOptions)

    def write(self, path: Path) -> None:
        path.touch(0o600)
        path.write_text(json.dumps(asdict(self), default=str))

    @classmethod
    def read(cls, path: Path) -> Self:
        raw = json.loads(path.read_text())
        options = raw.pop("options")
        tus = TusRules(**options.pop("tus"))
        return cls(
            port=raw["port"],
            folder=Path(raw["folder"]),
            rest_url=raw["rest_url"],
            storage_url=raw["storage_url"],
            keys=Keys(**raw["keys"]),
            options=GatewayOptions(tus=tus, **options),
        )


class Gateway:
    """Serves 127.0.0.1:`config.port`. Below /_gateway/ it takes orders and tells its clock, for tests."""

    def __init__(self, config: GatewayConfig) -> None:
        options = config.options
        self._keys = config.keys
        self._rest_pool = Pool(config.rest_url, size=options.rest_pool, patience=options.pool_patience)
        self._storage_pool = Pool(config.storage_url, size=options.storage_pool, patience=options.pool_patience)
        self._cache = SchemaCache(config.rest_url, delay=options.schema_cache_delay)
        self._rest = Rest(
            self._rest_pool,
            self._cache,
            config.keys,
            statement_timeouts=options.statement_timeouts,
            body_limit=options.rest_body_limit,
            version=options.postgrest,
            retries_for_ever=options.retries_for_ever,
        )
        self._log = _Log(config.folder / "requests.jsonl")
        self._chunks = _Log(config.folder / "chunks.jsonl")
        objects = Objects(self._storage_pool, config.folder / "objects")
        limit = options.file_size_limit
        tus = Tus(objects, config.folder / "uploads", options.tus, file_size_limit=limit, note=self._chunks.note)
        self._storage = Storage(objects, tus, config.keys, file_size_limit=limit)
        self._faults = Faults()
        self._ahead = 0.0
        self._server = HttpServer(self._handle, port=config.port)

    def start(self) -> Self:
        self._cache.start()
        self._server.start()
        return self

    def close(self) -> None:
        self._server.close()
        self._cache.close()
        self._rest_pool.close()
        self._storage_pool.close()
        self._log.close()
        self._chunks.close()

    def _handle(self, request: Request) -> Reply:
        if request.path.startswith(CONTROL):
            return self._control(request)
        fault = self._faults.take(request)
        status: int | None = None
        try:
            if fault is None:
                reply = self._route(request)
            else:
                reply = carry_out(fault, request, self._route, self._server.pause)
            status = reply.status
            return reply
        except (ConnectionCut, ClientGone):
            raise
        except Exception:
            status = 500
            raise
        finally:
            self._log.note(method=request.method, path=request.path, status=status, fault=fault.kind if fault else None)

    def _route(self, request: Request) -> Reply:
        now = time.time() + self._ahead
        for prefix, part in (("/rest/v1", self._rest), ("/storage/v1", self._storage)):
            if request.path == prefix or request.path.startswith(f"{prefix}/"):
                return part.handle(request, request.path.removeprefix(prefix), now)
        return errors.json_reply(404, errors.NO_ROUTE)

    def _control(self, request: Request) -> Reply:
        body: Any = json.loads(request.read(1024 * 1024) or b"null")
        match request.path.removeprefix(CONTROL):
            case "fault":
                self._faults.order(Fault(**body))
            case "clear":
                self._faults.clear()
            case "advance":
                self._ahead += body
        return errors.json_reply(200, {"ready": True})


class _Log:
    """Lines of JSON that whoever has the folder can read, also after this process was killed."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")
        self._lock = threading.Lock()

    def note(self, **what: Any) -> None:
        with self._lock:
            if not self._file.closed:
                self._file.write(json.dumps(what) + "\n")
                self._file.flush()

    def close(self) -> None:
        with self._lock:
            self._file.close()


def main(config: str) -> None:
    gateway = Gateway(GatewayConfig.read(Path(config))).start()
    sys.stdin.read()  # ends with whoever started it, however hard
    gateway.close()


if __name__ == "__main__":
    main(sys.argv[1])
