"""Supabase's own CLI (npm: supabase), which pushes a folder of migrations as a user's `supabase db push` would."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from servers.unprivileged import ServerFailed, ServerMissing

INSTALLED = Path(sys.prefix) / "supabase" / "node_modules" / "@supabase"
"""Where the Makefile installs what package.json and package-lock.json beside this file pin."""

QUIET = {
    "SUPABASE_TELEMETRY_DISABLED": "1",
    "DO_NOT_TRACK": "1",
    "SUPABASE_NO_UPDATE_NOTIFIER": "1",
    "SUPABASE_NO_KEYRING": "1",
}
"""With these, a push to 127.0.0.1 speaks to nobody else (without, it looks up its telemetry's host)."""


class PushFailed(ServerFailed):
    """The CLI refused or a migration failed; the message is what it printed."""


class SupabaseCli:
    """The CLI at work in `project`, the folder that holds supabase/migrations/<14 digits>_<name>.sql."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.migrations = project / "supabase" / "migrations"
        self.migrations.mkdir(parents=True, exist_ok=True)

    def push(self, url: str, *flags: str) -> list[str]:
        """`supabase db push`, and the names of the files that it applied now: none when all were applied before.

        Each file is one transaction, unless it holds a statement that refuses one (CREATE INDEX CONCURRENTLY). A file
        is known by the digits of its name: an edit after the push goes unseen, and one older than the newest that was
        applied needs the flag `--include-all`.

        Args:
            url: Of a Postgres; with `sslmode=disable`, or the CLI tries TLS first and warns.

        Raises:
            PushFailed: The files before the one that failed were kept.
        """
        with tempfile.TemporaryDirectory() as home:
            command = [_binary(), "db", "push", "--workdir", self.project, f"--remote={url}"]
            answers = ["--yes", "--agent", "no", "--output-format", "json"]
            ended = subprocess.run(
                [*command, *answers, *flags],
                cwd=self.project,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env={"PATH": os.environ["PATH"], "HOME": home, "SUPABASE_HOME": home, **QUIET},
                text=True,
                timeout=60,
                check=False,
            )
        if ended.returncode:
            raise PushFailed(ended.stdout + ended.stderr)
        answer = json.loads(ended.stdout.splitlines()[-1])
        return list(answer["migrations"])


def _binary() -> Path:
    # Without node's wrapper in between, so that a time-out ends the CLI itself.
    for found in sorted(INSTALLED.glob("cli-*/bin/supabase")):
        return found
    raise ServerMissing(f"no Supabase CLI in {INSTALLED}: make {Path(sys.prefix).name}/supabase.stamp")
