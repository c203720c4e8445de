"""docker-compose.yml and what belongs to it, as tests read them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

REPOSITORY = Path(__file__).resolve().parents[2]
COMPOSE_FILE = REPOSITORY / "docker-compose.yml"
DOCKERFILE = REPOSITORY / "Dockerfile"
EXAMPLE = REPOSITORY / ".env.docker.example"

VARIABLE = re.compile(r"\$\{(\w+)(?::\?[^}]*)?\}")
"""The two forms that the file uses: a value from .env, and one that must be there."""


def compose() -> dict[str, Any]:
    """With its anchors resolved, and its variables not."""
    loaded: dict[str, Any] = YAML(typ="safe").load(COMPOSE_FILE)
    return loaded


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose()["services"]
    return found


def environment_of(service: str, values: Mapping[str, str]) -> dict[str, str]:
    """What a container of `service` is told, with `values` for the variables."""
    told = services()[service].get("environment", {})
    return {name: VARIABLE.sub(lambda found: values[found[1]], str(value)) for name, value in told.items()}


def settings_in(env_file: Path) -> dict[str, str]:
    lines = env_file.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile: the keyword, and the rest of its line or lines."""
    text = re.sub(r"\\\n", " ", DOCKERFILE.read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(keyword, " ".join(rest.split())) for keyword, _, rest in (line.partition(" ") for line in lines)]
