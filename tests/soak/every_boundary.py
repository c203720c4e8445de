"""A fault at every boundary of perdure, one after the other: no answer of a tool changes, and stdout stays clean.

    python tests/soak/every_boundary.py                    # SQLite, Postgres; each boundary, each kind of fault
    python tests/soak/every_boundary.py --list             # only what there is, and how often it is reached
    python tests/soak/every_boundary.py --sample 12        # some of them

Real stdio servers chat, give out files, get them back, are restarted, and lose their store for a while. A boundary
is any call out of perdure that may fail; those that are known stand in `boundaries.txt`, and one that does not fails
the run. At each the call fails every time it is made: as that library fails, with an error that nobody expects, or
(in a lane) by not coming back. Then: every tool's result is what the bare tool gives, less what perdure adds; only
JSON-RPC is on stdout; the fault is named in a result or in the log; and what was acknowledged all the same is there
when the fault is over. Goes on where it was interrupted. Prints one line.
"""

import argparse
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

sys.path.insert(0, str(Path(__file__).parents[1]))

from servers.postgres_cluster import PostgresCluster
from soak.boundaries import SAID, Boundaries, Kind
from soak.boundary_server import Silence, StdioServer
from soak.progress import Progress

from perdure.middleware.persistence.migrations import postgres as migrations

LIST = Path(__file__).with_name("boundaries.txt")

