"""Each function by itself: text of the caller's is data and never SQL, and nobody's cursor leads to another's rows."""

import json
import re

import pytest
from isolation.conftest import Settled
from isolation.supabase_like import Api, Reply, token
from isolation.tenants import SHARED_ID

NOTHING = {
    "read_turns": {"turns": []},
    "list_conversations": {"conversations": []},
    "list_conversations_with_ends": {"conversations": []},
    "list_files": {"files": []},
    "search_messages": {"hits": []},
    "find_messages": {"hits": []},
}
"""What each function that reads says where there is nothing."""

INJECTIONS = [
    "' or true --",
    "'; select set_config('role', 'service_role', true); --",
    "x' union all select content, content from public.chat_messages --",
    "$1",
    "f.user_id",
    ") or (true",
    "\\'; drop table public.chat_files; --",
    "%",
    "_____",
    "$$ or true $$",
    "'||(select string_agg(content, '') from public.chat_messages)||'",
    "\u02bc or true --",
]

ROLES = [("authenticated", "mallory"), ("service_role", "mallory")]


@pytest.mark.parametrize("role", ["authenticated", "service_role"])
@pytest.mark.parametrize("text", INJECTIONS)
def test_text_never_becomes_sql(text: str, role: str, api: Api, settled: Settled) -> None:
    calls = {
        "list_files('mallory', continuation_id => %s)": [text],
        "list_files('mallory', name => %s)": [text],
        "list_files('mallory', key => %s)": [text],
        "list_files('mallory', continuation_id => %s, name => %s, key => %s)": [text] * 3,
        "read_turns('mallory', %s)": [text],
        "list_conversations('mallory', continuation_id => %s)": [text],
        "list_conversations_with_ends('mallory', continuation_id => %s)": [text],
        "search_messages('mallory', %s, tool => %s, outcome => %s)": [text] * 3,
        "find_messages('mallory', tool => %s)": [text],
        "find_messages('mallory', 'asks', continuation_id => %s)": [text],
        "find_messages('mallory', 'asks', outcome => %s)": [text],
    }
    claims = json.dumps({"sub": "mallory"})
    for call, arguments in calls.items():
        reply = api.request(f"select public.{call}", arguments, role=role, claims=claims)
        assert (reply.rows, reply.error) == ([(NOTHING[call.split("(")[0]],)], None)


@pytest.mark.parametrize("text", INJECTIONS)
def test_text_in_place_of_the_user_is_a_user_without_rows(text: str, api: Api) -> None:
    for call in (
        "list_files(%s)",
        "list_conversations(%s)",
        "list_conversations_with_ends(%s)",
        "read_turns(%s, 'the-same-id')",
        "search_messages(%s, 'asks')",
        "find_messages(%s, 'asks')",
    ):
        reply = api.request(f"select public.{call}", [text], role="service_role")
        assert reply.rows == [(NOTHING[call.split("(")[0]],)]
        assert api.request(f"select public.{call}", [text], claims=json.dumps({"sub": "mallory"})).state == "42501"


@pytest.mark.parametrize("text", INJECTIONS)
def test_what_is_written_comes_back_as_it_was(text: str, api: Api) -> None:
    """So it was bound, not pasted: the proof that the tests above can fail is that hits are found by the same text."""
    line = {
        "name": text,
        "bucket": "b",
        "key": f"writer/{'e' * 64}/x",
        "sha256": "e" * 64,
        "size": 1,
        "media_type": text,
    }
    api.as_user(
        "writer",
        "select public.finish_turn(gen_random_uuid(), gen_random_uuid(), null, 'd', 'answered', 'a', null, 1, now(), "
        "%s, 'a-new-one', %s, 'c', null, now(), now())",
        [json.dumps([line]), text],
    )
    ((reply,),) = api.as_user(
        "writer", "select public.list_files(null, name => %s, continuation_id => 'a-new-one')", [text]
    ).rows
    (kept,) = reply["files"]
    assert (kept["name"], kept["media_type"]) == (text, text)
    ((reply,),) = api.as_user("writer", "select public.read_turns(null, 'a-new-one')").rows
    assert reply["turns"][-1]["tool"] == text


def test_functions_that_callers_reach_put_sql_together_of_their_own_words_alone(settled: Settled) -> None:
    dynamic = dict(
        settled.project.superuser(
            settled.database,
            r"select proname, prosrc from pg_proc where pronamespace = 'public'::regnamespace "
            r"and prosrc ~* '\mexecute\M' and has_function_privilege('service_role', oid, 'execute')",
        )
    )
    pasted = {name: _outside_of_quotes(text) for name, text in dynamic.items()}
    assert pasted == {"list_files": ["narrowed"], "find_messages": ["shown", "narrowed"], "store_status": []}
    chosen = re.findall(r"shown (?:text )?:= (.*?);", dynamic["find_messages"], re.DOTALL)
    assert len(chosen) == 3
    assert [text for text in chosen if re.sub(r"'([^']|'')*'", "", text)] == []
    for function in ("list_files", "find_messages"):
        narrowings = re.findall(r"narrowed (?:text )?:= (.*?);", dynamic[function])
        assert len(narrowings) >= 4
        assert [n for n in narrowings if re.sub(r"'[^']*'|narrowed|replace|[(), |]", "", n)] == []


