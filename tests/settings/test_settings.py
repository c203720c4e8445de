"""Settings: where they come from, which wins, and what is said of those that cannot be used."""

from pathlib import Path

import platformdirs
import pytest

from perdure.errors import SettingsError
from perdure.settings import Announce, HistoryMode, Settings, ToolSettings
from perdure.settings_loader import data_directory, load_settings, settings_file, tool_settings


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PERDURE_CONFIG", "PERDURE_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    for variable, folder in (("XDG_CONFIG_HOME", "config"), ("XDG_DATA_HOME", "data")):
        monkeypatch.setenv(variable, str(tmp_path / folder))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# ── where they come from ─────────────────────────────────────────────────────────────────────────────────────────


def test_without_any_settings_the_embedded_backend_is_used() -> None:
    settings = load_settings()

    assert settings.backend == "sqlite"
    assert data_directory(settings) == platformdirs.user_data_path("perdure")


def test_the_file_in_the_users_config_directory_is_read() -> None:
    write(platformdirs.user_config_path("perdure") / "perdure.toml", 'user_id = "me"')

    assert load_settings().user_id == "me"


def test_a_file_in_the_working_directory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "stranger" / "perdure.toml", 'user_id = "stranger"')
    monkeypatch.chdir(tmp_path / "stranger")

    assert settings_file() is None
    assert load_settings().user_id is None


def test_perdure_config_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_CONFIG", str(write(tmp_path / "mine.toml", 'user_id = "me"')))

    assert load_settings().user_id == "me"


def test_the_environment_stands_above_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_USER_ID", "from-environment")
    monkeypatch.setenv("PERDURE_DEFAULTS__MAX_TURNS", "3")
    file = write(tmp_path / "p.toml", 'user_id = "from-file"\n[defaults]\nmax_turns = 7\nmax_tokens = 9')

    settings = load_settings(file)

    assert settings.user_id == "from-environment"
    assert (settings.defaults.max_turns, settings.defaults.max_tokens) == (3, 9)


def test_the_data_directory_may_be_written_with_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_DATA_DIR", "~/kept")

    assert data_directory(load_settings()) == Path("~/kept").expanduser()


# ── which wins for one tool ──────────────────────────────────────────────────────────────────────────────────────


def policies(**tools: dict[str, object]) -> Settings:
    return Settings(tools={name: ToolSettings(**values) for name, values in tools.items()})


def test_a_tool_is_on_if_its_author_chose_so_and_otherwise_off() -> None:
    assert Settings().policy("chat", ToolSettings()).enabled is True
    assert Settings().policy("chat").enabled is False


def test_what_the_operator_sets_wins_over_the_author() -> None:
    author = ToolSettings(history=HistoryMode.PROMPT, max_turns=5)

    policy = policies(chat={"max_turns": 9}).policy("chat", author)

    assert (policy.history, policy.max_turns) == (HistoryMode.PROMPT, 9)


def test_the_operators_defaults_win_over_the_author_and_lose_to_the_tools_own_section() -> None:
    settings = Settings(defaults=ToolSettings(max_turns=1, max_tokens=2), tools={"chat": ToolSettings(max_tokens=3)})

    policy = settings.policy("chat", ToolSettings(max_turns=20, max_tokens=20))

    assert (policy.max_turns, policy.max_tokens) == (1, 3)


def test_the_most_specific_name_wins() -> None:
    settings = Settings(
        tools={
            "kimi_chat": ToolSettings(max_turns=4),
            "*": ToolSettings(max_turns=1, max_tokens=1),
            "kimi_*": ToolSettings(max_turns=3, max_tokens=3),
            "k*": ToolSettings(max_turns=2, max_tokens=2),
        }
    )

    assert (settings.policy("kimi_chat").max_turns, settings.policy("kimi_chat").max_tokens) == (4, 3)
    assert settings.policy("kimi_other").max_turns == 3
    assert settings.policy("karl").max_turns == 2
    assert settings.policy("chat").max_turns == 1


def test_a_tool_can_be_switched_on_and_off_by_name() -> None:
    settings = policies(chat={"enabled": True}, version={"enabled": False})

    assert settings.policy("chat").enabled is True
    assert settings.policy("version", ToolSettings()).enabled is False


def test_perdure_switched_off_switches_every_tool_off() -> None:
    settings = Settings(enabled=False, tools={"chat": ToolSettings(enabled=True)})

    assert settings.policy("chat", ToolSettings(enabled=True)).enabled is False


def test_one_place_to_announce_may_be_given_without_a_list() -> None:
    assert tool_settings({"announce": "meta"}).announce == frozenset({Announce.META})
    assert tool_settings({"announce": []}).announce == frozenset()


