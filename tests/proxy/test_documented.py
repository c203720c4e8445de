"""What docs/proxy.md tells a user to type does what it says."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from proxy.test_typescript import INSTALLED

TEXT = (Path(__file__).parents[2] / "docs" / "proxy.md").read_text()

EVERYTHING = INSTALLED / "@modelcontextprotocol" / "server-everything" / "dist" / "index.js"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_example_keeps_a_call(tmp_path: Path) -> None:
    [settings], [console] = blocks("toml"), blocks("console")
    (tmp_path / "perdure.toml").write_text(settings)
    script = re.sub(r"^\$ ", "", console, flags=re.MULTILINE)
    script = script.replace("npx -y @modelcontextprotocol/server-everything", f"node {shlex.quote(str(EVERYTHING))}")
    done = subprocess.run(
        ["sh", "-ec", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    answer, *listed = done.stdout.splitlines()
    meta = json.loads(answer)["result"]["_meta"]
    assert meta["perdure/persisted"] is True
    assert meta["perdure/continuation-id"] in "\n".join(listed)


def test_the_configurations_are_json_and_start_the_proxy() -> None:
    configurations = [json.loads(block) for block in blocks("json")]
    servers = [server for configuration in configurations for server in configuration["mcpServers"].values()]
    assert [(server["command"], server["args"][0]) for server in servers] == [("perdure", "proxy")] * 2
