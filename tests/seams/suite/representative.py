"""The behaviours that `make test` runs on servers in processes of their own, where one takes seconds.

`make matrix` runs every behaviour there (it sets EVERY_BEHAVIOUR), and does not know this list.
"""

__all__ = ["KINDS", "REPRESENTATIVE"]

KINDS = frozenset({"MCPServer", "FastMCP"})
"""The kinds of servers that these run on."""

REPRESENTATIVE = frozenset(
    {
        "test_the_id_is_announced_in_meta_in_structured_content_and_in_text",
        "test_a_strict_output_schema_holds_for_the_client_that_was_shown_it",
        "test_the_id_in_the_argument_continues_a_conversation",
        "test_a_prompt_is_given_with_the_transcript_before_it_and_kept_without",
        "test_a_path_in_a_result_becomes_the_uri_of_the_file_that_is_kept",
        "test_a_client_reads_a_kept_file_as_a_resource",
        "test_a_crash_reaches_the_client_as_before_and_the_record_with_its_words",
        "test_arguments_that_do_not_fit_are_refused_in_the_same_words",
        "test_a_call_that_its_client_cancels_is_cancelled_in_the_tool_and_recorded_as_that",
        "test_progress_of_the_tool_reaches_the_client_as_before",
        "test_a_conversation_goes_on_after_a_restart",
        "test_a_tool_that_is_switched_off_answers_as_without_perdure",
    }
)
