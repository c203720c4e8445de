"""Writes .env for docker-compose.yml: the example with random passwords, and keys signed with a random secret.

Needs nothing but Python. Never overwrites a .env: its passwords are the database's own from the first start on.
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import secrets
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
TEN_YEARS = 10 * 365 * 24 * 3600


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=REPOSITORY / ".env")
    options = parser.parse_args()
    try:
        # Nobody else may read it, from the moment it is there.
        descriptor = os.open(options.output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        print(
            f"{options.output} is there already, and stays as it is. To start anew, with an empty database: "
            "docker compose down --volumes, remove that file, and run this again.",
            file=sys.stderr,
        )
        return 1
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(filled_in((REPOSITORY / ".env.docker.example").read_text(encoding="utf-8")))
    print(
        f"{options.output} is written: passwords and keys of your own, for this machine alone. Next: docker compose up"
    )
    return 0


def filled_in(example: str) -> str:
    """`example` with a value in every line `NAME=` that has none. Values that are there stay."""
    named = dict(line.split("=", 1) for line in example.splitlines() if "=" in line and not line.startswith("#"))
    jwt_secret = named.get("JWT_SECRET") or secrets.token_hex(32)
    made = {
        "POSTGRES_PASSWORD": secrets.token_hex(24),
        "AUTHENTICATOR_PASSWORD": secrets.token_hex(24),
        "STORAGE_ADMIN_PASSWORD": secrets.token_hex(24),
        "JWT_SECRET": jwt_secret,
        "ANON_KEY": legacy_key("anon", jwt_secret),
        "SERVICE_ROLE_KEY": legacy_key("service_role", jwt_secret),
    }
    lines = [
        f"{line}{made[line[:-1]]}" if line.endswith("=") and line[:-1] in made else line
        for line in example.splitlines()
    ]
    return "\n".join(lines) + "\n"


def legacy_key(role: str, jwt_secret: str) -> str:
    """A key of the old kind: a JWT (RFC 7519) whose `role` is the database role that its bearer acts as."""
    now = int(time.time())
    claims = {"iss": "supabase", "role": role, "iat": now, "exp": now + TEN_YEARS}
    signed = f"{_base64url({'alg': 'HS256', 'typ': 'JWT'})}.{_base64url(claims)}"
    signature = hmac.new(jwt_secret.encode(), signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{_without_padding(signature)}"


def _base64url(value: dict[str, object]) -> str:
    return _without_padding(json.dumps(value, separators=(",", ":")).encode())


def _without_padding(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


if __name__ == "__main__":
    sys.exit(main())
