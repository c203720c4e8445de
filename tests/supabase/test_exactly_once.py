"""Replies that are lost after COMMIT cost time, and neither a turn nor a second copy of one.

The long form, a thousand turns, is `python tests/soak/supabase_replies.py`.
"""

import pytest
from servers.supabase_stack import SupabaseStack
from soak.supabase_replies import write_all

from perdure.errors import StoreUnavailable
from perdure.middleware.persistence.supabase_api import asking


def test_two_hundred_turns_are_there_once_though_every_twentieth_reply_is_lost(supabase: SupabaseStack) -> None:
    found = write_all(supabase, turns=200, threads=8, lost=0.05, seed=20261125)
    assert found.violations == []
    assert (found.turns, found.messages, found.acknowledged) == (200, 400, 200)
    assert found.lost >= 10
    # Those that travelled together ask again each by itself, and an older function then: they are there already.
    assert 400 / 8 < found.requests <= 400 + 3 * 8 * found.lost


def test_a_client_that_asks_only_once_would_be_found_out(
    supabase: SupabaseStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the test above: replies are lost, and it matters."""
    monkeypatch.setattr(asking, "_ATTEMPTS", 1)
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        write_all(supabase, turns=100, threads=8, lost=0.05, seed=20261125)