# ── what is said of those that cannot be used ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("backnd = 'sqlite'", ["backnd", "there is no such setting", 'did you mean "backend"', "data_dir"]),
        ("backend = 'postgress'", ["backend", "must be 'sqlite', 'postgres', 'supabase' or 'memory'", "'postgress'"]),
        ("[tools.chat]\nhistroy = 'auto'", ["tools.chat.histroy", 'did you mean "history"', "max_turns"]),
        (
            "[tools.chat]\nhistory = 'automatic'",
            ["tools.chat.history", "'auto', 'parameter', 'prompt' or 'none'", "'automatic'"],
        ),
        ("[defaults]\nmax_turns = -1", ["defaults.max_turns", "greater than or equal to 0", "-1"]),
        (
            "[defaults]\nannounce = ['meta', 'banner']",
            ["defaults.announce", "'meta', 'structured' or 'text'", "banner"],
        ),
        ("[defaults]\nredact_patterns = '('", ["defaults.redact_patterns", "not a regular expression"]),
        ("operation_timeout = 0", ["operation_timeout", "greater than 0"]),
        ("count_tokens = 'no.such:thing'", ["count_tokens", "no"]),
        ("backend = = 1", ["is not TOML", "line 1"]),
        ("tools = 3", ["tools", "must be a valid dictionary"]),
    ],
)
def test_a_mistake_in_the_file_is_named_with_the_file_the_key_and_what_is_allowed(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    file = write(tmp_path / "perdure.toml", text)

    with pytest.raises(SettingsError) as raised:
        load_settings(file)

    for word in [str(file), *words]:
        assert word in raised.value.what
    assert raised.value.remedy


def test_two_mistakes_are_named_at_once(tmp_path: Path) -> None:
    file = write(tmp_path / "perdure.toml", "backnd = 1\n[defaults]\nmax_turns = 'many'")

    with pytest.raises(SettingsError, match="defaults.max_turns.*backnd"):
        load_settings(file)


def test_a_mistake_in_a_variable_is_named_with_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_BACKEND", "oracle")

    with pytest.raises(
        SettingsError, match="PERDURE_BACKEND: backend: must be 'sqlite', .* or 'memory', or .*, not 'oracle'"
    ):
        load_settings()


def test_a_misspelt_variable_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_DATADIR", "/x")

    with pytest.raises(SettingsError, match="PERDURE_DATADIR.*Did you mean PERDURE_DATA_DIR"):
        load_settings()


def test_a_variable_that_is_no_json_where_json_is_needed_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_TOOLS", "{not json")

    with pytest.raises(SettingsError, match="environment variable"):
        load_settings()


def test_a_named_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(tmp_path / "nowhere.toml")


def test_an_option_of_the_decorator_is_checked_like_a_setting() -> None:
    with pytest.raises(SettingsError, match='@persisted: histroy: there is no such setting; did you mean "history"'):
        tool_settings({"histroy": "auto"})


@pytest.mark.parametrize("name", ["database_url", "supabase_key"])
def test_a_secret_is_not_repeated_where_it_is_wrong(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / "perdure.toml", f"{name} = ['the-secret-itself']")

    with pytest.raises(SettingsError, match=name) as raised:
        load_settings(file)

    assert "the-secret-itself" not in str(raised.value)


def test_secrets_do_not_show_in_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_DATABASE_URL", "postgresql://u:the-secret-itself@h/d")
    monkeypatch.setenv("PERDURE_SUPABASE_KEY", "the-secret-itself")

    assert "the-secret-itself" not in repr(load_settings()) + str(load_settings())


# ── the variables that users of Supabase have already ────────────────────────────────────────────────────────────


@pytest.fixture
def _of_supabase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_URL", "https://project.supabase.co")
    monkeypatch.setenv("SUPABASE_KEY", "sb_secret_x")
    monkeypatch.setenv("SUPABASE_STORAGE_BUCKET", "my-files")


@pytest.mark.usefixtures("_of_supabase")
def test_an_applications_own_supabase_moves_nothing() -> None:
    settings = load_settings()
    assert (settings.backend, settings.bucket, settings.supabase_url, settings.supabase_key) == (
        "sqlite",
        "mcp-files",
        None,
        None,
    )


@pytest.mark.usefixtures("_of_supabase")
@pytest.mark.parametrize("said", ["true", "TRUE", "1", "yes", " on "])
def test_use_supabase_moves_to_the_project_that_is_named(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("USE_SUPABASE", said)
    settings = load_settings()
    assert (settings.backend, settings.bucket, settings.supabase_url) == (
        "supabase",
        "my-files",
        "https://project.supabase.co",
    )
    assert settings.supabase_key is not None
    assert settings.supabase_key.get_secret_value() == "sb_secret_x"


@pytest.mark.usefixtures("_of_supabase")
def test_the_backend_of_the_file_takes_the_usual_variables_as_well(tmp_path: Path) -> None:
    file = write(tmp_path / "perdure.toml", "backend = 'supabase'")
    assert load_settings(file).supabase_url == "https://project.supabase.co"


@pytest.mark.usefixtures("_of_supabase")
def test_variables_of_perdure_stand_above_the_usual_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USE_SUPABASE", "true")
    monkeypatch.setenv("PERDURE_SUPABASE_URL", "https://other.supabase.co")
    monkeypatch.setenv("PERDURE_BUCKET", "other-files")
    settings = load_settings()
    assert (settings.supabase_url, settings.bucket) == ("https://other.supabase.co", "other-files")


@pytest.mark.usefixtures("_of_supabase")
def test_use_supabase_false_falls_back_to_the_embedded_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USE_SUPABASE", "false")
    settings = load_settings(write(tmp_path / "perdure.toml", "backend = 'supabase'"))
    assert (settings.backend, settings.bucket) == ("sqlite", "mcp-files")


def test_use_supabase_false_leaves_another_backend_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USE_SUPABASE", "false")
    assert load_settings(write(tmp_path / "perdure.toml", "backend = 'postgres'")).backend == "postgres"


def test_use_supabase_that_is_neither_true_nor_false_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USE_SUPABASE", "maybe")
    with pytest.raises(SettingsError, match="USE_SUPABASE is 'maybe'.*true or false"):
        load_settings()
