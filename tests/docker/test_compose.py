"""docker-compose.yml is what docs/docker.md says of it. That containers run by it was not tried: there is no engine."""

import re
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from docker.compose_file import (
    COMPOSE_FILE,
    EXAMPLE,
    REPOSITORY,
    VARIABLE,
    compose,
    environment_of,
    instructions,
    services,
    settings_in,
)

from perdure.settings_loader import load_settings

DOCUMENT = REPOSITORY / "docs" / "docker.md"
EXACT_TAG = re.compile(r"[a-z0-9./-]+:(v\d+\.\d+(\.\d+)?|\d+\.\d+\.\d+(\.\d+)?)(-[a-z0-9.]+)*")
"""PostgREST has two numbers in its versions, and a v before them; everybody else at least three."""
SERVICES = sorted(services())
NOT_SECRET = {"USE_SUPABASE", "SERVER_PORT", "GATEWAY_PORT"}

each_service = pytest.mark.parametrize("name", SERVICES)


def test_it_is_a_compose_file() -> None:
    program = Path(sys.executable).with_name("check-jsonschema")
    command = [program, "--builtin-schema", "vendor.compose-spec", COMPOSE_FILE]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stdout


def test_the_schema_refuses_what_is_none(tmp_path: Path) -> None:
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(COMPOSE_FILE.read_text().replace("depends_on:", "depends_upon:", 1))
    program = Path(sys.executable).with_name("check-jsonschema")
    command = [program, "--builtin-schema", "vendor.compose-spec", wrong]

    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


@each_service
def test_every_image_has_an_exact_tag(name: str) -> None:
    service = services()[name]

    if "build" in service:
        assert service["image"] == "perdure-example:local"
        assert all(EXACT_TAG.fullmatch(image) for image in base_images())
    else:
        assert EXACT_TAG.fullmatch(service["image"])


def test_the_document_names_the_tags_that_are_used() -> None:
    used = {service["image"] for service in services().values() if "build" not in service} | set(base_images())

    assert set(re.findall(r"^\| `([^`]+:[^`]+)` \|", DOCUMENT.read_text(), flags=re.MULTILINE)) == used


def base_images() -> list[str]:
    return [rest.split()[0] for keyword, rest in instructions() if keyword == "FROM"]


@each_service
def test_every_service_is_watched_or_ends(name: str) -> None:
    service = services()[name]
    check = service.get("healthcheck", {})
    ends = any(
        needed.get(name, {}).get("condition") == "service_completed_successfully"
        for needed in (other.get("depends_on", {}) for other in services().values())
    )

    if ends:
        assert service["restart"] == "no"
        assert check == {"disable": True}
    else:
        assert service["restart"] == "unless-stopped"
        # In the form without a shell, since one image has none. Our own image brings its check.
        assert check["test"][0] == "CMD" if "build" not in service else "HEALTHCHECK" in dict(instructions())


@each_service
def test_whoever_is_waited_for_is_there_and_says_when_it_is_ready(name: str) -> None:
    for needed, how in services()[name].get("depends_on", {}).items():
        assert how["condition"] in ("service_healthy", "service_completed_successfully")
        assert needed in SERVICES


def test_the_server_starts_after_the_migration_and_the_migration_after_the_storage_schema() -> None:
    found = services()

    assert found["server"]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    # storage-api makes storage.buckets, of which the bucket is a row, when it starts.
    assert found["migrate"]["depends_on"]["storage"]["condition"] == "service_healthy"
    assert found["migrate"]["depends_on"]["db"]["condition"] == "service_healthy"


def test_only_gateway_and_server_are_published_and_only_to_this_machine() -> None:
    published = {name: service["ports"] for name, service in services().items() if "ports" in service}

    assert set(published) == {"gateway", "server"}
    assert all(port.startswith("127.0.0.1:${") for ports in published.values() for port in ports)
    assert not any("network_mode" in service or "privileged" in service for service in services().values())


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_variable_is_in_the_example_and_every_line_of_the_example_is_used() -> None:
    used = Counter(found[1] for found in VARIABLE.finditer(COMPOSE_FILE.read_text()))

    assert set(used) == set(settings_in(EXAMPLE))
    assert "$" not in VARIABLE.sub("", COMPOSE_FILE.read_text()), "a form of variable that these tests do not see"


def test_every_variable_is_missed_when_it_is_not_there() -> None:
    must_be = {found[1] for found in VARIABLE.finditer(COMPOSE_FILE.read_text()) if ":?" in found[0]}

    assert must_be == set(settings_in(EXAMPLE))


def test_no_secret_stands_in_the_example_or_in_the_compose_file() -> None:
    values = settings_in(EXAMPLE)
    assert {name for name, value in values.items() if value} == NOT_SECRET

    for name, told in ((name, service.get("environment", {})) for name, service in services().items()):
        for variable, value in told.items():
            written = VARIABLE.sub("", str(value))
            if re.search(r"PASSWORD|SECRET|KEY", variable):
                assert written == "", f"{name}: {variable} is written out"
            assert not re.search(r"://[^/@]*:[^/@]+@|eyJ|sb_secret_", written), f"{name}: {variable} holds a secret"
            assert not re.search(r"[0-9a-fA-F]{24,}|[A-Za-z0-9+_-]{40,}", written), f"{name}: {variable} looks like one"


@each_service
def test_the_settings_of_a_service_are_in_one_place(name: str) -> None:
    service = services()[name]

    assert "env_file" not in service
    if "build" in service:
        in_image = {
            setting.partition("=")[0]
            for keyword, rest in instructions()
            if keyword == "ENV"
            for setting in rest.split()
        }
        assert in_image.isdisjoint(service["environment"])


def test_services_that_share_an_image_differ_only_in_their_own_settings() -> None:
    for one, other in combinations([service for service in services().values() if "build" in service], 2):
        assert all(one[key] == other[key] for key in compose()["x-perdure"])


def test_the_server_is_told_what_perdure_understands(monkeypatch: pytest.MonkeyPatch) -> None:
    values: dict[str, Any] = {**settings_in(EXAMPLE), "SERVICE_ROLE_KEY": "a-key", "POSTGRES_PASSWORD": "a-password"}
    for name, value in environment_of("server", values).items():
        monkeypatch.setenv(name, value)
    settings = load_settings()

    assert settings.backend == "supabase"
    assert settings.supabase_url == "http://gateway:8000"
    assert settings.supabase_key is not None
    assert settings.supabase_key.get_secret_value() == "a-key"

    monkeypatch.setenv("USE_SUPABASE", "false")
    assert load_settings().backend == "sqlite"

    for name, value in environment_of("migrate", values).items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "postgresql://postgres:a-password@db:5432/postgres"


def test_whatever_is_mounted_is_there() -> None:
    volumes = compose()["volumes"]

    for service in services().values():
        for mounted in service.get("volumes", []):
            source = mounted.partition(":")[0]
            assert (REPOSITORY / source).is_file() if source.startswith("./") else source in volumes


def test_an_upload_may_be_as_large_as_the_bucket_allows() -> None:
    migration = (REPOSITORY / "sql" / "postgres" / "migrations" / "0004_storage.sql").read_text()
    limit = services()["storage"]["environment"]["UPLOAD_FILE_SIZE_LIMIT"]

    assert f"'mcp-files', 'mcp-files', false, {limit}" in migration
