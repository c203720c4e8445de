"""The hash of a short text is made by another program than that of a long one, and is the same SHA-256."""

import hashlib
import random
import sys

import pytest

from perdure.middleware.persistence import short_hash
from perdure.middleware.persistence.serialization import digest
from perdure.middleware.persistence.short_hash import sha256_of


def test_it_is_sha256_whatever_the_length() -> None:
    contents = [random.Random(length).randbytes(length) for length in (0, 1, 55, 56, 64, 499, 500, 501, 100_000)]
    assert [sha256_of(content) for content in contents] == [hashlib.sha256(content).hexdigest() for content in contents]


@pytest.mark.parametrize("gone", [{"_sha2", "_sha256"}, {"_sha2"}, set()], ids=["none", "the older", "any"])
def test_it_is_found_where_python_keeps_it_or_is_openssls(gone: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in gone:
        monkeypatch.setitem(sys.modules, module, None)
    found = short_hash._pythons_own()
    assert found(b"perdure").hexdigest() == hashlib.sha256(b"perdure").hexdigest()
    if len(gone) == 2:
        assert found is hashlib.sha256


def test_what_is_no_sha256_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        sha256 = staticmethod(hashlib.sha3_256)

    for module in ("_sha2", "_sha256"):
        monkeypatch.setitem(sys.modules, module, Other)
    assert short_hash._pythons_own() is hashlib.sha256


def test_the_digest_of_a_turn_is_as_it_ever_was() -> None:
    assert digest("chat", {"b": 1, "a": "é"}) == hashlib.sha256(b'["chat",{"a":"\\u00e9","b":1}]').hexdigest()
