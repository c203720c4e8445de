"""What an application's OpenTelemetry is told: spans and durations of operations; counts of turns, files and faults.

Through the API package alone, and only where the application has set up a provider; otherwise a call costs a look at
the clock. Names are those of the semantic conventions for databases, generative AI and MCP where there are such:
https://github.com/open-telemetry/semantic-conventions-genai/blob/main/docs/gen-ai/mcp.md, and for databases
https://opentelemetry.io/docs/specs/semconv/db/.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import Context, ContextVar
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeAlias, TypeVar, TypeVarTuple

from perdure.errors import PerdureError
from perdure.logs import log
from perdure.middleware.persistence.ports import Waiting
from perdure.middleware.persistence.turn import Turn

if TYPE_CHECKING:
    from opentelemetry.context import Context as SpanContext
    from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation
    from opentelemetry.trace import Link, Span
    from opentelemetry.util.types import Attributes

__all__ = ["Operation", "Telemetry", "callers_meta"]

Operation: TypeAlias = Literal["begin_turn", "finish_turn", "spool_turn"]

callers_meta: ContextVar[Mapping[str, Any] | None] = ContextVar("perdure_callers_meta", default=None)
"""`_meta` of the request that is being served: `traceparent` and its like name the caller's span in it (SEP-414)."""

_SCOPE = "perdure"

_LOOK_EVERY = 1.0
"""Seconds. An application may set its provider after its first call."""

