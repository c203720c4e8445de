"""Secrets are replaced wherever they stand, what is not a secret is left alone, and no text makes it slow."""

import json
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.middleware.persistence.redaction import Redactor
from perdure.middleware.persistence.turn import Json

redactor = Redactor()

UPPER, LOWER, DIGITS, HEX = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz", "0123456789", "0123456789abcdef"
ALNUM = UPPER + LOWER + DIGITS
URLSAFE = ALNUM + "_-"


def some(alphabet: str, at_least: int, at_most: int | None = None) -> st.SearchStrategy[str]:
    return st.text(alphabet, min_size=at_least, max_size=at_most or at_least)


def joined(*parts: str | st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*(st.just(part) if isinstance(part, str) else part for part in parts)).map("".join)


def pem(kind: str, line_end: str) -> st.SearchStrategy[str]:
    """A private key as `openssl` writes it: lines of 64 characters, the last one shorter and padded or not."""
    lines = st.lists(some(ALNUM + "+/", 64), min_size=1, max_size=30).map(line_end.join)
    last = joined(some(ALNUM + "+/", 1, 62), st.sampled_from(["", "=", "=="]))
    begin, end = f"-----BEGIN {kind}PRIVATE KEY-----{line_end}", f"{line_end}-----END {kind}PRIVATE KEY-----"
    return joined(begin, lines, line_end, last, end)


# As their issuers document them, or as real (revoked) ones look; not taken from the patterns under test.
SECRETS: dict[str, tuple[str, st.SearchStrategy[str]]] = {
    "Anthropic": ("anthropic-key", joined("sk-ant-api03-", some(URLSAFE, 93), "AA")),
    "OpenAI, of a user": ("openai-key", joined("sk-", some(ALNUM, 20), "T3BlbkFJ", some(ALNUM, 20))),
    "OpenAI, of a project": ("openai-key", joined("sk-proj-", some(URLSAFE, 74), "T3BlbkFJ", some(URLSAFE, 73), "A")),
    "OpenAI, of a service": ("openai-key", joined("sk-svcacct-", some(URLSAFE, 74), "T3BlbkFJ", some(ALNUM, 74))),
    "DeepSeek": ("openai-key", joined("sk-", some(HEX, 32))),
    "Moonshot": ("openai-key", joined("sk-", some(ALNUM, 48))),
    "OpenRouter": ("openai-key", joined("sk-or-v1-", some(HEX, 64))),
    "GitHub": ("github-token", joined("gh", st.sampled_from("pousr"), "_", some(ALNUM, 36))),
    "GitHub, fine-grained": ("github-token", joined("github_pat_", some(ALNUM, 22), "_", some(ALNUM, 59))),
    "GitLab": ("gitlab-token", joined("glpat-", some(ALNUM, 20))),
    "Slack, of a bot": ("slack-token", joined("xoxb-", some(DIGITS, 12), "-", some(DIGITS, 12), "-", some(ALNUM, 24))),
    "Slack, of an app": ("slack-token", joined("xapp-1-A", some(UPPER, 10), "-", some(DIGITS, 13), "-", some(HEX, 64))),
    "AWS": ("aws-access-key", joined(st.sampled_from(["AKIA", "ASIA"]), some(UPPER + "234567", 16))),
    "Google": ("google-key", joined("AIza", some(ALNUM, 35))),
    "Stripe": ("stripe-key", joined(st.sampled_from(["sk_live_", "sk_test_", "rk_live_"]), some(ALNUM, 24, 99))),
    "Supabase": ("supabase-key", joined("sb_secret_", some(URLSAFE, 31))),
    "Supabase, personal": ("supabase-key", joined("sbp_", some(HEX, 40))),
    "Hugging Face": ("huggingface-token", joined("hf_", some(UPPER + LOWER, 34))),
    "npm": ("npm-token", joined("npm_", some(ALNUM, 36))),
    "PyPI": ("pypi-token", joined("pypi-AgEIcHlwaS5vcmc", some(ALNUM, 150))),
    "JWT": ("jwt", joined("eyJ", some(ALNUM, 17), ".eyJ", some(URLSAFE, 30), ".", some(ALNUM, 43))),
    "private key": ("private-key", pem("", "\n")),
    "private key, RSA": ("private-key", pem("RSA ", "\r\n")),
    "private key, OpenSSH": ("private-key", pem("OPENSSH ", "\n")),
    "private key, in JSON": ("private-key", pem("EC ", "\\n")),
    "private key, in JSON in JSON": ("private-key", pem("", "\\\\n")),
}

