"""The part of PostgREST that perdure uses: POST /rpc/<function>, one transaction each, errors as they are there."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import psycopg
from psycopg import sql
from servers import gateway_errors as errors
from servers.gateway_database import Caller, DatabaseAway, Pool, PoolExhausted
from servers.gateway_functions import Function, SchemaCache
from servers.gateway_http import Reply, Request
from servers.gateway_keys import BadToken, Keys

MAX_ROWS = 1000
"""Supabase's setting for db-max-rows: a set is cut there without a word."""
LEEWAY = 30
"""Seconds of clock skew that PostgREST allows."""
RETRIED = ("40001", "40P01")


class Rest:
    def __init__(
        self,
        pool: Pool,
        cache: SchemaCache,
        keys: Keys,
        *,
        statement_timeouts: Mapping[str, str],
        body_limit: int,
        version: int,
        retries_for_ever: bool,
    ) -> None:
        self._pool = pool
        self._cache = cache
        self._keys = keys
        self._timeouts = statement_timeouts
        self._body_limit = body_limit
        self._version = version
        self._retries_for_ever = retries_for_ever

    def handle(self, request: Request, path: str, now: float) -> Reply:
        """`path` is what comes after /rest/v1."""
        try:
            if refusal := self._refused_key(request):
                return refusal
            return self._handle(request, path, self._caller(request, now))
        except errors.RestError as error:
            return error.reply()

    def _handle(self, request: Request, path: str, caller: Caller) -> Reply:
        schema = request.headers.get("content-profile", "public")
        if schema != "public":
            raise errors.unacceptable_schema(schema)
        match path.strip("/").split("/"):
            case [""] if request.method in ("GET", "HEAD"):
                return errors.json_reply(200, {"swagger": "2.0", "info": {"title": "standard public schema"}})
            case ["rpc", function] if request.method == "POST":
                return self._call(request, unquote(function), caller)
            case ["rpc", _] | [_]:
                return errors.json_reply(501, {"message": "The stand-in serves POST /rpc/<function> only"})
            case _:
                raise errors.invalid_path()

    def _refused_key(self, request: Request) -> Reply | None:
        key = request.headers.get("apikey", request.query.get("apikey"))
        if key is None:
            return errors.json_reply(401, errors.NO_KEY)
        return None if self._keys.is_known(key) else errors.json_reply(401, errors.BAD_KEY)

    def _caller(self, request: Request, now: float) -> Caller:
        token = self._keys.authorization(request.headers)
        if token is None:
            return Caller("anon")
        try:
            claims = self._keys.read(token, now=now, leeway=LEEWAY)
        except BadToken as error:
            raise self._bad_token(error) from error
        return Caller(str(claims.get("role", "anon")), claims)

    def _bad_token(self, error: BadToken) -> errors.RestError:
        # Version 12 has one code for all; its other words are its JWT library's, and no client should read them.
        claims = "PGRST301" if self._version < 13 else "PGRST303"
        match error.reason:
            case "empty":
                return errors.bad_jwt("PGRST301", "Empty JWT is sent in Authorization header")
            case "parts":
                return errors.bad_jwt("PGRST301", f"Expected 3 parts in JWT; got {error.detail}")
            case "algorithm":
                return errors.bad_jwt("PGRST301", "Wrong or unsupported encoding algorithm")
            case "signature":
                detail = "None of the keys was able to decode the JWT"
                return errors.bad_jwt("PGRST301", "No suitable key or wrong key type", detail)
            case "exp":
                return errors.bad_jwt(claims, "The JWT 'exp' claim must be a number")
            case "expired":
                return errors.bad_jwt(claims, "JWT expired")
            case _:
                return errors.bad_jwt(claims, "Parsing claims failed")

    def _call(self, request: Request, name: str, caller: Caller) -> Reply:
        content_type = request.headers.get("content-type", "application/json").partition(";")[0].strip()
        body = request.read(self._body_limit)
        if body is None:
            return Reply(413, {"Content-Type": "text/html"}, errors.BODY_TOO_LARGE)
        if content_type != "application/json":
            raise errors.bad_body(f"Content-Type not acceptable: {content_type}")
        body, names = _arguments(body)
        function = self._cache.find(name, names)
        settings = {
            "search_path": '"public", "extensions"',
            "request.method": request.method,
            "request.path": f"/rpc/{name}",
        }
        timeout = function.statement_timeout or self._timeouts.get(caller.role)
        if timeout is not None:
            settings["statement_timeout"] = timeout
        text = self._result(function, names, body, caller, settings)
        if function.returns_void:
            return Reply(204, {"Content-Range": "0-0/*"})
        count = len(json.loads(text)) if function.returns_set else 1
        headers = {"Content-Type": errors.JSON, "Content-Range": f"0-{count - 1}/*" if count else "*/*"}
        return Reply(200, headers, text.encode())

    def _result(
        self, function: Function, names: frozenset[str], body: bytes, caller: Caller, settings: dict[str, str]
    ) -> str:
        begin = f"BEGIN ISOLATION LEVEL READ COMMITTED READ {'WRITE' if function.is_volatile else 'ONLY'}"
        statement = _statement(function, names, is_object=body.lstrip()[:1] == b"{")
        while True:
            try:
                with self._pool.transaction(caller, settings, begin=begin) as connection:
                    row = connection.execute(statement, [body.decode()] if names else None).fetchone()
                    return row[0] if row else "null"
            except PoolExhausted as error:
                raise errors.pool_exhausted() from error
            except DatabaseAway as error:
                raise errors.database_away(str(error), lost=error.lost) from error
            except psycopg.Error as error:
                if self._retries_for_ever and error.sqlstate in RETRIED:
                    continue
                raise errors.from_postgres(error, is_anonymous=caller.role == "anon") from error


