"""The Dockerfile copies what is there, and keeps the image small and its process without rights."""

import json
import re
import subprocess
import sys
import tomllib

from docker.compose_file import REPOSITORY, instructions, services

STAGES = [index for index, (keyword, _) in enumerate(instructions()) if keyword == "FROM"]
FINAL = instructions()[STAGES[-1] :]


def copied() -> list[str]:
    """What comes from the repository."""
    found = []
    for keyword, rest in instructions():
        if keyword == "COPY" and not rest.startswith("--from"):
            *sources, _target = rest.split()
            found.extend(sources)
    return found


def test_whatever_is_copied_is_there_and_is_sent_to_the_builder() -> None:
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]

    assert rules[0] == "*"
    for source in copied():
        assert (REPOSITORY / source).exists(), source
        assert f"!{source.rstrip('/')}" in rules
    assert {rule[1:] for rule in rules if rule.startswith("!")} == {source.rstrip("/") for source in copied()}


def test_nothing_is_installed_that_the_lock_does_not_name_with_its_hash() -> None:
    installs = [step for keyword, step in instructions() if keyword == "RUN" and " install " in step and "pip" in step]
    lock = (REPOSITORY / "requirements" / "server.txt").read_text()

    assert len(installs) == 2
    assert "--require-hashes -r requirements/server.txt" in installs[0]
    assert "--no-deps --no-build-isolation" in installs[1]
    pinned = re.findall(r"^([a-z0-9._-]+)==.*((?:\n    --hash=sha256:[0-9a-f]{64}.*)+)", lock, flags=re.MULTILINE)
    names = {name for name, _ in pinned}
    assert len(pinned) == len(re.findall(r"^[a-z0-9]", lock, flags=re.MULTILINE))
    assert {"psycopg", "psycopg-binary", "supabase", "mcp", "hatchling"} <= names
    assert names.isdisjoint({"pytest", "ruff", "mypy", "hypothesis"})


def test_the_lock_is_of_the_versions_that_are_tested() -> None:
    def versions(name: str) -> dict[str, str]:
        lock = (REPOSITORY / "requirements" / name).read_text()
        return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", lock, flags=re.MULTILINE))

    tested = versions("dev.txt")
    assert {name: tested.get(name) for name in versions("server.txt")} == versions("server.txt")


def test_the_process_is_nobody_and_keeps_its_data_on_the_volume() -> None:
    keywords = [keyword for keyword, _ in FINAL]
    told = dict(pair.split("=", 1) for keyword, rest in FINAL if keyword == "ENV" for pair in rest.split())
    user, volume = dict(FINAL)["USER"], dict(FINAL)["VOLUME"]

    assert user not in ("root", "0")
    assert keywords.index("USER") < keywords.index("CMD")
    assert "RUN" not in keywords[keywords.index("USER") :]
    assert told["PERDURE_DATA_DIR"] == volume
    assert told["PYTHONUNBUFFERED"] == "1"
    assert any(
        f"install -d -o {user} -g {user} -m 0700 {volume}" in rest for keyword, rest in FINAL if keyword == "RUN"
    )
    assert f"server-data:{volume}" in services()["server"]["volumes"]


def test_what_runs_is_in_the_form_without_a_shell() -> None:
    last = dict(FINAL)
    command = json.loads(last["CMD"])
    check = json.loads(last["HEALTHCHECK"].partition(" CMD ")[2])

    assert last["STOPSIGNAL"] == "SIGTERM"
    assert command[0] == check[0] == "python"
    script = command[1].replace("/opt/examples", str(REPOSITORY / "examples"))
    helped = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True).stdout
    assert all(option in helped for option in command[2:] if option.startswith("--"))
    assert f":{command[-1]}/health" in check[-1]
    assert last["EXPOSE"] == command[-1]
    assert all(port.endswith(f":{command[-1]}") for port in services()["server"]["ports"])


def test_its_python_is_one_that_perdure_is_for() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    (version,) = {match for _, rest in instructions() for match in re.findall(r"^python:(\d+\.\d+)\.\d+-slim", rest)}

    assert f"Programming Language :: Python :: {version}" in project["classifiers"]