IN_MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""Where an fsync costs nothing: hundreds of runs wait for thousands of them."""

Backend = Literal["sqlite", "postgres"]
Json = dict[str, Any]

SETTINGS = """
operation_timeout = 1.0
max_message_bytes = 1000
lease_seconds = 1.0
[defaults]
file_timeout = 1.0
"""

LONG = "and so on " * 200


@dataclass
class Seen:
    """What one run of the scenario showed."""

    counts: Counter[str] = field(default_factory=Counter)
    fired: int = 0
    inline: int = 0
    named: bool = False
    """The fault, in a result or in the log."""
    acknowledged: list[str] = field(default_factory=list)
    """Ids of turns."""
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Scenario:
    """Three servers, one after the other, over the same data; the last one without the fault."""

    def __init__(
        self,
        backend: Backend,
        database: "Databases",
        bare: list[Json] | None,
        faulty: str | None = None,
        kind: Kind = "error",
    ) -> None:
        """`bare`: what the tools answer without perdure; None: switch it off, to find out."""
        self._bare = bare
        self._calls = 0
        self.results: list[Json] = []
        self._backend = backend
        self._database = database
        self._faulty = faulty
        self._kind = kind
        self._uris: dict[str, str] = {}
        """What a file is called now, by its name."""
        self.seen = Seen()

    def run(self) -> Seen:
        began = time.monotonic()
        with ExitStack() as until_the_end:
            # No TemporaryDirectory: the forked servers would remove it when they end.
            self._folder = folder = Path(tempfile.mkdtemp(prefix="perdure-boundary-", dir=IN_MEMORY))
            until_the_end.callback(shutil.rmtree, folder)
            (folder / "perdure.toml").write_text(SETTINGS)
            self._environment = {
                "PERDURE_CONFIG": str(folder / "perdure.toml"),
                "PERDURE_DATA_DIR": str(folder / "data"),
                **self._database.environment(self._backend),
            } | ({"PERDURE_ENABLED": "false"} if self._bare is None else {})
            try:
                self._life(self._first_life, faulty=True)
                self._life(self._second_life, faulty=True)
                self._named_in_the_log()
                self._life(self._last_life, faulty=False)
            except (Silence, EOFError) as error:
                log = (folder / "stderr").read_text()[-1500:] if (folder / "stderr").exists() else ""
                self.seen.wrong.append(f"{type(error).__name__}: {error}; {log}")
        self.seen.seconds = time.monotonic() - began
        return self.seen

    def _first_life(self, server: StdioServer) -> None:
        self._list(server)
        self._chat(server, "hello", "c")
        self._call(server, "plain", {"prompt": "hello"})
        self._call(server, "linger", {"prompt": "hello"})
        self._call(server, "ask", {"prompt": "first"}, "asked")
        self._call(server, "ask", {"prompt": "second"}, "asked")
        self._chat(server, f"at length {LONG}", "c")
        self._write(server, "one.txt")
        self._read(server, "one.txt")
        self._resource(server, "one.txt")
        self._chat(server, "again", "c")
        self._order(server, "take_away", {"away": True})
        self._chat(server, "while it is away", "c", away=True)
        self._chat(server, "new while it is away", None, away=True)
        self._chat(server, f"at length while it is away {LONG}", "c", away=True)
        self._write(server, "two.txt", away=True)
        self._read(server, "two.txt", away=True)
        self._order(server, "take_away", {"away": False})
        self._settle(server)
        self._chat(server, "it is back", "c")

    def _second_life(self, server: StdioServer) -> None:
        self._chat(server, "after the restart", "c")
        self._read(server, "one.txt")
        self._read(server, "two.txt")
        self._settle(server)

    def _last_life(self, server: StdioServer) -> None:
        """What was acknowledged under the fault is there without it."""
        healthy = self._chat(server, "the fault is over", "c")
        if self._bare is None:
            return
        if not healthy["_meta"]["perdure/persisted"]:
            self.seen.wrong.append(f"without the fault nothing is kept: {healthy['_meta']}")
        if self._order(server, "settle", {"seconds": 20.0}) != "settled":
            self.seen.wrong.append("without the fault something still waits")
        answer = self._order(server, "kept", {})
        if not answer.startswith('{"ended"'):
            self.seen.wrong.append(f"what is kept cannot be read: {answer}")
            return
        kept = json.loads(answer)
        self.seen.wrong += [f"in quarantine: {one}" for one in kept["quarantined"]]
        ended = Counter(kept["ended"])
        for turn in self.seen.acknowledged:
            if ended[turn] != 1:
                self.seen.wrong.append(f"the acknowledged turn {turn} is there {ended[turn]} times")

    # ── one server ───────────────────────────────────────────────────────────────────────────────────────────

    def _life(self, lived: Any, *, faulty: bool) -> None:
        boundaries = Boundaries(self._faulty if faulty else None, self._kind)
        server = StdioServer(boundaries, self._environment, self._folder)
        try:
            lived(server)
            said = server.end()
        finally:
            server.kill()
        self.seen.counts.update(said["counts"])
        self.seen.fired += said["fired"]
        self.seen.inline += said["inline"]

    def _named_in_the_log(self) -> None:
        log = (self._folder / "stderr").read_text()
        self.seen.named |= SAID in log or (self._kind == "hang" and "Remedy:" in log)

    # ── calls ────────────────────────────────────────────────────────────────────────────────────────────────

    def _list(self, server: StdioServer) -> None:
        answer = server.ask("tools/list", {})
        names = {tool["name"] for tool in answer.get("result", {}).get("tools", [])}
        if not {"chat", "plain", "linger", "ask", "write", "read"} <= names:
            self.seen.wrong.append(f"tools/list says {answer}")

    def _chat(self, server: StdioServer, prompt: str, conversation: str | None, *, away: bool = False) -> Json:
        return self._call(server, "chat", {"prompt": prompt}, conversation, away=away)

    def _write(self, server: StdioServer, name: str, *, away: bool = False) -> None:
        self._uris[name] = self._call(server, "write", {"name": name}, away=away)["content"][0]["text"]

    def _read(self, server: StdioServer, name: str, *, away: bool = False) -> None:
        self._call(server, "read", {"path": self._uris[name]}, may_be_refused=True, away=away)

    def _resource(self, server: StdioServer, name: str) -> None:
        if (uri := self._uris[name]).startswith("storage://"):
            answer = server.ask("resources/read", {"uri": uri})
            if "error" in answer and self._faulty is not None:
                self.seen.named = True
            elif answer.get("result", {}).get("contents", [{}])[0].get("text") != f"content of {name}":
                self.seen.wrong.append(f"resources/read says {answer}")

    def _settle(self, server: StdioServer) -> None:
        seconds = 0.5 if self._faulty else 20.0
        if self._order(server, "settle", {"seconds": seconds}) != "settled" and not self._faulty:
            self.seen.wrong.append("not everything was sent")

    def _order(self, server: StdioServer, tool: str, arguments: Json) -> str:
        answer = server.ask("tools/call", {"name": tool, "arguments": arguments})
        text: str = answer["result"]["content"][0]["text"] if "result" in answer else json.dumps(answer)
        return text

    def _call(
        self,
        server: StdioServer,
        tool: str,
        arguments: Json,
        conversation: str | None = None,
        *,
        may_be_refused: bool = False,
        away: bool = False,
    ) -> Json:
        number, self._calls = self._calls, self._calls + 1
        named = (
            arguments if self._bare is None or conversation is None else arguments | {"continuation_id": conversation}
        )
        answer = server.ask("tools/call", {"name": tool, "arguments": named})
        result: Json | None = answer.get("result")
        if result is None:
            self.seen.wrong.append(f"{tool} {arguments} was answered {answer}")
            return {"content": [{"type": "text", "text": ""}], "_meta": {}}
        if self._bare is None:
            self.results.append(self._without_additions(result))
            return result
        meta = result.get("_meta", {})
        if meta.get("perdure/persisted"):
            self.seen.acknowledged.append(meta["perdure/turn-id"])
        left_alone = bool(meta.get("perdure/files", {}).get("left"))  # with the reason
        self.seen.named |= ("perdure/fault" in meta or left_alone) and not away
        # A tool that cannot be given its file is not run.
        refused = may_be_refused and self._faulty is not None and _REFUSAL.match(result["content"][0].get("text", ""))
        if not refused and (found := self._without_additions(result)) != self._bare[number]:
            self.seen.wrong.append(f"{tool} {arguments}: {json.dumps(found)[:500]} and not {self._bare[number]}")
        return result

    def _without_additions(self, result: Json) -> Json:
        """What of `result` is the tool's own, files under their local names."""
        meta = result.get("_meta", {})
        announcement = f"[continuation_id: {meta.get('perdure/continuation-id')}]"
        found = {
            **result,
            "_meta": {key: value for key, value in meta.items() if not key.startswith("perdure/")},
            "content": [block for block in result["content"] if not block.get("text", "").startswith(announcement)],
        }
        structured = found.get("structuredContent")
        if isinstance(structured, dict) and "perdure/continuation-id" in meta:
            found["structuredContent"] = {key: of for key, of in structured.items() if key != "continuation_id"}
        local: Json = json.loads(_URI.sub(r"\1", json.dumps(found).replace(f"{self._folder}/out/", "")))
        return local


