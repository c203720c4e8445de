"""Keys and tokens: what the gateway in front asks for, and what a token says. Roles are Postgres's own."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jwt

ALGORITHM = "HS256"
FAR_AWAY = 4102444800
"""The year 2100, in seconds: legacy keys hardly expire."""


class BadToken(Exception):
    """`reason` is for the two servers to put in their own words; `detail` fills it in."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Keys:
    """All that a project's settings page shows, and the secret behind the legacy keys."""

    jwt_secret: str = field(default_factory=lambda: secrets.token_urlsafe(48))
    secret_key: str = field(default_factory=lambda: f"sb_secret_{secrets.token_urlsafe(24)}")
    publishable_key: str = field(default_factory=lambda: f"sb_publishable_{secrets.token_urlsafe(24)}")

    @cached_property
    def service_key(self) -> str:
        return self._legacy("service_role")

    @cached_property
    def anon_key(self) -> str:
        return self._legacy("anon")

    def signed(self, claims: Mapping[str, Any]) -> str:
        return jwt.encode(dict(claims), self.jwt_secret, algorithm=ALGORITHM)

    def read(self, token: str, *, now: float, leeway: float) -> dict[str, Any]:
        """The claims of `token`.

        Raises:
            BadToken: "empty", "parts", "algorithm", "signature", "claims" or "expired".
        """
        if not token:
            raise BadToken("empty")
        if (parts := token.count(".") + 1) != 3:
            raise BadToken("parts", str(parts))
        try:
            claims = jwt.decode(token, self.jwt_secret, algorithms=[ALGORITHM], options=_SIGNATURE_ONLY)
        except jwt.InvalidAlgorithmError as error:
            raise BadToken("algorithm") from error
        except jwt.InvalidSignatureError as error:
            raise BadToken("signature") from error
        except jwt.PyJWTError as error:
            raise BadToken("claims") from error
        expires = claims.get("exp", FAR_AWAY)
        if not isinstance(expires, int | float):
            raise BadToken("exp")
        if expires + leeway < now:
            raise BadToken("expired")
        return claims

    def is_known(self, key: str) -> bool:
        """Whether the gateway lets a request with this apikey through to the REST API."""
        return key in (self.service_key, self.anon_key, self.secret_key, self.publishable_key)

    def authorization(self, headers: Mapping[str, str]) -> str | None:
        """The token that is passed on: the new kinds of key are no tokens, and are changed for one.

        Only where the client sent no token of a user's beside the key.
        """
        sent = headers.get("authorization")
        if sent is not None and not sent.startswith("Bearer sb_"):
            return _bare(sent)
        match headers.get("apikey"):
            case self.secret_key:
                return self.service_key
            case self.publishable_key:
                return self.anon_key
            case _:
                return None if sent is None else _bare(sent)

    def _legacy(self, role: str) -> str:
        return self.signed({"iss": "supabase", "ref": "standin", "role": role, "iat": 1735689600, "exp": FAR_AWAY})


def _bare(header: str) -> str:
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


_SIGNATURE_ONLY = {
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
}