CLEAN = (
    "",
    "ask-someone, task-force, risk-assessment-of-a-large-organisation",
    "sk-SK is Slovak",
    '<div class="sk-toggleable__label-arrow sk-estimator-doc-link">',
    "The standard bearer responsibilities are listed below.",
    "Use bearer authentication/authorization for this endpoint.",
    "eyJ is how a JSON Web Token starts",
    "https://example.com:8443/path?user=a@b.example#frag",
    "git@github.com:owner/repository.git and ssh://git@github.com/owner/repository",
    "http://[::1]:8080/ at 12:30, mailto:someone@example.com",
    "-----BEGIN CERTIFICATE-----\nMIIDdzCCAl+gAwIBAgIEAgAAuTANBgkqhkiG9w0BAQUFADBa\n-----END CERTIFICATE-----",
    "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----",
    "commit 355afc39c95752c4e8da4fd08607ac95d51066a8, id 019b7989-8853-759a-b04e-68de0c22f936",
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJ",
    "AKIA and ASIA are prefixes; sk_live_ and ghp_ too; xoxb- as well",
    "the password is asked for on the next page",
)


@pytest.mark.parametrize("name", SECRETS)
@settings(max_examples=25)
@given(data=st.data())
def test_a_secret_is_replaced_and_the_text_around_it_stays(name: str, data: st.DataObject) -> None:
    kind, secrets = SECRETS[name]
    before = data.draw(st.sampled_from(["", "my key: ", "KEY=", '{"key": "', "(", "see\n\t", "ключ "]))
    after = data.draw(st.sampled_from(["", " is it", "\n", '"}', ")", ", or so", "; exit 1"]))
    assert redactor.text(before + data.draw(secrets) + after) == f"{before}[redacted:{kind}]{after}"


@given(some(ALNUM + "._~+/-", 20, 200), st.sampled_from(["Bearer ", "bearer ", "BEARER "]))
def test_what_follows_bearer_is_replaced(token: str, bearer: str) -> None:
    token = f"a1{token}"
    assert (
        redactor.text(f"Authorization: {bearer}{token}\nnext")
        == f"Authorization: {bearer}[redacted:bearer-token]\nnext"
    )


@given(some(ALNUM + "._%+", 0, 40), some(ALNUM + ".!$%&*()_+=", 1, 80))
def test_a_password_in_a_url_is_replaced(user: str, password: str) -> None:
    found = redactor.text(f"psql postgresql://{user}:{password}@db.example:5432/app")
    assert found == "psql postgresql://[redacted:url-password]@db.example:5432/app"


@given(st.lists(st.sampled_from(sorted(SECRETS)).flatmap(lambda name: SECRETS[name][1]), min_size=1, max_size=4))
def test_several_secrets_in_one_text_are_all_replaced_and_doing_it_again_changes_nothing(secrets: list[str]) -> None:
    once = redactor.text("; ".join(secrets))
    assert not any(secret in once for secret in secrets)
    assert once.count("[redacted:") == len(secrets)
    assert redactor.text(once) == once


@pytest.mark.parametrize("text", CLEAN)
def test_what_only_looks_like_a_secret_is_left_alone(text: str) -> None:
    assert redactor.text(text) == text


@given(st.lists(st.text(LOWER + DIGITS + "äß", max_size=12) | st.sampled_from([" ", ". ", ": ", "\n", "@", "/"])))
def test_words_are_left_alone(words: list[str]) -> None:
    text = " ".join(words)
    assert redactor.text(text) == text


# ── in JSON ──────────────────────────────────────────────────────────────────────────────────────────────────

TOKEN = "ghp_" + "a1B2" * 9

harmless = st.text(LOWER, max_size=6).filter(
    lambda name: not any(word in name for word in ("key", "token", "secret", "pass"))
)

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(LOWER + " ", max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(harmless, inner, max_size=4),
    max_leaves=15,
)


@given(plain)
def test_json_without_secrets_comes_out_as_it_went_in(value: Json) -> None:
    assert json.dumps(redactor.json(value)) == json.dumps(value)
    assert redactor.finds_nothing_in(value)


@given(plain, st.lists(st.sampled_from(["list", "member", "name"]), min_size=1, max_size=6))
def test_a_secret_is_replaced_at_any_depth_and_in_names(beside: Json, path: list[str]) -> None:
    def around(secret: str) -> Json:
        value: Json = f"token {secret}"
        for step in path:
            match step:
                case "list":
                    value = [beside, value, beside]
                case "member":
                    value = {"beside": beside, "value": value}
                case _:
                    value = {f"by {secret}": value}
        return value

    assert json.dumps(redactor.json(around(TOKEN))) == json.dumps(around("[redacted:github-token]"))