def _arguments(body: bytes) -> tuple[bytes, frozenset[str]]:
    """The body as Postgres shall read it, and the names in it.

    Raises:
        RestError: PGRST102.
    """
    if not body:
        return b"{}", frozenset()
    try:
        value: Any = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise errors.bad_body() from error
    match value:
        case dict():
            return body, frozenset(value)
        case [dict() as first, *others]:
            if any(not isinstance(other, dict) or other.keys() != first.keys() for other in others):
                raise errors.bad_body("All object keys must match")
            return body, frozenset(first)
        case _:
            return b"[]", frozenset()


def _refuse(constant: str) -> None:
    raise ValueError(f"not JSON: {constant}")


def _statement(function: Function, names: frozenset[str], *, is_object: bool) -> sql.Composed:
    """Named notation over json_to_record, so that each argument has the function's own type for it."""
    called = sql.Identifier("public", function.name)
    given = [name for name in function.arguments if name in names]
    arguments = sql.SQL(", ").join(
        sql.SQL("{} := pgrst_body.{}").format(sql.Identifier(name), sql.Identifier(name)) for name in given
    )
    typed = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(function.arguments[name])) for name in given
    )
    source = (
        sql.SQL("(SELECT * FROM {}(%s::json) AS _({}) LIMIT 1) pgrst_body, LATERAL ").format(
            sql.SQL("json_to_record" if is_object else "json_to_recordset"), typed
        )
        if given
        else sql.SQL("")
    )
    if function.returns_rows:
        call = sql.SQL("SELECT pgrst_call.* FROM {}{}({}) pgrst_call")
        item = sql.SQL("t")
    else:
        call = sql.SQL("SELECT pgrst_call.pgrst_scalar FROM {}(SELECT {}({}) pgrst_scalar) pgrst_call")
        item = sql.SQL("t.pgrst_scalar")
    if function.returns_void:
        result = "count({})"
    else:
        result = "coalesce(json_agg({}), '[]')" if function.returns_set else "coalesce(json_agg({})->0, 'null')"
    return sql.SQL("WITH pgrst_source AS ({}) SELECT ({})::text FROM (SELECT * FROM pgrst_source LIMIT {}) t").format(
        call.format(source, called, arguments), sql.SQL(result).format(item), sql.SQL(str(MAX_ROWS))
    )
