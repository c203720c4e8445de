"""An application that has set up OpenTelemetry sees what perdure does; one that has not pays nothing for it."""

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import Activate
from mcp.server.mcpserver import MCPServer
from mcp_wire import called
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from proxy.conftest import behind
from proxy.test_conversations import BARE

from perdure import persisted
from perdure.middleware.persistence.ports import Waiting
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.telemetry import callers_meta
from perdure.middleware.persistence.wiring import runtime
from perdure.testing import FaultyStore
from perdure.testing.turns import a_turn


@dataclass
class Seen:
    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def points(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        """Attributes and value, or count and sum, of each series of one metric."""
        data = self.reader.get_metrics_data()
        return [
            (dict(point.attributes or {}), getattr(point, "value", None) or (getattr(point, "count", 0)))
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    """As an application sets it up; undone after the test, which the API has no way for."""
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    spans, meters = TracerProvider(), MeterProvider([reader])
    spans.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", spans)
    monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", meters)
    # The SDK's own tracer remembers the provider of its first span.
    from mcp.shared import _otel

    monkeypatch.setattr(_otel, "_tracer", spans.get_tracer("mcp"))
    yield Seen(exporter, reader)
    spans.shutdown()
    meters.shutdown()


def server() -> MCPServer:
    server = MCPServer("told")

    @server.tool()
    @persisted
    async def chat(prompt: str) -> str:
        if prompt == "fail":
            raise ValueError("no")
        return f"about {prompt}"

    return server


async def test_the_operations_of_a_turn_are_spans_within_the_sdks_own(seen: Seen, tmp_path: Path) -> None:
    result = await called(server(), "chat", {"prompt": "a"})  # in SQLite, on a thread of a lane
    [call] = seen.spans("tools/call chat")
    for name in ("begin_turn", "finish_turn"):
        [span] = seen.spans(name)
        assert span.parent is not None
        assert call.context is not None
        assert span.parent.span_id == call.context.span_id
        assert dict(span.attributes or {}) == {
            "db.system.name": "sqlite",
            "db.operation.name": name,
            "gen_ai.tool.name": "chat",
            "gen_ai.conversation.id": result["_meta"]["perdure/continuation-id"],
            "perdure.turn.id": result["_meta"]["perdure/turn-id"],
        }


CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE, SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331


async def test_they_are_part_of_the_trace_that_the_caller_names_below_the_sdks_span(seen: Seen) -> None:
    await called(server(), "chat", {"prompt": "a"}, {"traceparent": CALLER, "tracestate": "vendor=1"})
    [call] = seen.spans("tools/call chat")
    assert call.parent is not None
    assert call.context is not None
    assert (call.parent.trace_id, call.parent.span_id) == (TRACE, SPAN)
    assert _parents(seen) == {"begin_turn": (TRACE, call.context.span_id), "finish_turn": (TRACE, call.context.span_id)}


async def test_behind_the_proxy_they_stand_below_the_callers_span(seen: Seen, activate: Activate) -> None:
    activate(defaults={"enabled": True})
    async with behind([sys.executable, "-c", BARE]) as client:
        await client.ask("tools/list", {})
        meta = {"traceparent": CALLER, "tracestate": "vendor=1"}
        await client.ask("tools/call", {"name": "chat", "arguments": {"prompt": "a"}, "_meta": meta})
        assert _parents(seen) == {"begin_turn": (TRACE, SPAN), "finish_turn": (TRACE, SPAN)}
        assert all(
            (span.context and span.context.trace_state.get("vendor")) == "1" for span in seen.spans("begin_turn")
        )


@pytest.mark.parametrize("named", ["nonsense", 7, None, ["x"], "00-" + "0" * 32 + "-b7ad6b7169203331-01"], ids=str)
async def test_a_trace_that_cannot_be_one_changes_nothing(seen: Seen, activate: Activate, named: object) -> None:
    activate(defaults={"enabled": True})
    async with behind([sys.executable, "-c", BARE]) as client:
        await client.ask("tools/list", {})
        await client.ask(
            "tools/call", {"name": "chat", "arguments": {"prompt": "a"}, "_meta": {"traceparent": named, "baggage": 1}}
        )
        assert _parents(seen) == {"begin_turn": None, "finish_turn": None}


async def test_what_is_open_here_of_another_trace_is_linked_to(seen: Seen, activate: Activate) -> None:
    """As the span of an HTTP request, where the SDK has none of its own."""
    telemetry = activate().engine.telemetry
    callers_meta.set({"traceparent": CALLER})
    with trace.get_tracer("http").start_as_current_span("POST /mcp") as http:
        telemetry.around("begin_turn", a_turn("a", continuation_id="c"), lambda: None)
    [span] = seen.spans("begin_turn")
    assert _parents(seen) == {"begin_turn": (TRACE, SPAN)}
    assert [link.context.span_id for link in span.links] == [http.get_span_context().span_id]


def _parents(seen: Seen) -> dict[str, tuple[int, int] | None]:
    """Trace and span that each of ours stands under."""
    return {
        span.name: span.parent and (span.parent.trace_id, span.parent.span_id)
        for name in ("begin_turn", "finish_turn")
        for span in seen.spans(name)
    }


async def test_the_spool_is_read_once_for_all_that_is_told_of_it(seen: Seen, activate: Activate) -> None:
    telemetry = activate(spooled=True).engine.telemetry
    asked, waiting = [], telemetry.waiting
    assert waiting is not None

    def counted() -> Iterable[Waiting]:
        asked.append(1)
        return waiting()

    telemetry.waiting = counted
    await called(server(), "chat", {"prompt": "a"})
    for collections in (1, 2, 3):
        seen.reader.get_metrics_data()
        assert len(asked) == collections


async def test_durations_and_sizes_fall_into_classes_that_tell_them_apart(seen: Seen) -> None:
    await called(server(), "chat", {"prompt": "a"})
    data = seen.reader.get_metrics_data()
    assert data is not None
    [bounds] = {
        tuple(point.explicit_bounds)
        for scope in data.resource_metrics[0].scope_metrics
        for metric in scope.metrics
        if metric.name == "db.client.operation.duration"
        for point in metric.data.data_points
    }
    assert bounds == (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)  # as the conventions for databases have them


async def test_turns_are_counted_by_tool_outcome_and_who_keeps_them(seen: Seen) -> None:
    told = server()
    for prompt in ("a", "b", "fail"):
        await called(told, "chat", {"prompt": prompt})
    counted = {attributes["perdure.outcome"]: value for attributes, value in seen.points("perdure.turns")}
    assert counted == {"answered": 2, "failed": 1}
    [attributes] = [at for at, _ in seen.points("perdure.turns") if at["perdure.outcome"] == "failed"]
    assert attributes == {"gen_ai.tool.name": "chat", "perdure.outcome": "failed", "perdure.kept_by": "store"}
    operations = {at["db.operation.name"]: count for at, count in seen.points("db.client.operation.duration")}
    assert operations == {"begin_turn": 3, "finish_turn": 3}


async def test_a_store_that_is_away_is_an_error_and_the_spool_tells_what_waits(seen: Seen, activate: Activate) -> None:
    store = FaultyStore(MemoryStore())
    store.fail("begin")
    store.fail("finish")
    activate(store, spooled=True)
    await called(server(), "chat", {"prompt": "a"})
    [begin] = seen.spans("begin_turn")
    assert begin.status.status_code is trace.StatusCode.ERROR
    assert (begin.attributes or {})["error.type"] == "store_unavailable"
    assert not begin.events  # a stack trace might hold what was asked
    assert len(seen.spans("spool_turn")) == 2
    [(kept, count)] = seen.points("perdure.turns")
    assert (kept["perdure.kept_by"], count) == ("spool", 1)
    assert [at["error.type"] for at, _ in seen.points("perdure.faults")] == ["store_unavailable"]
    assert [value for _, value in seen.points("perdure.spool.turns")] == [1]
    assert [at["perdure.destination"] for at, _ in seen.points("perdure.spool.age")] == ["sqlite"]


async def test_files_are_told_with_their_sizes(seen: Seen, tmp_path: Path) -> None:
    server = MCPServer("files")
    path = tmp_path / "report.txt"
    path.write_text("x" * 1000)

    @server.tool()
    @persisted
    async def report() -> str:
        return str(path)

    await called(server, "report")
    [(attributes, count)] = seen.points("perdure.file.size")
    assert (attributes, count) == ({"gen_ai.tool.name": "report"}, 1)


async def test_what_an_application_has_not_set_up_is_never_called() -> None:
    await called(server(), "chat", {"prompt": "a"})
    assert "_instruments" not in vars(runtime().engine.telemetry)


async def test_a_provider_that_fails_costs_no_turn_and_is_said_once(
    seen: Seen, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(TracerProvider):
        def get_tracer(self, *_given: Any, **_named: Any) -> Any:
            raise RuntimeError("no exporter")

    class BrokenMeters(MeterProvider):
        def get_meter(self, *_given: Any, **_named: Any) -> Any:
            raise RuntimeError("no exporter")

    monkeypatch.setattr(trace, "_TRACER_PROVIDER", Broken())
    for broken in (False, True):
        if broken:
            monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", BrokenMeters())
        runtime().engine.telemetry._looked_at = -1000.0
        result = await called(server(), "chat", {"prompt": "a"})
        assert result["_meta"]["perdure/persisted"] is True
        assert "perdure/fault" not in result["_meta"]
    assert caplog.text.count("telemetry.not_told") == 1


def test_the_api_is_not_imported_for_it() -> None:
    """With mcp 1.x nothing brings it, and it need not be installed."""
    script = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from datetime import UTC, datetime\n"
        "from perdure.middleware.persistence.engine import Engine\n"
        "from perdure.middleware.persistence.ports import SystemClock\n"
        "from perdure.middleware.persistence.redaction import Redactor\n"
        "from perdure.middleware.persistence.stores.memory import MemoryStore\n"
        "from perdure.middleware.persistence.turn import Window\n"
        "from perdure.testing.turns import a_turn\n"
        "engine = Engine(MemoryStore(), SystemClock())\n"
        "turn, begun = engine.begin(a_turn('a', continuation_id='c'), Window(1, 1), Redactor())\n"
        "print(begun.place)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout == "1\n"
