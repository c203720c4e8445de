"""Looks at what the settings name, and shows a line for each look."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from rich.text import Text

from perdure.cli.doctor import bucket, schema, spool, supabase_key
from perdure.cli.doctor.finding import Finding, Verdict, looked
from perdure.cli.terminal import console, count, write_json
from perdure.errors import PerdureError
from perdure.middleware.persistence.backends import database_url, postgres_driver, supabase_api
from perdure.middleware.persistence.data_directory import doubts_about
from perdure.middleware.persistence.stores.sql_functions import SqlFunctions
from perdure.middleware.persistence.wiring import build
from perdure.settings import Settings
from perdure.settings_loader import data_directory, settings_file

__all__ = ["doctor"]

_COLOURS = {Verdict.OK: "green", Verdict.FIXED: "green", Verdict.WARNING: "yellow", Verdict.FAILED: "bold red"}


def doctor(settings: Settings, *, fix: bool, as_json: bool) -> bool:
    """Whether nothing failed. Nothing that is shown holds a key or a password."""
    found: list[Finding] = []
    for finding in _findings(settings, fix=fix):
        found.append(finding)
        if not as_json:
            _show(finding)
    failed = [finding for finding in found if finding.verdict is Verdict.FAILED]
    if as_json:
        lines = [
            {"check": one.name, "verdict": one.verdict.value, "what": one.what, "remedy": one.remedy} for one in found
        ]
        write_json({"backend": settings.backend, "ok": not failed, "checks": lines})
    elif failed:
        console().print(Text(f"\n{len(failed)} of {len(found)} checks failed.", style="bold red"))
    else:
        console().print(Text("\nAll is well.", style="bold green"))
    return not failed


def _findings(settings: Settings, *, fix: bool) -> Iterator[Finding]:
    file = settings_file()
    yield Finding(
        "settings", Verdict.OK, f"Backend {settings.backend}; {f'from {file}' if file else 'no settings file'}."
    )
    yield looked("data directory", lambda: _data_directory(settings))
    yield from spool.examined(settings)
    match settings.backend:
        case "supabase":
            yield from _supabase(settings, fix=fix)
        case "postgres":
            yield from _postgres(settings, fix=fix)
        case "sqlite":
            yield looked("database", lambda: _sqlite(settings))
        case "memory":
            yield Finding(
                "database", Verdict.WARNING, "Everything is forgotten at exit.", 'set backend = "sqlite" to keep it.'
            )
        case factory:
            yield looked("store", lambda: _of_somebody_else(settings, factory))


def _data_directory(settings: Settings) -> Finding:
    """Also with Supabase: snapshots on their way, and the copies that tools are given."""
    folder = data_directory(settings)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
            os.fsync(probe.fileno())
    except OSError as error:
        raise PerdureError(
            f"{folder} cannot be written: {error.strerror}.", remedy="set PERDURE_DATA_DIR to a directory that can."
        ) from error
    for doubt in doubts_about(folder):
        return Finding("data directory", Verdict.WARNING, doubt.what, doubt.remedy)
    return Finding("data directory", Verdict.OK, f"{folder} can be written.")


def _sqlite(settings: Settings) -> Finding:
    with closing(build(settings).engine.store) as store:
        newest = store.conversations(limit=1)
    path = data_directory(settings) / "perdure.db"
    if not newest:
        return Finding("database", Verdict.OK, f"{path} is empty, or is made at the first turn.")
    return Finding("database", Verdict.OK, f"{path} can be read; last used {newest[0].updated_at:%Y-%m-%d %H:%M} UTC.")


def _of_somebody_else(settings: Settings, factory: str) -> Finding:
    with closing(build(settings).engine.store) as store:
        known = store.statistics()
    return Finding("store", Verdict.OK, f"{factory} answers: {count(known.conversations, 'conversation')}.")


def _postgres(settings: Settings, *, fix: bool) -> Iterator[Finding]:
    def connected() -> SqlFunctions:
        with postgres_driver():
            from perdure.middleware.persistence.stores.postgres.functions import PostgresFunctions  # noqa: PLC0415
        return PostgresFunctions(database_url(settings), timeout=settings.operation_timeout, max_connections=2)

    try:
        functions = connected()
    except PerdureError as error:
        yield Finding("database", Verdict.FAILED, error.what, error.remedy)
        return
    with closing(functions):
        yield from schema.examined(functions, _migration(settings) if fix else None)


def _supabase(settings: Settings, *, fix: bool) -> Iterator[Finding]:
    from perdure.middleware.persistence.file_stores.supabase import SupabaseFileStore  # noqa: PLC0415 - where used
    from perdure.middleware.persistence.stores.supabase.functions import SupabaseFunctions  # noqa: PLC0415

    try:
        api = supabase_api(settings)
    except PerdureError as error:
        yield Finding("project", Verdict.FAILED, error.what, error.remedy)
        return
    yield _address(api.url)
    yield supabase_key.examined(
        settings.supabase_key.get_secret_value() if settings.supabase_key else "", datetime.now(UTC)
    )
    with closing(SupabaseFunctions(api, timeout=settings.operation_timeout)) as functions:
        yield from schema.examined(functions, _migration(settings) if fix and settings.database_url else None)
        with tempfile.TemporaryDirectory(prefix="perdure-doctor-") as folder:
            file_store = SupabaseFileStore(api, settings.bucket, Path(folder), timeout=15.0)
            yield from bucket.examined(api, settings, file_store, fix=fix)


def _address(url: str) -> Finding:
    parts = urlsplit(url)
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        return Finding(
            "project",
            Verdict.WARNING,
            f"{url} is not encrypted: the key travels in clear.",
            "use https, unless this network is yours alone.",
        )
    return Finding("project", Verdict.OK, url)


def _migration(settings: Settings) -> "Callable[[], str]":
    def run() -> str:
        with postgres_driver():
            from perdure.middleware.persistence.migrations import postgres  # noqa: PLC0415
            from perdure.middleware.persistence.stores.postgres.functions import database_name  # noqa: PLC0415
        url = database_url(settings)
        done = postgres.apply(url, database_name(url), lambda _: None)
        return f"{count(len(done), 'migration')} run."

    return run


def _show(finding: Finding) -> None:
    verdict = Text.assemble((f"{finding.verdict.value:<8}", _COLOURS[finding.verdict]))
    _show_beside(verdict, f"{finding.name}: {finding.what}")
    if finding.remedy and finding.verdict is not Verdict.OK:
        _show_beside(Text(f"{'':<8}"), f"Remedy: {finding.remedy}")


def _show_beside(margin: Text, text: str) -> None:
    """In a terminal its lines end between words; elsewhere it is one line, whatever its length."""
    width = console().width - len(margin)
    # A path stays in one piece, to be copied.
    lines = Text(text).wrap(console(), width, overflow="ignore") if console().is_terminal else [Text(text)]
    for line in lines:
        console().print(margin + line, soft_wrap=True)
        margin = Text(" " * len(margin))
