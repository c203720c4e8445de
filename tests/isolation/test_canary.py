"""The campaign finds what it is there to find: each wall is taken down in turn, and it must notice."""

from collections.abc import Callable

import pytest
from isolation.campaign import Campaign, Report
from isolation.conftest import Settled

TABLES = ("chat_sessions", "chat_messages", "chat_files")

OWN = {
    "chat_messages": "user_id = public.chat_subject()",
    "chat_files": "user_id = public.chat_subject() and split_part(key, '/', 1) = public.chat_tenant(user_id)",
}

CALLS_TO_ANON = "grant execute on all functions in schema public to anon"

OPENED = {
    **{f"row security of {table} off": f"alter table public.{table} disable row level security" for table in TABLES},
    "row security of storage.objects off": "alter table storage.objects disable row level security",
    **{
        f"policy own of {table} lets all through": f"alter policy own on public.{table} using (true)"
        for table in TABLES
    },
    **{
        f"policy server of {table} is for everybody": f"alter policy server on public.{table} to public"
        for table in TABLES
    },
    **{
        f"{table} may be written into anybody's conversation": f"alter policy own on public.{table} with check ({own})"
        for table, own in OWN.items()
    },
    "chat_messages may be truncated": "grant truncate on public.chat_messages, public.chat_words to authenticated",
    "chat_files may be truncated": "grant truncate on public.chat_files to authenticated",
    "all may be truncated": f"grant truncate on public.{', public.'.join(TABLES)} to authenticated",
    **{f"{table} is shown to anon": f"grant select on public.{table} to anon; {CALLS_TO_ANON}" for table in TABLES},
    **{
        f"{function} runs with its owner's rights": f"alter function public.{function} security definer"
        for function in (
            "begin_turn",
            "read_turns",
            "list_conversations",
            "list_conversations_with_ends",
            "list_files",
            "search_messages",
            "find_messages",
            "begin_turn_up_to",
            "begin_turn_in_line",
            "begin_turns",
            "read_turns_in_line",
            "chat_turns",
        )
    },
    "anon may call the functions": CALLS_TO_ANON,
}

# Of each function that a trusted caller calls: what makes it keep to its principal, and what is left without.
UNBOUND = {
    "begin_turn finds anybody's conversation": (
        "begin_turn",
        "x.continuation_id = wanted and x.user_id = principal for no key", "x.continuation_id = wanted for no key",
    ),
    "begin_turn repeats anybody's turn": ("begin_turn", "or q.user_id <> principal", ""),
    "finish_turn ends anybody's turn": ("finish_turn", "or q.user_id <> principal", ""),
    "begin_turns finds anybody's conversation": (
        "begin_turns",
        "x.continuation_id = w.continuation_id and x.user_id = w.user_id", "x.continuation_id = w.continuation_id",
        "g.user_id = x.user_id and", "",
    ),
    "begin_turns reads anybody's history": (
        "begin_turns",
        "x.continuation_id = w.continuation_id and x.user_id = w.user_id", "x.continuation_id = w.continuation_id",
        "g.user_id = x.user_id and", "",
        "and m.user_id = b.user_id", "",
    ),
    "finish_turns ends anybody's turn": ("finish_turns", "and m.user_id = t.user_id", ""),
    "read_turns reads anybody's": ("read_turns", "and x.user_id = principal", ""),
    "list_conversations lists anybody's": ("list_conversations", "where x.user_id = principal and", "where"),
    "list_conversations looks up anybody's": (
        "list_conversations", "and (principal is null or x.user_id = principal)", "",
    ),
    "list_files lists anybody's": (
        "list_files",
        "narrowed text := 'f.user_id = $1'", "narrowed text := '$1 is not null'",
        "x.id = f.session_id and x.user_id = $1", "x.id = f.session_id",
    ),
    "list_files finds anybody's conversation": (
        "list_files",
        "list_files.continuation_id and x.user_id = principal", "list_files.continuation_id",
        "x.id = f.session_id and x.user_id = $1", "x.id = f.session_id",
    ),
    "delete_conversation deletes anybody's": (
        "delete_conversation", "and x.user_id = principal for update", "for update",
    ),
    "search_messages searches anybody's": (
        "search_messages",
        "where m.user_id = principal and s.user_id = principal", "where true",
        "chat_found(asked, principal)", "chat_found(asked, null)",
    ),
    "find_messages searches anybody's": (
        "find_messages", "and m.user_id = $1 and s.user_id = $1", "", "chat_found($2, $1)", "chat_found($2, null)",
    ),
    "remove_conversation removes anybody's": (
        "remove_conversation", "and x.user_id = principal", "",
    ),
}  # fmt: skip