_URI = re.compile(r"storage://mcp-files/local/[0-9a-f]{64}/([a-z.]+)")
_REFUSAL = re.compile(
    r"(Error executing tool read: )?(storage://\S+ could not be brought back now|There is no file storage://)"
)


class Databases:
    """A Postgres with a migrated database for each run; no database is needed for SQLite."""

    def __init__(self, cluster: PostgresCluster | None) -> None:
        self._cluster = cluster
        self._made = 0
        if cluster is not None:
            template = cluster.create_database("template")
            migrations.apply(cluster.url(template), template, lambda _: None)

    def environment(self, backend: Backend) -> Mapping[str, str]:
        if backend == "sqlite":
            return {"PERDURE_BACKEND": "sqlite"}
        assert self._cluster is not None
        self._made += 1
        if self._made > 1:
            self._cluster.drop_database(f"run_{self._made - 1}")
        name = self._cluster.create_database(f"run_{self._made}", template="template")
        return {"PERDURE_BACKEND": "postgres", "PERDURE_DATABASE_URL": self._cluster.url(name)}


def bare_results(databases: Databases) -> list[Json]:
    scenario = Scenario("sqlite", databases, None)
    assert not scenario.run().wrong, scenario.seen.wrong
    return scenario.results


def known() -> dict[str, bool]:
    """The boundaries that are known. True: nothing needs to be said when it fails, since nothing comes of it."""
    lines = [line.split("#")[0].rstrip() for line in LIST.read_text().splitlines()] if LIST.exists() else []
    return {line.removeprefix("silent: "): line.startswith("silent: ") for line in lines if line}


