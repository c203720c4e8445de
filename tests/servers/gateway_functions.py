"""PostgREST's schema cache, of functions only, and the choice of one by the names of its arguments."""

import contextlib
import threading
from collections.abc import Set
from dataclasses import dataclass
from difflib import get_close_matches

import psycopg
from servers import gateway_database as database
from servers import gateway_errors as errors

QUERY = """
select p.oid, p.proname, p.provolatile, p.proretset,
       t.typtype = 'c' or t.oid = 'record'::regtype or coalesce(p.proargmodes::text[] && '{t,b,o}', false),
       t.oid = 'void'::regtype, coalesce(arguments.names, '{}'), coalesce(arguments.types, '{}'),
       coalesce(arguments.required, '{}'),
       (select substr(s, strpos(s, '=') + 1) from unnest(p.proconfig) s where s like 'statement_timeout=%')
  from pg_proc p
  join pg_namespace n on n.oid = p.pronamespace and n.nspname = 'public'
  join pg_type t on t.oid = p.prorettype
  left join lateral (
    select array_agg(coalesce(name, '') order by idx) as names,
           array_agg(format_type(type, null) order by idx) as types,
           array_agg(idx <= p.pronargs - p.pronargdefaults order by idx) as required
      from unnest(p.proargnames, p.proargtypes::oid[]) with ordinality as a (name, type, idx)
     where type is not null) arguments on true
 where t.oid <> 'trigger'::regtype and t.oid <> 'event_trigger'::regtype and p.prokind = 'f'
"""


@dataclass(frozen=True)
class Function:
    """One that can be called by name. `arguments`: its input arguments' types, by name."""

    name: str
    arguments: dict[str, str]
    required: frozenset[str]
    is_volatile: bool
    returns_set: bool
    returns_rows: bool
    returns_void: bool
    statement_timeout: str | None

    def takes(self, names: Set[str]) -> bool:
        return self.required <= names <= self.arguments.keys()

    def __str__(self) -> str:
        return f"public.{self.name}({', '.join(f'{name} => {kind}' for name, kind in self.arguments.items())})"


class SchemaCache:
    """The functions as they were when last looked at: at the start, and `delay` seconds after each change.

    A change is told by the event trigger pgrst_ddl_watch, which hosted databases have too, with NOTIFY pgrst.
    """

    def __init__(self, url: str, *, delay: float) -> None:
        self._url = url
        self._delay = delay
        self._functions: dict[str, list[Function]] | None = None
        self._stopped = threading.Event()
        self._listener = threading.Thread(target=self._listen, name="gateway-schema-cache", daemon=True)

    def start(self) -> None:
        with contextlib.suppress(psycopg.OperationalError):  # else PGRST002 until the listener gets through
            self._reload()
        self._listener.start()

    def close(self) -> None:
        self._stopped.set()
        self._listener.join()

    def find(self, name: str, arguments: Set[str]) -> Function:
        """
        Raises:
            RestError: PGRST002 before the first look, PGRST202 for none, PGRST203 for several.
        """
        if self._functions is None:
            raise errors.no_schema_cache()
        named = self._functions.get(name, [])
        match [function for function in named if function.takes(arguments)]:
            case [function]:
                return function
            case []:
                raise errors.no_function("public", name, sorted(arguments), self._hint(name, named, arguments))
            case several:
                raise errors.ambiguous_function(list(map(str, several)))

    def _hint(self, name: str, named: list[Function], arguments: Set[str]) -> str | None:
        # PostgREST compares in another way (FuzzySet, at least 0.75): which names are near is a guess.
        if named:
            spelled = {f"({', '.join(sorted(function.arguments))})" for function in named}
            near = get_close_matches(f"({', '.join(sorted(arguments))})", sorted(spelled), 1, 0.75)
            return f"Perhaps you meant to call the function public.{name}{near[0]}" if near else None
        near = get_close_matches(name, sorted(self._functions or {}), 1, 0.75)
        return f"Perhaps you meant to call the function public.{near[0]}" if near else None

    def _listen(self) -> None:
        for _ in database.listen(self._url, "pgrst", self._stopped):
            if self._stopped.wait(self._delay if self._functions is not None else 0.0):
                return
            try:
                self._reload()
            except psycopg.OperationalError:
                continue  # the next round of listening begins with another look

    def _reload(self) -> None:
        found: dict[str, list[Function]] = {}
        with psycopg.connect(self._url, autocommit=True, connect_timeout=10) as connection:
            for _, name, volatility, is_set, rows, void, names, types, required, timeout in connection.execute(QUERY):
                arguments = dict(zip(names, types, strict=True))
                needed = frozenset(n for n, must in zip(names, required, strict=True) if must)
                function = Function(name, arguments, needed, volatility == "v", is_set, rows, void, timeout)
                found.setdefault(name, []).append(function)
        self._functions = found