@given(
    st.recursive(
        st.none()
        | st.integers()
        | st.sampled_from(["a", "", 'say "so": yes', '{"password": "hunter2"}', "k: 1", "-_@"])
        | st.sampled_from(sorted(SECRETS)).flatmap(lambda name: SECRETS[name][1]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["a", "token", "api_key", "AKIAQYLPMN5HHHFPZAM2"]), inner, max_size=3)
        ),
        max_leaves=5,
    )
)
def test_nothing_is_found_only_in_what_would_come_out_as_it_went_in(value: Json) -> None:
    assert Redactor().json(value) == value or not Redactor().finds_nothing_in(value)


def test_a_name_that_was_a_secret_or_had_one_in_it_is_found_again_each_time() -> None:
    redactor = Redactor(patterns=["EMP-[0-9]+"])
    for _ in range(2):
        assert redactor.finds_nothing_in({"note": "a", "count": 1})
        assert not redactor.finds_nothing_in({"note": "a", "password": "b"})
        assert not redactor.finds_nothing_in({"note": "a", "EMP-1": 1})
        assert not redactor.finds_nothing_in({"note": "EMP-1", "count": 1})


def test_the_value_given_in_is_not_changed() -> None:
    value = {"a": [TOKEN, {"password": "hunter2"}]}
    redactor.json(value)
    assert value == {"a": [TOKEN, {"password": "hunter2"}]}


@pytest.mark.parametrize(
    "name",
    [
        "password", "PASSWORD", "db_password", "passphrase", "client_secret", "clientSecret", "secret", "api_key",
        "apikey", "apiKey", "OPENAI_API_KEY", "access_token", "accessToken", "refresh_token", "id_token", "private_key",
        "authorization", "Authorization", "Proxy-Authorization", "author\u0131zation",
        "x-api-key", "X-Api-Key", "refresh-token", "aws_secret_access_key", "dbPassword",
    ],
)  # fmt: skip
def test_a_text_under_a_name_that_says_secret_is_replaced_whole(name: str) -> None:
    assert redactor.json({name: "hunter2 and more"}) == {name: f"[redacted:{name.lower()}]"}


@given(
    st.lists(st.text() | st.sampled_from(['"', "\\", "\0", "\n", "\ud800"]), max_size=8).map(
        lambda parts: "x" + "".join(parts)
    ),
    st.booleans(),
    st.sampled_from([None, 2]),
)
def test_a_member_of_a_json_text_is_replaced_by_its_name_too(value: str, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps({"user": "alice", "password": value, "more": [1]}, ensure_ascii=ascii_only, indent=indent)
    assert json.loads(redactor.text(text)) == {"user": "alice", "password": "[redacted:password]", "more": [1]}


@pytest.mark.parametrize("name", ["\u017fecret", "pa\u017f\u017fword", "author\u0131zation", "AUTHOR\u0130ZATION"])
def test_a_member_of_a_json_text_whose_name_only_looks_like_other_letters_is_replaced_too(name: str) -> None:
    found = redactor.text(json.dumps({"user": "alice", name: "hunter2 and more"}, ensure_ascii=False))
    assert list(json.loads(found).values()) == ["alice", f"[redacted:{name.lower()}]"]


@given(
    st.lists(st.text() | st.sampled_from(['"', "\\", "\n", "ü"]), max_size=8).map(lambda parts: "x" + "".join(parts))
)
def test_a_member_of_a_json_text_within_a_json_text_is_replaced_too(value: str) -> None:
    text = json.dumps({"content": json.dumps({"user": "alice", "password": value, "more": [1]})})
    found = json.loads(json.loads(redactor.text(text))["content"])
    assert found == {"user": "alice", "password": "[redacted:password]", "more": [1]}


@pytest.mark.parametrize(
    "name",
    ["prompt", "secretary", "token_count", "max_tokens", "passwordless", "author", "api_keys_url", "key", "tokens"],
)
def test_a_text_under_another_name_is_left_alone(name: str) -> None:
    assert redactor.json({name: "hunter2 and more"}) == {name: "hunter2 and more"}


@pytest.mark.parametrize("secret", [12345678, 1234.5678, ["hunter2", "hunter3"]], ids=repr)
def test_a_secret_that_is_no_text_is_replaced_too(secret: Json) -> None:
    assert not any(leaf in json.dumps(redactor.json({"password": secret})) for leaf in ("hunter", "1234"))


def test_of_a_secret_with_parts_the_shape_stays_and_every_leaf_is_replaced() -> None:
    parts = {"user": "alice", "pins": [1234, "5678", None, ["90"]], "set": True, "more": {"": 1.5}}
    hidden = "[redacted:credentials_secret]"
    assert redactor.json({"credentials_secret": parts}) == {
        "credentials_secret": {
            "user": hidden,
            "pins": [hidden, hidden, None, [hidden]],
            "set": True,
            "more": {"": hidden},
        }
    }


@pytest.mark.parametrize("before", ["", " ", "\n\t"], ids=repr)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"password": 12345678, "n": 1}', '{"password": "[redacted:password]", "n": 1}'),
        ('[{"password": ["hunter2", 5]}]', '[{"password": ["[redacted:password]", "[redacted:password]"]}]'),
        ('{"ü": {"api_key": -1.5}}', '{"ü": {"api_key": "[redacted:api_key]"}}'),
        ('{\n  "password": 1\n}', '{\n  "password": "[redacted:password]"\n}'),
    ],
)
def test_numbers_and_lists_in_a_json_text_are_replaced_by_their_name_too(before: str, text: str, expected: str) -> None:
    if "\n" in before and "\n" not in text:
        expected = json.dumps(json.loads(expected), ensure_ascii=False, indent=2)
    assert redactor.text(before + text) == expected


