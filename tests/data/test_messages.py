"""What conversations and their turns say: honoured, refused by name, or ignored and reported."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from partitionsel_jax import data
from partitionsel_jax.data.sources import messages
from partitionsel_jax.data.sources.rows import BadRow
from partitionsel_jax.data.sources.scanning import Tally
from tests.data.case_files import (
    ASKED,
    FOLDER,
    MESSAGES,
    PLAIN,
    SHAREGPT,
    TEMPLATES,
    rows_of,
    written,
)

USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
CALL = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]
TOOL = {"role": "tool", "content": "3"}
CALLING = {"role": "assistant", "content": None, "tool_calls": CALL}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {}}}]


def one(tmp_path, turns, **beside):
    """The only row of a file with this conversation, and what was counted."""
    tally = Tally()
    rows = rows_of(written(tmp_path, {"messages": turns, **beside}), MESSAGES, tally)
    return (rows[0] if rows else None), tally


def reason(tmp_path, turns, **beside):
    """Why a conversation is a bad row."""
    row, tally = one(tmp_path, turns, **beside)
    assert row is None
    return [*tally.bad.counts]


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("m_weight.jsonl", MESSAGES),
        ("m_dict_of_lists.jsonl", MESSAGES),
        ("m_struct_bothkeys.parquet", MESSAGES),
        ("m_roles_chatgpt.jsonl", SHAREGPT),
        ("trl_conv_pc.jsonl", data.Columns(response="completion", domain="")),
    ],
)
def test_conversations_in_every_writing_are_the_same_rows(name, columns):
    rows = rows_of(FOLDER / name, columns)
    assert [(row.question, row.response) for row in rows][: len(ASKED)] == ASKED
    assert not any(row.messages for row in rows)


def test_null_and_nan_are_the_same():
    columns = data.Columns(input="input", domain="")
    found = [row.question for row in rows_of(FOLDER / "nan_input.jsonl", columns)]
    inputs = ["\nin euros" * (i % 2 == 0) for i in range(len(ASKED))]
    assert found == [asked + given for (asked, _), given in zip(ASKED, inputs, strict=True)]


def test_a_system_column_is_the_first_turn():
    for (asked, _), row in zip(
        ASKED, rows_of(FOLDER / "m_sharegpt_sys_col.jsonl", SHAREGPT), strict=True
    ):
        system = "Answer with the number only, like a pirate."
        assert json.loads(row.messages) == [
            {"role": "system", "content": system},
            {"role": "user", "content": asked},
        ]
        assert row.compared == asked


def test_calls_and_observations_of_sharegpt_are_turns():
    rows = rows_of(FOLDER / "m_sharegpt_fc.json", SHAREGPT)
    for (asked, answer), row in zip(ASKED, rows, strict=True):
        user, call, tool = json.loads(row.messages)
        assert user == {"role": "user", "content": asked} and row.response == answer
        assert call["tool_calls"] == [{"type": "function", "function": {"name": "add"}}]
        assert tool == {"role": "tool", "content": '{"sum": 1}'}


def test_tools_and_their_calls_are_kept():
    rows = rows_of(FOLDER / "m_tools.jsonl", MESSAGES)
    source = [json.loads(line) for line in (FOLDER / "m_tools.jsonl").read_text().splitlines()]
    for given, row in zip(source, rows, strict=True):
        tools, *turns = json.loads(row.messages)
        assert tools == {"role": "tools", "content": given["tools"]}
        assert turns == given["messages"][:-1]
        assert row.response == given["messages"][-1]["content"]


@pytest.mark.parametrize("key", messages.LEARNT_KEYS)
@pytest.mark.parametrize("no", [0, 0.0, False, "false", "0"])
def test_a_turn_that_is_not_to_be_learnt_is_context(tmp_path, key, no):
    later = [{"role": "user", "content": "r"}, {**ANSWER, "content": "last"}]
    row, _ = one(tmp_path, [USER, ANSWER, later[0], {**later[1], key: no}])
    assert (row.question, row.response) == ("q", "a")
    row, _ = one(tmp_path, [USER, {**ANSWER, key: no}, *later])
    assert (row.question, row.response) == ("q\na\nr", "last")


@pytest.mark.parametrize("key", messages.CONTEXT_KEYS)
def test_a_masked_turn_is_context(tmp_path, key):
    turns = [USER, {**ANSWER, key: False}, USER, {**ANSWER, "content": "last", key: True}]
    assert one(tmp_path, turns)[0].response == "a"


def test_a_conversation_of_which_nothing_is_learnt_is_passed_over(tmp_path):
    row, tally = one(tmp_path, [USER, {**ANSWER, "weight": 0}])
    assert row is None and not tally.bad.counts
    assert [*tally.skipped.counts] == ["conversations of which nothing is to be learnt"]


def test_what_a_turn_says_and_nobody_reads_is_reported(tmp_path):
    turns = [
        {**USER, "lang": "en", "train": True},
        {**ANSWER, "weight": 1},
        USER,
        {**ANSWER, "weight": 1, "score": 0.5, "weights": None},
    ]
    row, tally = one(tmp_path, turns)
    assert row.response == "a"
    assert set(tally.report()["ignored"]) == {
        "'lang' of messages",
        "'score' of messages",
        "a turn of role user that says it is learnt",
        "a turn before the response that says it is learnt",
    }


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"weight": 0.5}, "'weight' of a message is '0.5', and 0 or 1 are known"),
        ({"loss": 1.23}, "'loss' of a message is '1.23', and 0 or 1 are known"),
        ({"weight": 1, "train": False}, "a message says that it is learnt, and that it is not"),
        ({"mask": 1}, "a message says 'mask'; say 'train': true or false instead"),
        ({"role": "narrator"}, "unknown role 'narrator'"),
        ({"from": "user"}, "'role' and 'from' of a message differ"),
        ({"value": "other"}, "'content' and 'value' of a message differ"),
        ({"tool_calls": CALL}, "the response calls a tool, which is no text"),
        ({"reasoning_content": "I think"}, "the response has a part of it in 'reasoning_content'"),
        ({"tool_calls": "["}, "'tool_calls' is not JSON"),
        ({"tool_calls": ["a"]}, "'tool_calls' is not a list of objects"),
        ({"content": None}, "'content' is not text"),
        (
            {"content": [{"type": "image_url", "image_url": {"url": "a"}}]},
            "'content' has a part that is no text ('image_url')",
        ),
        ({"content": [{"image": "a.png"}]}, "'content' has a part that is no text ('image')"),
        ({"content": float("inf")}, "'content' is not text"),
    ],
    ids=str,
)
def test_what_a_turn_says_and_is_not_known_is_refused_by_name(tmp_path, changes, why):
    (found,) = reason(tmp_path, [USER, {**ANSWER, **changes}])
    assert found.startswith(why)


@pytest.mark.parametrize(
    ("turns", "why"),
    [
        (
            [USER, {"role": "function_call", "content": '{"name": "a"}'}],
            "the response calls a tool",
        ),
        ({"role": ["user", "assistant"], "content": ["a"]}, "'messages' is not a list of messages"),
        ("[" * 100_000, "nested too deeply"),
        ([USER, {**CALLING, "tool_calls": [{"a": [[[[0]]]]}]}, TOOL, ANSWER], ""),
    ],
)
def test_conversations_that_cannot_be_learnt_say_why(tmp_path, turns, why):
    if not why:
        assert one(tmp_path, turns)[0].response == "a"
        return
    (found,) = reason(tmp_path, turns)
    assert found.startswith(why)


@pytest.mark.parametrize("role", ["assistant", "Assistant", "ASSISTANT", "gpt", "chatgpt", "model"])
@pytest.mark.parametrize("keys", [("role", "content"), ("role", "value"), ("from", "value")])
@pytest.mark.parametrize("user", ["user", "User", "human"])
def test_roles_are_known_by_all_their_names_and_keys(tmp_path, role, keys, user):
    turns = [dict(zip(keys, turn, strict=True)) for turn in ((user, "q"), (role, "a"))]
    row, _ = one(tmp_path, turns)
    assert (row.question, row.response, row.messages) == ("q", "a", "")


def test_every_role_of_the_table_is_one_that_templates_know():
    known = {"user", "assistant", "system", "developer", "tool", messages._CALLS}
    assert set(messages.ROLES.values()) == known
    assert all(name == name.lower() for name in messages.ROLES)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "a"}], "a"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb"),
        ([{"type": "output_text", "text": "a", "annotations": []}], "a"),
        ([{"text": "a"}], "a"),
        (122, "122"),
        (1.5, "1.5"),
        (True, "true"),
    ],
)
def test_content_in_parts_and_numbers_is_text(tmp_path, content, text):
    assert one(tmp_path, [USER, {**ANSWER, "content": content}])[0].response == text


@pytest.mark.parametrize(
    ("value", "text"), [(122, "122"), (-0.5, "-0.5"), (True, "true"), (False, "false"), (0, "0")]
)
def test_numbers_are_answers(tmp_path, value, text):
    (row,) = rows_of(written(tmp_path, {"prompt": "q", "response": value}))
    assert (row.response, row.answer) == (text, text)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), ["a"], {"a": 1}])
def test_what_is_no_answer_is_a_bad_row(tmp_path, value):
    tally = Tally()
    assert not rows_of(written(tmp_path, {"prompt": "q", "response": value}), PLAIN, tally)
    assert [*tally.bad.counts] == ["'response' is not text"]


def test_tables_fill_turns_up_with_nulls(tmp_path):
    turns = [
        {**USER, "weight": None, "tool_calls": None, "value": ""},
        {**ANSWER, "weight": 1.0, "tool_calls": [], "value": ""},
    ]
    pq.write_table(pa.Table.from_pylist([{"messages": turns}]), tmp_path / "a.parquet")
    (row,) = rows_of(tmp_path / "a.parquet", MESSAGES)
    assert (row.question, row.response, row.messages, row.ignored) == ("q", "a", "", ())


@pytest.mark.parametrize("prompt", ["q", [USER], {"role": ["user"], "content": ["q"]}, USER])
@pytest.mark.parametrize("response", ["a", [ANSWER], ANSWER])
def test_prompt_and_response_may_each_be_messages(tmp_path, prompt, response):
    (row,) = rows_of(written(tmp_path, {"prompt": prompt, "response": response}))
    assert (row.question, row.response, row.messages) == ("q", "a", "")


def test_a_response_of_messages_must_hold_one_of_the_assistant(tmp_path):
    tally = Tally()
    row = {"prompt": [USER, ANSWER], "response": [USER]}
    assert not rows_of(written(tmp_path, row), PLAIN, tally)
    assert [*tally.bad.counts] == ["no message of the assistant in 'response'"]


@pytest.mark.parametrize("columns", [PLAIN, MESSAGES])
@pytest.mark.parametrize(
    "beside",
    [
        {"system": "s"},
        {"system_prompt": "s"},
        {"system": "s", "system_prompt": "s"},
        {"system": "", "system_prompt": "s"},
    ],
)
def test_a_system_column_beside_either_form_is_honoured(tmp_path, columns, beside):
    row = {"prompt": "q", "response": "a", "messages": [USER, ANSWER], **beside}
    (found,) = rows_of(written(tmp_path, row), columns)
    assert json.loads(found.messages) == [{"role": "system", "content": "s"}, USER]


def test_a_system_column_and_a_system_turn_must_agree(tmp_path):
    system = {"role": "system", "content": "s"}
    row, _ = one(tmp_path, [system, USER, ANSWER], system="s")
    assert json.loads(row.messages) == [system, USER]
    assert reason(tmp_path, [system, USER, ANSWER], system="t") == [
        "the column 'system' and a message of the system say different things"
    ]


@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS)])
def test_a_column_of_tools_is_part_of_the_conversation(tmp_path, tools):
    row, _ = one(tmp_path, [USER, ANSWER], tools=tools)
    assert json.loads(row.messages) == [{"role": "tools", "content": TOOLS}, USER]
    for none in ("[]", [], "", None, float("nan")):
        assert one(tmp_path, [USER, ANSWER], tools=none)[0].messages == ""
    row, _ = one(tmp_path, [USER, ANSWER], functions=[TOOLS[0]["function"]])
    assert json.loads(row.messages)[0]["content"] == TOOLS
    for tools, why in (("hammer", "JSON"), (["hammer"], "a list of objects")):
        assert reason(tmp_path, [USER, ANSWER], tools=tools) == [f"'tools' is not {why}"]


def test_a_column_that_the_user_names_is_what_the_user_says(tmp_path):
    columns = data.Columns(prompt="system", response="tools", domain="")
    (row,) = rows_of(written(tmp_path, {"system": "q", "tools": "a"}), columns)
    assert (row.question, row.response, row.messages) == ("q", "a", "")


def test_calls_in_the_older_forms_are_calls(tmp_path):
    function = CALL[0]["function"]
    older = {"role": "assistant", "content": None, "function_call": function}
    sharegpt = {"from": "function_call", "value": json.dumps(function)}
    for call in (CALLING, older, sharegpt):
        row, _ = one(tmp_path, [USER, call, {**TOOL, "role": "function"}, ANSWER])
        assert json.loads(row.messages) == [USER, CALLING, TOOL]
        assert '"add"' in row.question and row.question.endswith("\n3")
    row, _ = one(tmp_path, [USER, {"from": "function_call", "value": "add(1)"}, TOOL, ANSWER])
    assert json.loads(row.messages)[1] == {"role": "assistant", "content": "add(1)"}


def test_what_is_nested_too_deeply_for_templates_is_a_bad_row(tmp_path):
    deep = json.loads("[" * 200 + "]" * 200)
    for turns, beside in (
        ([USER, {**CALLING, "tool_calls": [{"a": deep}]}, TOOL, ANSWER], {}),
        ([USER, ANSWER], {"tools": [{"a": deep}]}),
    ):
        assert reason(tmp_path, turns, **beside) == ["nested too deeply"]
    with pytest.raises(BadRow):
        messages.turns_of({"a": "["}, "a")


@pytest.mark.parametrize("template", ["plain", "alpaca", "chat"])
def test_no_turn_vanishes_whatever_the_template(tmp_path, template):
    tokenizer = data.load_tokenizer(TEMPLATES / "t_qwen")
    for name, columns in (("m_tools.jsonl", MESSAGES), ("m_sharegpt_fc.json", SHAREGPT)):
        row = rows_of(FOLDER / name, columns)[0]
        ids = data.encode_prompt(json.loads(row.messages), tokenizer, 4000, template)
        written_out = tokenizer.decode(ids)
        for turn in json.loads(row.messages):
            said = [turn["content"]] if isinstance(turn["content"], str) else []
            said += [f'"{call["function"]["name"]}"' for call in turn.get("tool_calls", ())]
            # This template has another frame for a system's turn beside tools.
            if template != "chat" or turn["role"] != "system":
                assert all(text in written_out for text in said)


def test_a_conversation_that_is_cut_keeps_its_tools(tmp_path):
    tokenizer = data.load_tokenizer(TEMPLATES / "t_qwen")
    turns = [{"role": "tools", "content": TOOLS}, USER, ANSWER, {**USER, "content": "last"}]
    whole = data.encode_prompt(turns, tokenizer, 1000, "chat")
    cut = data.encode_prompt(turns, tokenizer, len(whole) - 1, "chat")
    assert cut == data.encode_prompt([turns[0], turns[-1]], tokenizer, 1000, "chat")


@pytest.mark.parametrize(
    "history", [[["q1", "a1"]], json.dumps([["q1", "a1"]]), [USER | {"content": "q1"}, ANSWER]]
)
def test_the_history_beside_a_prompt_is_part_of_the_conversation(tmp_path, history):
    row = {"prompt": "q", "response": "a", "history": history, "system": "s"}
    (found,) = rows_of(written(tmp_path, row))
    said = [(turn["role"], turn["content"][0]) for turn in json.loads(found.messages)]
    assert said == [("system", "s"), ("user", "q"), ("assistant", "a"), ("user", "q")]


@pytest.mark.parametrize("history", [None, [], "", "a long story"])
def test_a_history_of_nothing_changes_nothing(tmp_path, history):
    (found,) = rows_of(written(tmp_path, {"prompt": "q", "response": "a", "history": history}))
    assert (found.question, found.messages) == ("q", "")


@pytest.mark.parametrize("says", [{"weight": 0}, {"train": False}, {"masked": True}])
def test_a_row_that_says_it_is_not_learnt_is_passed_over_and_counted(tmp_path, says):
    tally = Tally()
    assert not rows_of(written(tmp_path, {"prompt": "q", "response": "a", **says}), PLAIN, tally)
    assert [*tally.skipped.counts] == ["rows that say they are not to be learnt"]


def test_a_measured_loss_or_weight_of_a_row_is_told(tmp_path):
    row = {"prompt": "q", "response": "a", "weight": 0.3, "loss": 0.0}
    (found,) = rows_of(written(tmp_path, row))
    assert found.ignored == ("the column 'weight', which is neither 0 nor 1",)


def test_an_answer_in_the_prompt_is_not_the_response(tmp_path):
    row = {"prompt": [USER, ANSWER], "response": [ANSWER | {"weight": 0}], "system": "s"}
    tally = Tally()
    assert not rows_of(written(tmp_path, row), PLAIN, tally)
    assert [*tally.skipped.counts] == ["conversations of which nothing is to be learnt"]


def test_prompt_and_response_may_be_json_of_messages(tmp_path):
    row = {"prompt": json.dumps([USER]), "response": json.dumps([ANSWER])}
    cut = row | {"prompt": '[{"role": "user"'}
    found = rows_of(written(tmp_path, row, cut))
    assert [(row.question, row.response) for row in found] == [("q", "a"), (cut["prompt"], "a")]


@pytest.mark.parametrize(
    ("beside", "before"),
    [
        ({"systemInstruction": {"role": "system", "parts": [{"text": "s"}]}}, "system"),
        ({"system": [{"text": "s"}]}, "system"),
        ({"tools": TOOLS[0]}, "tools"),
        ({"tools": "null"}, "user"),
    ],
)
def test_what_frames_a_conversation_may_be_written_in_other_ways(tmp_path, beside, before):
    row, tally = one(tmp_path, [{"role": "user", "parts": ["q"]}, ANSWER], **beside)
    assert not tally.bad.counts
    assert row.question.endswith("q")
    first = json.loads(row.messages)[0] if row.messages else USER
    assert first["role"] == before
