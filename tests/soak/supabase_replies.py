"""Many threads that write through a gateway which loses replies after COMMIT: every turn is there once.

    python tests/soak/supabase_replies.py --turns 1000 --threads 8 --lost 0.05

Prints one line with what it found. The exit code is 1 if anything was lost, doubled, torn apart or out of its place.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from servers.gateway_faults import drop_reply
from servers.postgres_cluster import PostgresCluster
from servers.supabase_stack import SupabaseStack
from soak.evidence import Evidence, answer_to

from perdure.middleware.persistence.stores.supabase import SupabaseStore
from perdure.middleware.persistence.supabase_api.client import SupabaseApi
from perdure.middleware.persistence.turn import Window
from perdure.testing.turns import a_turn, answered

CONVERSATIONS = ("one", "two", "three")
WINDOW = Window(20, 8_000)
RPC = "/rest/v1/rpc/"


@dataclass(frozen=True, kw_only=True)
class Found:
    violations: Sequence[str]
    turns: int
    messages: int
    acknowledged: int
    requests: int
    lost: int
    """Requests that were committed and given no reply."""
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.turns} turns and {self.messages} messages in Postgres, {self.acknowledged} turns acknowledged, "
            f"{self.requests} requests of which {self.lost} were given no reply after COMMIT, "
            f"{self.seconds:.1f} s, {len(self.violations)} violations"
        )


def write_all(stack: SupabaseStack, *, turns: int, threads: int, lost: float, seed: int) -> Found:
    """Write `turns` into an empty project, whose gateway loses that share of all replies."""
    evidence = Evidence()
    store = SupabaseStore(SupabaseApi(stack.url, stack.secret_key), timeout=30)

    def write(number: int) -> None:
        name, prompt = CONVERSATIONS[number % len(CONVERSATIONS)], f"prompt {number}"
        turn = a_turn(prompt, continuation_id=name)
        begun = store.begin(turn, WINDOW)
        evidence.begun[name, prompt] = begun.place
        finished = store.finish(answered(replace(turn, place=begun.place), answer_to(prompt)))
        evidence.finished[name, prompt] = finished.place

    stack.order(drop_reply().on(RPC, times=None, probability=lost, seed=seed))
    began = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write, range(turns)))
    seconds = time.monotonic() - began
    stack.clear_faults()
    requests = stack.requests
    violations = list(evidence.violations(store, CONVERSATIONS))
    store.close()
    [(messages, kept, pairs, dense)] = stack.execute(
        """
        select count(*), count(distinct turn_id),
          count(*) filter (where part = 1 and content = 'answer to ' || (
            select q.content from chat_messages q where q.turn_id = m.turn_id and q.part = 0)),
          (select bool_and(last_place = n and n = newest) from chat_sessions s, lateral (
            select count(*) as n, max(turn_seq) as newest from chat_messages x where x.session_id = s.id and x.part = 0
          ) counted)
        from chat_messages m
        """
    )
    if (kept, messages, pairs) != (turns, 2 * turns, turns):
        violations.append(f"{kept} turns, {messages} messages and {pairs} whole pairs, where {turns} were written")
    if not dense:
        violations.append("the places of a conversation have gaps")
    return Found(
        violations=violations,
        turns=kept,
        messages=messages,
        acknowledged=len(evidence.finished),
        requests=len(requests),
        lost=sum(request.fault == "drop_reply" for request in requests),
        seconds=seconds,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--lost", type=float, default=0.05, help="share of replies lost after COMMIT")
    parser.add_argument("--seed", type=int, default=20261125)
    given = parser.parse_args()
    with PostgresCluster(max_connections=100) as cluster, SupabaseStack(cluster, process=True) as stack:
        found = write_all(stack, turns=given.turns, threads=given.threads, lost=given.lost, seed=given.seed)
    print(found)
    for violation in found.violations[:20]:
        print(violation, file=sys.stderr)
    return 1 if found.violations else 0


if __name__ == "__main__":
    sys.exit(main())