def _outside_of_quotes(source: str) -> list[str]:
    """What stands between `execute` and `into` besides text in quotes."""
    executed = re.findall(r"execute\s(.*?)\sinto\s", source, re.DOTALL)
    assert len(executed) == len(re.findall(r"\bexecute\b", source))
    return " ".join("".join(text.split("'")[0::2]).replace("|", " ") for text in executed).split()


def test_no_function_runs_with_the_rights_of_another_or_finds_names_by_a_search_path(settled: Settled) -> None:
    loose = settled.project.superuser(
        settled.database,
        "select proname from pg_proc where pronamespace = 'public'::regnamespace and (prosecdef or proleakproof "
        "or not exists (select from unnest(proconfig) c where c like 'search\\_path=%'))",
    )
    assert loose == []


@pytest.mark.parametrize(("role", "user"), ROLES)
def test_a_cursor_of_another_s_pages_only_through_ones_own_list(
    role: str, user: str, api: Api, settled: Settled
) -> None:
    claims = json.dumps({"sub": user})
    everything = _conversations(api.request("select public.list_conversations('mallory')", role=role, claims=claims))
    assert len(everything) >= 6
    for line in settled.project.superuser(
        settled.database,
        "select updated_at, user_id, continuation_id from public.chat_sessions where user_id = 'alice'",
    ):
        for before_at in (line[0], "infinity", "2099-01-01Z"):
            page = api.request(
                "select public.list_conversations('mallory', null, %s, %s, %s)",
                [before_at, *line[1:]],
                role=role,
                claims=claims,
            )
            assert {found["user_id"] for found in _conversations(page)} <= {"mallory"}
    last = everything[2]
    page = api.request(
        "select public.list_conversations('mallory', null, %s, %s, %s)",
        [last["updated_at"], last["user_id"], last["continuation_id"]], role=role, claims=claims,
    )  # fmt: skip
    assert _conversations(page) == everything[3:], "the cursor does not page at all"


def _conversations(reply: Reply) -> list[dict[str, str]]:
    ((answer,),) = reply.rows
    found: list[dict[str, str]] = answer["conversations"]
    return found


def test_a_user_who_names_nobody_gets_his_own(api: Api) -> None:
    for call in (
        "list_files(null)",
        "list_conversations(null)",
        "list_conversations()",
        f"read_turns(null, '{SHARED_ID}')",
    ):
        reply = api.as_user("mallory", f"select public.{call}")
        ((answer,),) = reply.rows
        ((_, lines),) = answer.items()
        assert len(lines) >= 3
        assert "alice" not in reply.text


def test_the_service_key_must_name_somebody(api: Api) -> None:
    for call in (
        "list_files(%s)",
        "read_turns(%s, 'the-same-id')",
        "search_messages(%s, 'asks')",
        "chat_principal(%s)",
    ):
        for nobody in (None, ""):
            assert api.request(f"select public.{call}", [nobody], role="service_role").state == "22023"
    for call in ("list_conversations('')", "find_messages('', 'asks')"):
        assert api.request(f"select public.{call}", role="service_role").state == "22023"


def test_only_a_server_purges_and_nobody_but_the_owner_prepares_the_bucket(api: Api) -> None:
    for call in ("purge_expired()", "chat_prepare_storage()"):
        assert api.as_user("mallory", f"select public.{call}").state == "42501"
    assert api.request("select public.purge_expired()", role="service_role").error is None
    assert api.request("select public.chat_prepare_storage()", role="service_role").state == "42501"


def test_turns_of_another_s_session_are_none(api: Api, settled: Settled) -> None:
    own, theirs = settled.tenants["mallory"].known_sessions[0], settled.alice.known_sessions[0]
    call = "select public.chat_turns(%s, %s, '{1,2,3}')"
    for role in ("authenticated", "service_role"):
        claims = token("mallory")
        assert "canarymallory" in api.request(call, ["mallory", own], role=role, claims=claims).text
        assert api.request(call, ["mallory", theirs], role=role, claims=claims).rows == [([],)]
    assert api.as_user("mallory", call, ["alice", theirs]).rows == [([],)]
    assert "canaryalice" in api.request(call, ["alice", theirs], role="service_role").text


def test_no_file_is_kept_in_another_s_session(api: Api, settled: Settled) -> None:
    line = {"name": "x", "bucket": "b", "key": "mallory/k/x", "sha256": "e" * 64, "size": 1, "media_type": "x/y"}
    theirs = settled.alice.known_sessions[0]
    before = settled.project.superuser(settled.database, "select count(*) from public.chat_files")
    for principal in ("alice", "mallory"):
        for turn in (settled.alice.known_turn_ids[0], "00000000-0000-7000-8000-000000000000"):
            api.as_user(
                "mallory",
                "select public.chat_keep_file(%s, %s, %s, now(), %s)",
                [theirs, turn, principal, json.dumps(line)],
            )
    assert settled.project.superuser(settled.database, "select count(*) from public.chat_files") == before
    own = settled.tenants["mallory"].known_sessions[0]
    kept = api.as_user(
        "mallory", "select public.chat_keep_file(%s, gen_random_uuid(), 'mallory', now(), %s)", [own, json.dumps(line)]
    )
    assert kept.error is None, "it keeps no file at all"
