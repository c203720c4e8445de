"""What kind of key SUPABASE_KEY is. The only place that looks into one, and it tells nothing of it but its kind."""

import base64
import json
from datetime import UTC, datetime

from perdure.cli.doctor.finding import Finding, Verdict

__all__ = ["examined"]

_NAME = "key"
_REMEDY = (
    "set SUPABASE_KEY to a secret key (sb_secret_…) or the service_role key, from the project's settings, under API."
)


def examined(key: str, now: datetime) -> Finding:
    if key != key.strip():
        return Finding(_NAME, Verdict.FAILED, "The key has white space around it.", "copy it again, without the space.")
    if key.startswith("sb_secret_"):
        return Finding(_NAME, Verdict.OK, "A secret key (sb_secret_…).")
    if key.startswith("sb_publishable_"):
        return Finding(_NAME, Verdict.FAILED, "A publishable key: with it nothing can be kept.", _REMEDY)
    claims = _claims(key)
    if claims is None:
        return Finding(_NAME, Verdict.WARNING, "A key of a kind that perdure does not know.", _REMEDY)
    expires = claims.get("exp")
    if isinstance(expires, int | float) and expires < now.timestamp():
        then = datetime.fromtimestamp(expires, UTC)
        return Finding(_NAME, Verdict.FAILED, f"A key that expired on {then:%Y-%m-%d}.", _REMEDY)
    match claims.get("role"):
        case "service_role":
            return Finding(_NAME, Verdict.OK, "A legacy service_role key (JWT).")
        case "anon":
            return Finding(_NAME, Verdict.FAILED, "The anon key: with it nothing can be kept.", _REMEDY)
        case "authenticated":
            return Finding(
                _NAME,
                Verdict.WARNING,
                "The token of one user: only this user's calls can be kept, until it expires.",
                _REMEDY,
            )
        case _:
            return Finding(_NAME, Verdict.WARNING, "A JWT with a role that Supabase does not have.", _REMEDY)


def _claims(key: str) -> dict[str, object] | None:
    parts = key.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return None
    return claims if isinstance(claims, dict) else None