@pytest.mark.parametrize("text", ['{"password":  true,"n":1}', 'see {"password": 1', '{"n":  [1] ,"secretary":5}'])
def test_a_json_text_without_such_a_secret_keeps_every_character(text: str) -> None:
    assert redactor.text(text) == text


@pytest.mark.parametrize("nothing", [None, "", True, False, [], {}], ids=repr)
def test_that_there_is_no_secret_is_not_hidden(nothing: Json) -> None:
    assert redactor.json({"password": nothing}) == {"password": nothing}


def test_no_member_is_lost_where_names_are_secrets() -> None:
    value = {f"{TOKEN}{number}": number for number in range(3)}
    found = redactor.json(value)
    assert sorted(found.values()) == [0, 1, 2]
    assert TOKEN not in json.dumps(found)


def test_switched_off_it_replaces_only_what_was_asked_for() -> None:
    only = Redactor(enabled=False, patterns=["EMP-[0-9]+"])
    value = {"password": "hunter2", "text": f"EMP-1234 has {TOKEN}"}
    assert only.json(value) == {"password": "hunter2", "text": f"[redacted:pattern] has {TOKEN}"}
    assert Redactor(patterns=["EMP-[0-9]+"]).json(value) == {
        "password": "[redacted:password]",
        "text": "[redacted:pattern] has [redacted:github-token]",
    }


# ── in linear time ───────────────────────────────────────────────────────────────────────────────────────────

HOSTILE = (
    "-----BEGIN PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\n",
    "-----BEGIN RSA PRIVATE KEY-----" + "A" * 19 + "\n",
    "-----BEGIN PRIVATE KEY-----" + " " * 60,
    "-----BEGIN PRIVATE KEY-----" + "A" * 76 + "-----END ",
    "-----BEGIN A A A ",
    "PRIVATE KEY-----\\n",
    "Proc-Type: PRIVATE KEY-----",
    "://a:",
    "://" + "a" * 200 + ":",
    "://:@:",
    "eyJ",
    "-eyJ",
    ".eyJ",
    "eyJaaaaaaaaaa.",
    "-eyJaaaaaaaaaa.eyJaaaaaaaaaa",
    "sk-",
    " sk-",
    "sk-ant-",
    "-sk-ant-a ",
    "ghp_",
    "-github_pat_",
    "glpat-",
    "xox",
    "-xoxb-",
    "AKIA",
    "AIza",
    "sk_live_",
    "sb_secret_",
    "pypi-AgE",
    "hf_",
    "npm_",
    "bearer ",
    "Bearer a=",
    '"password":"',
    '"password":"\\',
    '\\"secret\\":\\"',
    '"secret"',
    '"-',
    '"' + "-" * 60,
)


@pytest.mark.parametrize("piece", HOSTILE, ids=repr)
def test_time_is_linear_in_the_text(piece: str) -> None:
    """From a size that takes a measurable while, a text four times as long takes about four times, not sixteen."""
    size = 4_000
    while (once := _seconds(piece, size)) < 0.01 and size < 4_000_000:
        size *= 2
    assert _seconds(piece, size * 4) < once * 8 + 0.01


@pytest.mark.parametrize("count_of", ["texts", "members", "names that are secrets"])
def test_time_is_linear_in_the_json(count_of: str) -> None:
    def value(size: int) -> Json:
        match count_of:
            case "texts":
                return [TOKEN] * size
            case "members":
                return {f"{number}": "text" for number in range(size)}
            case _:
                return {f"{TOKEN}{number}": "text" for number in range(size)}

    few, many = value(500), value(2_000)
    assert _best(lambda: redactor.json(many)) < _best(lambda: redactor.json(few)) * 8 + 0.01


def _seconds(piece: str, size: int) -> float:
    text = (piece * (size // len(piece) + 1))[:size]
    return _best(lambda: redactor.text(text))


def _best(work: Callable[[], object]) -> float:
    """The processor time of the quickest of three runs: others on this machine do not count."""
    times = []
    for _ in range(3):
        started = time.thread_time()
        work()
        times.append(time.thread_time() - started)
    return min(times)
