"""What stands in a log line of ours cannot look like another line, nor act on a terminal."""

import pytest

from perdure.logs import log


def test_control_characters_of_others_are_shown_and_no_line_of_theirs_looks_like_ours(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log.warning(
        "turn.not_kept",
        what="The tool \x1b[2J\x9b1m\u202e said:\nperdure: turn.kept: all is well.\rx \ud800",
        remedy="look.",
        tool="a\nb",
    )
    (record,) = caplog.records
    assert record.getMessage() == (
        "perdure: turn.not_kept: The tool \\x1b[2J\\x9b1m\\u202e said:\n"
        "    perdure: turn.kept: all is well.\\rx \\ud800 Remedy: look. tool='a\\nb'"
    )


def test_other_writing_is_left_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    log.warning("turn.not_kept", what="naïve – ok\tß 🙂", remedy="wait.")
    assert caplog.records[0].getMessage() == "perdure: turn.not_kept: naïve – ok\tß 🙂 Remedy: wait."