_DATABASES = {"sqlite": "sqlite", "postgres": "postgresql", "supabase": "postgresql"}

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Telemetry:
    def __init__(self, backend: str, now: Callable[[], datetime]) -> None:
        """`now` tells the age of what waits."""
        self.waiting: Callable[[], Iterable[Waiting]] | None = None
        """What the spool holds, to be asked when metrics are collected. Blocks."""
        self._backend = backend
        self._now = now
        self._is_on = False
        self._has_failed = False
        self._looked_at = -_LOOK_EVERY

    def around(self, name: Operation, turn: Turn, work: Callable[[*Ts], T], /, *args: *Ts) -> T:
        """What `work` gives, which may take time, on whichever thread that is."""
        if not self._is_on and time.monotonic() - self._looked_at < _LOOK_EVERY:
            return work(*args)
        with self._observed(name, turn) if self._is_wanted() else nullcontext():
            return work(*args)

    def around_all(
        self,
        name: Operation,
        turns: Iterable[tuple[Turn, Context]],
        work: Callable[P, T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """As `around` for several turns that one operation works on, each told of in its caller's context."""
        if not self._is_wanted():
            return work(*args, **kwargs)
        with ExitStack() as stack:
            for turn, context in turns:
                stack.enter_context(_Within(context, self._observed(name, turn)))
            return work(*args, **kwargs)

    def kept(self, turn: Turn, by: Literal["store", "spool"]) -> None:
        """`turn` has ended, and is acknowledged: by an operation, which has just looked whether this is wanted."""
        if self._is_on:
            with self._unfailing():
                tool = {"gen_ai.tool.name": turn.tool}
                self._instruments.turns.add(1, {**tool, "perdure.outcome": turn.outcome.value, "perdure.kept_by": by})
                for file in turn.files:
                    self._instruments.file_size.record(file.size, tool)

    def fault(self, event: str, error: Exception) -> None:
        if self._is_wanted():
            with self._unfailing():
                self._instruments.faults.add(1, {"perdure.event": event, "error.type": _kind(error)})

    def _is_wanted(self) -> bool:
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_EVERY:
            self._looked_at = now
            self._is_on = False
            with self._unfailing():
                self._is_on = _is_set_up()
                if self._is_on:
                    self._instruments  # noqa: B018 - they are there from now on, so that what waits is told of too
        return self._is_on

    @contextmanager
    def _unfailing(self) -> Iterator[None]:
        """The provider is the application's: what it trips over costs what it would have been told, and no turn."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - see above
            if not self._has_failed:
                self._has_failed = True
                log.warning(
                    "telemetry.not_told",
                    what=f"OpenTelemetry could not be told of something ({type(error).__name__}: {error}).",
                    remedy="look at the application's provider; this is said once.",
                )

    @contextmanager
    def _observed(self, name: Operation, turn: Turn) -> Iterator[None]:
        system = "sqlite" if name == "spool_turn" else _DATABASES.get(self._backend)
        of_metric: dict[str, str] = {"db.operation.name": name} | ({"db.system.name": system} if system else {})
        began = time.perf_counter()
        span: Span | None = None
        spanned = ExitStack()
        with self._unfailing():
            span = spanned.enter_context(self._span(name, turn, of_metric))
        try:
            yield
        except Exception as error:
            of_metric["error.type"] = _kind(error)
            with self._unfailing():
                if span is not None:
                    _tell_of(error, span)
            raise
        finally:
            with self._unfailing():
                spanned.close()
                self._instruments.duration.record(time.perf_counter() - began, of_metric)

    def _span(self, name: Operation, turn: Turn, of_metric: dict[str, str]) -> "AbstractContextManager[Span]":
        from opentelemetry import trace  # noqa: PLC0415 - only where it is set up

        of_span = {
            **of_metric,
            "gen_ai.tool.name": turn.tool,
            "gen_ai.conversation.id": turn.continuation_id,
            "perdure.turn.id": turn.id,
        }
        parent, links = _parent(callers_meta.get())
        return trace.get_tracer(_SCOPE).start_as_current_span(
            name, parent, kind=trace.SpanKind.CLIENT, attributes=of_span, links=links
        )

    @cached_property
    def _instruments(self) -> "_Instruments":
        return _Instruments(self._observations)

    def _observations(self) -> "dict[str, list[tuple[float, Attributes]]]":
        """By the name of a gauge, its values, and of which destination each is."""
        seen: dict[str, list[tuple[float, Attributes]]] = {gauge: [] for gauge, _, _ in _GAUGES}
        for waiting in self.waiting() if self.waiting is not None else ():
            where: Attributes = {"perdure.destination": waiting.destination}
            age = (self._now() - datetime.fromisoformat(waiting.oldest)).total_seconds() if waiting.oldest else 0.0
            seen["turns"].append((waiting.turns, where))
            seen["files"].append((waiting.files, where))
            seen["quarantined"].append((waiting.quarantined_turns + waiting.quarantined_files, where))
            seen["age"].append((max(age, 0.0), where))
        return seen


class _Within:
    """`manager`, entered and left in `context`: what it makes current there is nobody else's."""

    def __init__(self, context: Context, manager: AbstractContextManager[None]) -> None:
        self._context = context
        self._manager = manager

    def __enter__(self) -> None:
        self._context.run(self._manager.__enter__)

    def __exit__(self, *raised: Any) -> bool | None:
        return self._context.run(self._manager.__exit__, *raised)


class _Instruments:
    def __init__(self, observations: "Callable[[], dict[str, list[tuple[float, Attributes]]]]") -> None:
        from opentelemetry import metrics  # noqa: PLC0415 - only where it is set up

        meter = metrics.get_meter(_SCOPE)
        self.duration = _histogram(
            meter, "db.client.operation.duration", "s", "How long a store or the spool took.", _SECONDS
        )
        self.turns = meter.create_counter(
            "perdure.turns", unit="{turn}", description="Turns that have ended and were acknowledged."
        )
        self.file_size = _histogram(
            meter, "perdure.file.size", "By", "The sizes of the files that tools gave out.", _BYTES
        )
        self.faults = meter.create_counter("perdure.faults", unit="{fault}", description="What went wrong, by event.")
        unseen: dict[str, list[tuple[float, Attributes]]] = {}

        def seen(gauge: str) -> "Callable[[CallbackOptions], Iterator[Observation]]":
            def see(_options: "CallbackOptions") -> "Iterator[Observation]":
                # One collection asks each gauge once, and the API tells none which collection it is: a gauge that
                # has seen the last reading asks for another, and the others get theirs from it.
                if gauge not in unseen:
                    unseen.update(observations())
                yield from (metrics.Observation(value, where) for value, where in unseen.pop(gauge, ()))

            return see

        for gauge, unit, description in _GAUGES:
            meter.create_observable_gauge(
                f"perdure.spool.{gauge}", callbacks=[seen(gauge)], unit=unit, description=description
            )


_GAUGES = (
    ("turns", "{turn}", "Turns that wait in the spool."),
    ("files", "{file}", "Files that wait in the spool."),
    ("quarantined", "{record}", "Turns and files that no store would take."),
    ("age", "s", "For how long the oldest of what waits has done so."),
)


_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
"""Bounds, as the conventions for databases have them. The SDK's own are for milliseconds."""

_BYTES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)


def _histogram(meter: "Meter", name: str, unit: str, description: str, bounds: tuple[float, ...]) -> "Histogram":
    try:
        return meter.create_histogram(
            name, unit=unit, description=description, explicit_bucket_boundaries_advisory=bounds
        )
    except TypeError:  # the API before 1.30
        return meter.create_histogram(name, unit=unit, description=description)


def _parent(meta: Mapping[str, Any] | None) -> "tuple[SpanContext | None, list[Link]]":
    """What a span of ours stands under, and to what else it is linked: None is the span that is open here.

    That of the SDK or of the application, if it is of the caller's trace. Else the caller's own, as the conventions for
    MCP have it: what is open here may be of an HTTP request that serves several calls.
    """
    from opentelemetry import propagate, trace  # noqa: PLC0415 - only where it is set up

    carried = {name: value for name, value in (meta or {}).items() if isinstance(value, str)}
    if not carried:
        return None, []
    context = propagate.extract(carried)
    callers = trace.get_current_span(context).get_span_context()
    here = trace.get_current_span().get_span_context()
    if not callers.is_valid or callers.trace_id == here.trace_id:
        return None, []
    return context, [trace.Link(here)] if here.is_valid else []


def _is_set_up() -> bool:
    """Whether the application has a provider: then it has imported the API, which is never imported for it."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is not None and not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return True
    metrics = sys.modules.get("opentelemetry.metrics")
    # The API has no public name for the provider that stands in for none.
    return metrics is not None and not type(metrics.get_meter_provider()).__module__.startswith("opentelemetry.metrics")


def _tell_of(error: Exception, span: "Span") -> None:
    from opentelemetry import trace  # noqa: PLC0415 - only where it is set up

    # No stack trace, which might hold what was asked.
    span.set_attribute("error.type", _kind(error))
    span.set_status(trace.StatusCode.ERROR, error.what if isinstance(error, PerdureError) else None)


def _kind(error: Exception) -> str:
    return error.code if isinstance(error, PerdureError) else type(error).__name__