def unlisted(reached: Mapping[str, int]) -> list[str]:
    return sorted(reached.keys() - known().keys())


def inject(
    backend: Backend, databases: Databases, bare: list[Json], name: str, kind: Kind, *, silent: bool
) -> tuple[Counter[str], list[str]]:
    """One run with a fault. Returns figures and violations."""
    seen = Scenario(backend, databases, bare, name, kind).run()
    figures = Counter(runs=1, fired=bool(seen.fired), faults=seen.fired, acknowledged=len(seen.acknowledged))
    figures[f"{kind} runs"] += bool(seen.fired)
    # What is done about a fault may fail as well, and is reached only then.
    wrong = seen.wrong + [f"the boundary {found!r} is not listed in {LIST.name}" for found in unlisted(seen.counts)]
    if seen.fired and not silent and not seen.named and kind != "hang":
        wrong.append("the fault is named nowhere")
    return figures, [f"{backend}: {kind} at {name}: {said}" for said in wrong]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=get_args(Backend), action="append", help="default: each")
    parser.add_argument("--kind", choices=get_args(Kind), action="append", help="default: each")
    parser.add_argument("--list", action="store_true", help="only say what there is, and how often it is reached")
    parser.add_argument("--only", default="", help="boundaries whose names hold this")
    parser.add_argument("--sample", type=int, help="so many boundaries, instead of all")
    parser.add_argument("--seed", type=int, default=20261125)
    given = parser.parse_args()
    backends: Sequence[Backend] = given.backend or get_args(Backend)
    kinds: Sequence[Kind] = given.kind or get_args(Kind)
    progress = Progress("_".join(["every_boundary", *backends, *kinds]), vars(given))
    with ExitStack() as until_the_end:
        cluster = until_the_end.enter_context(PostgresCluster(fsync=False)) if "postgres" in backends else None
        databases = Databases(cluster)
        reached, violations = Counter[str](), []
        listed = known()
        bare = bare_results(databases)
        for backend in backends:
            seen = Scenario(backend, databases, bare).run()
            violations += [f"{backend}, without a fault: {said}" for said in seen.wrong]
            violations += [
                f"{backend}: the boundary {name!r} is not listed in {LIST.name}" for name in unlisted(seen.counts)
            ]
            for name, count in sorted(seen.counts.items()) if given.list else ():
                print(f"{count:6} {backend:8} {name}")
            reached.update({(backend, name): count for name, count in seen.counts.items()})
        if not given.list:
            _inject_all(reached, kinds, databases, bare, listed, progress, given)
            violations += progress.violations
    counts = progress.counts
    names = {name for _, name in reached}
    print(
        f"{len(names)} boundaries on {', '.join(backends)}, reached {sum(reached.values()):,} times without a fault; "
        f"{counts['runs']} runs with one, in which it took place {counts['faults']:,} times; "
        f"{counts['acknowledged']:,} turns acknowledged all the same; {len(violations)} violations"
    )
    for violation in violations:
        print(violation, file=sys.stderr)
    progress.end()
    return 1 if violations else 0


def _inject_all(
    reached: Any,
    kinds: Sequence[Kind],
    databases: Databases,
    bare: list[Json],
    listed: Any,
    progress: Progress,
    given: Any,
) -> None:
    first = {
        name: backend for backend, name in reversed(list(reached)) if given.only in name
    }  # code that all share: once
    chosen = sorted((backend, name) for name, backend in first.items())
    if given.sample:
        chosen = sorted(random.Random(given.seed).sample(chosen, min(given.sample, len(chosen))))
    for number, (backend, name, kind) in enumerate((*of, kind) for of in chosen for kind in kinds):
        if number < progress.counts["runs"]:
            continue
        progress.add(*inject(backend, databases, bare, name, kind, silent=listed.get(name, False)))


if __name__ == "__main__":
    sys.exit(main())
