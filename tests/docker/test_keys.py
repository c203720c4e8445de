"""docker/make_keys.py writes a .env whose keys PostgREST and storage-api accept, and harms none that is there."""

import re
import stat
import subprocess
import sys
import time
from pathlib import Path

import jwt
from docker.compose_file import EXAMPLE, REPOSITORY, environment_of, services, settings_in
from servers.gateway_keys import Keys


def make_keys(output: Path) -> subprocess.CompletedProcess[str]:
    # -S -E: without any package.
    command = [sys.executable, "-S", "-E", REPOSITORY / "docker" / "make_keys.py", "--output", output]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_setting_gets_a_value_and_only_its_owner_reads_them(tmp_path: Path) -> None:
    made = make_keys(tmp_path / ".env")

    assert made.returncode == 0, made.stderr
    values = settings_in(tmp_path / ".env")
    assert set(values) == set(settings_in(EXAMPLE))
    assert all(values.values())
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    assert not any(value in made.stdout + made.stderr for name, value in values.items() if "PORT" not in name)
    # In addresses nothing needs to be escaped.
    assert all(re.fullmatch("[0-9a-f]{48}", value) for name, value in values.items() if "PASSWORD" in name)
    assert values["USE_SUPABASE"] == "true"


def test_the_keys_are_tokens_of_their_roles(tmp_path: Path) -> None:
    make_keys(tmp_path / ".env")
    values = settings_in(tmp_path / ".env")

    for name, role in (("ANON_KEY", "anon"), ("SERVICE_ROLE_KEY", "service_role")):
        claims = jwt.decode(values[name], values["JWT_SECRET"], algorithms=["HS256"])
        assert claims["role"] == role
        assert claims["exp"] > time.time() + 9 * 365 * 24 * 3600
        assert Keys(jwt_secret=values["JWT_SECRET"]).read(values[name], now=time.time(), leeway=0) == claims
    assert len(values["JWT_SECRET"]) >= 32  # PostgREST refuses a shorter one


def test_every_service_checks_tokens_by_the_secret_that_signs_them(tmp_path: Path) -> None:
    make_keys(tmp_path / ".env")
    values = settings_in(tmp_path / ".env")

    assert environment_of("rest", values)["PGRST_JWT_SECRET"] == values["JWT_SECRET"]
    assert environment_of("storage", values)["AUTH_JWT_SECRET"] == values["JWT_SECRET"]
    assert environment_of("server", values)["SUPABASE_KEY"] == values["SERVICE_ROLE_KEY"]
    assert not [name for name in services() if "${" in str(environment_of(name, values))]


def test_two_runs_make_different_secrets(tmp_path: Path) -> None:
    make_keys(tmp_path / "one")
    make_keys(tmp_path / "other")
    one, other = settings_in(tmp_path / "one"), settings_in(tmp_path / "other")

    assert [name for name in one if one[name] == other[name]] == ["USE_SUPABASE", "SERVER_PORT", "GATEWAY_PORT"]


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MINE=1\n")
    made = make_keys(tmp_path / ".env")

    assert made.returncode == 1
    assert "docker compose down --volumes" in made.stderr
    assert (tmp_path / ".env").read_text() == "MINE=1\n"