@pytest.fixture
def campaign(settled_anew: Settled) -> Callable[..., Report]:
    def run(*ways: str, attempts: int = 6000) -> Report:
        fresh = Campaign(settled_anew.project, settled_anew.database, settled_anew.tenants, seed=7)
        return fresh.run({way: attempts // len(ways) for way in ways}, stop_at_first=True, look_every=40)

    return run


@pytest.mark.parametrize("opened", OPENED)
def test_the_campaign_fails_when(opened: str, settled_anew: Settled, campaign: Callable[..., Report]) -> None:
    settled_anew.project.owner(settled_anew.database, OPENED[opened])
    assert campaign("anon" if "anon" in opened else "authenticated").leaks != []


@pytest.mark.parametrize("table", TABLES)
def test_the_campaign_is_not_content_when_nobody_sees_anything(
    table: str, settled_anew: Settled, campaign: Callable[..., Report]
) -> None:
    settled_anew.project.owner(settled_anew.database, f"drop policy own on public.{table}")
    assert campaign("authenticated", attempts=40).blind != []


@pytest.mark.parametrize("unbound", UNBOUND)
def test_the_campaign_fails_with_the_service_key_when(
    unbound: str, settled_anew: Settled, campaign: Callable[..., Report]
) -> None:
    _unbind(settled_anew, *UNBOUND[unbound])
    assert campaign("service_role").leaks != []


def test_the_campaign_fails_through_the_store_when_a_function_forgets_its_principal(
    settled_anew: Settled, campaign: Callable[..., Report]
) -> None:
    _unbind(settled_anew, *UNBOUND["read_turns reads anybody's"])
    assert campaign("store").leaks != []


def test_row_security_holds_when_the_functions_trust_everybody(
    settled_anew: Settled, campaign: Callable[..., Report]
) -> None:
    """So for a user's token the functions' own care is a second wall, and not the only one."""
    settled_anew.project.owner(
        settled_anew.database,
        "create or replace function public.chat_trusted() returns boolean language sql stable as 'select true'",
    )
    report = campaign("authenticated", attempts=500)
    assert (report.leaks, report.blind) == ([], [])


def test_row_security_is_on_and_forced_on_every_table(settled_anew: Settled) -> None:
    """The campaign cannot see a lost `force`: it binds only the owner, who has a policy for all rows."""
    lost = settled_anew.project.superuser(
        settled_anew.database,
        "select relname, relrowsecurity, relforcerowsecurity from pg_class where relkind in ('r', 'p', 'v', 'm') "
        "and relnamespace = 'public'::regnamespace and not (relrowsecurity and relforcerowsecurity) order by 1",
    )
    assert lost == [("perdure_migrations", True, False)]  # the owner has no policy there, and must record


def _unbind(settled: Settled, function: str, *walls_and_holes: str) -> None:
    rewrite(settled, function, *walls_and_holes)
    rewrite(settled, "chat_turns", "q.user_id = chat_turns.principal", "true")  # it looks at the principal once more


def rewrite(settled: Settled, function: str, *walls_and_holes: str) -> None:
    statement = f"select pg_get_functiondef('public.{function}'::regproc)"
    ((source,),) = settled.project.superuser(settled.database, statement)
    for wall, hole in zip(walls_and_holes[::2], walls_and_holes[1::2], strict=True):
        assert wall in source, "this wall stands elsewhere now"
        source = source.replace(wall, hole)
    settled.project.owner(settled.database, source)
