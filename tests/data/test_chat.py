"""Chats: rendered and encoded as transformers does, but for special tokens that messages quote."""

import collections
import json
import pickle
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from partitionsel_jax import data
from partitionsel_jax.data.tokenizers import chat, chat_program
from tests.data import case_files, checkpoints
from tests.data.encoding import encode_example

TOKENIZERS = {family: checkpoints.golden(family) for family in checkpoints.FAMILIES}
QWEN, LLAMA = TOKENIZERS["qwen2"], TOKENIZERS["llama3"]
EACH = pytest.mark.parametrize("family", checkpoints.FAMILIES)
USER = [{"role": "user", "content": "hello"}]


def using(template, family="qwen2", **fields):
    """A golden tokenizer with another chat template."""
    tokenizer = TOKENIZERS[family]
    known = {"bos_token": tokenizer.bos_token, "begins_rows": tokenizer.begins_rows}
    return data.SubwordTokenizer(
        tokenizer.definition,
        tokenizer.eos_token,
        chat_template=template,
        origin="here",
        **(known | fields),
    )


def special(tokenizer, ids):
    """How often each special token occurs."""
    return collections.Counter(i for i in ids if i in tokenizer.special_ids)


@EACH
@pytest.mark.parametrize("number", range(len(checkpoints.VALUES["qwen2"]["chats"])))
def test_chats_are_those_of_transformers(family, number):
    tokenizer, golden = TOKENIZERS[family], checkpoints.VALUES[family]["chats"][number]
    arguments = {"answer": golden["add_generation_prompt"]}
    assert tokenizer.render(golden["messages"], **arguments) == golden["text"]
    ids = tokenizer.chat(golden["messages"], **arguments)
    quotes = any("<|" in message["content"] for message in golden["messages"])
    assert (ids == golden["ids"]) != quotes


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("a\n  {% if true %}\nb\n  {% endif %}\nc", "a\nb\nc"),
        ("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "1"),
        ("{% for i in [1, 2] %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "2"),
        ("{{ messages | tojson }}", '[{"role": "user", "content": "hé<"}]'),
        ("{{ {'b': 1, 'a': 2} | tojson(indent=1, sort_keys=true) }}", '{\n "a": 2,\n "b": 1\n}'),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}!", "hé<!"),
        ("{{ tools is none and documents is none }}", "True"),
        ("{{ bos_token is defined }} {{ bos_token }}{{ eos_token }}", "False <|im_end|>"),
        ("{{ add_generation_prompt }}", "True"),
        ("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
        ("{% set ns = namespace(n=0) %}{% set ns.n = 3 %}{{ ns.n }}", "3"),
        ("{{ messages[0].nothing }}", ""),
    ],
)
def test_templates_may_use_what_transformers_gives_them(template, text):
    assert using(template).render([{"role": "user", "content": "hé<"}]) == text


def test_the_start_of_an_answer_is_optional():
    assert QWEN.render(USER) == QWEN.render(USER, answer=False) + "<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("template", "cause"),
    [
        ("{% if %}", r"line 1 of the chat template is not valid \(Expected"),
        ("a\n\n{% endfor %}", "line 3 of the chat template is not valid"),
        ("{{ raise_exception('only one turn') }}", "TemplateError: only one turn"),
        ("{{ messages[0].a.b }}", "UndefinedError: 'dict object' has no attribute 'a'"),
        ("{{ messages[7].content }}", "UndefinedError"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{{ nothing() }}", "UndefinedError: 'nothing' is undefined"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
        ("{{ messages.__init__.__globals__ }}", "UndefinedError|SecurityError"),
        ("{{ '{0.__class__.__init__}'.format(messages) }}{{ [].__class__() }}", "SecurityError"),
        ("{% for i in range(99999999) %}{% endfor %}", "OverflowError: Range too big"),
        ("{% include '/etc/passwd' %}", "TypeError: no loader"),
        ("{{ 'x' | no_filter }}", r"not valid \(No filter named 'no_filter'"),
    ],
)
def test_templates_that_fail_are_refused_with_the_cause(template, cause):
    with pytest.raises(ValueError, match=f"^here: .*({cause})"):
        using(template).chat(USER)


def test_conversations_that_the_template_refuses_name_its_reason():
    with pytest.raises(ValueError, match=r"tokenizer\.json: .*no role tool"):
        LLAMA.chat([{"role": "tool", "content": "7"}])


def test_without_a_template_there_is_no_chat():
    tokenizer = using(None)
    with pytest.raises(ValueError, match=r"here has no chat template.*than 'chat'"):
        tokenizer.chat(USER)
    assert tokenizer.turn_end_id == tokenizer.eos_id


def test_templates_do_not_change_the_conversation():
    messages = [{"role": "user", "content": "<|im_end|>", "extra": [{"a": "<|im_end|>"}]}]
    before = json.dumps(messages)
    QWEN.chat(messages)
    assert json.dumps(messages) == before


@pytest.mark.parametrize(
    ("family", "changes", "template", "begins"),
    [
        ("llama3", {}, "{{ bos_token }}{{ messages[0].content }}", 1),
        ("llama3", {}, "{{ messages[0].content }}", 1),
        ("llama3", {"begins_rows": False}, "{{ bos_token }}{{ messages[0].content }}", 1),
        ("llama3", {"begins_rows": False}, "{{ messages[0].content }}", 0),
    ],
)
def test_a_chat_begins_with_one_beginning_token(family, changes, template, begins):
    tokenizer = using(template, family, **changes)
    beginning = checkpoints.named(tokenizer, tokenizer.bos_token) * begins
    assert tokenizer.chat(USER) == beginning + tokenizer.encode("hello")


def test_a_quoted_beginning_is_no_beginning():
    tokenizer = using("{{ messages[0].content }}", "llama3")
    ids = tokenizer.chat([{"role": "user", "content": "<|begin_of_text|>"}])
    assert ids == [tokenizer.bos_id, *tokenizer.encode("<|begin_of_text|>")]


@EACH
@given(contents=st.lists(checkpoints.TRICKY, min_size=1, max_size=3))
@example(contents=["\U000f0000<|eot_id|><|im_end|>\U000f0001"])
def test_only_the_template_writes_special_tokens(family, contents):
    """Whatever messages hold, as many of each special token as with messages that hold nothing."""
    tokenizer = TOKENIZERS[family]
    roles = ("system", "user", "assistant")
    messages = [
        {"role": role, "content": text} for role, text in zip(roles, contents, strict=False)
    ]
    harmless = [message | {"content": "a"} for message in messages]
    ids = tokenizer.chat(messages)
    assert special(tokenizer, ids) == special(tokenizer, tokenizer.chat(harmless))
    if family == "llama3":  # no normalizer, so that nothing is written in another way
        written = (text.strip().replace("\ud800", "?") for text in contents)
        assert all(text in tokenizer.decode(ids) for text in written)


@EACH
def test_quoted_special_tokens_are_spelt_out_where_they_stand(family):
    tokenizer = TOKENIZERS[family]
    for token in checkpoints.files(family)["tokenizer.json"]["added_tokens"]:
        if not token["special"]:
            continue
        messages = [{"role": "user", "content": f"a {token['content']} b"}]
        before, _, after = tokenizer.render(messages).rpartition(f"{token['content']} b")
        assert tokenizer.chat(messages) == (
            tokenizer.encode_markup(before)
            + tokenizer.encode(token["content"])
            + tokenizer.encode_markup(" b" + after)
        )


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0].content | trim }}<|im_end|>",
        "{{ messages[0].content.split('</think>')[-1] }}<|im_end|>",
        "{{ messages[0].content | upper }}<|im_end|>",
        "{{ messages[0].content[1:-1] }}<|im_end|>",
        "{{ messages[0].content | tojson }}<|im_end|>",
        "{% for c in messages[0].content %}{{ c }}{% endfor %}<|im_end|>",
        "{{ messages[0].parts[0]['text'] }}<|im_end|>",
        "{{ messages[0].role }}<|im_end|>",
    ],
)
def test_no_way_of_writing_content_makes_it_markup(template):
    tokenizer = using(template)
    text = "\U000f0000 <|im_end|><|im_start|> \U000f0001"
    message = {"role": text, "content": text, "parts": [{"type": "text", "text": text}]}
    ids = tokenizer.chat([message])
    assert special(tokenizer, ids) == {tokenizer.eos_id: 1}
    assert "<|im_end|><|im_start|>" in tokenizer.decode(ids)


def test_content_that_becomes_markup_when_normalised_stays_content():
    """The Kelvin sign is NFC's way to "K", and a token may be looked for behind the normalizer."""
    definition = json.loads(QWEN.definition)
    token = definition["added_tokens"][0] | {"id": 372, "content": "<|K|>", "normalized": True}
    definition["added_tokens"].append(token)
    tokenizer = data.SubwordTokenizer(
        json.dumps(definition), "<|im_end|>", chat_template="{{ messages[0].content }}<|im_end|>"
    )
    content = "<|\N{KELVIN SIGN}|>"
    assert 372 in tokenizer.encode_markup(content)
    assert 372 not in tokenizer.chat([{"role": "user", "content": content}])


@pytest.mark.parametrize(
    ("template", "turn_end"),
    [
        ("{{ messages[-1].content }}<|im_end|>\n<|endoftext|>", "<|im_end|>"),
        ("{{ messages[-1].content }}</s> <|endoftext|>", "<|endoftext|>"),
        ("{{ messages[-1].content | trim }}{{ eos_token }}", "<|im_end|>"),
        ("<|endoftext|>{{ messages[-1].content }}", "<|im_end|>"),
        ("{{ messages[0].content }}<|endoftext|>", "<|im_end|>"),
        (
            "{{ messages[0].content }}<|im_start|>{{ messages[1].content }}<|endoftext|>",
            "<|endoftext|>",
        ),
        (
            "{% if messages | length > 1 %}{{ raise_exception('x') }}{% endif %}<|endoftext|>",
            "<|im_end|>",
        ),
    ],
)
def test_a_turn_ends_with_the_first_special_token_behind_the_answer(template, turn_end):
    tokenizer = using(template)
    assert [tokenizer.turn_end_id] == checkpoints.named(tokenizer, turn_end)


@pytest.mark.parametrize(
    ("template", "lost", "fitting"),
    [
        ("a<|im_end|>", "of the (assistant|user),", []),
        # Made for content in parts, it writes nothing of a text.
        (
            "{% for p in messages[0].content %}{{ p.text }}{% endfor %}",
            "of the (assistant|user),",
            [],
        ),
        ("{{ messages[-1].content }}", "of the (assistant|user before the last),", USER),
        ("{{ messages[0].content }}", "of the assistant,", USER),
        (
            "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
            "of the assistant,",
            USER,
        ),
    ],
)
def test_a_template_that_leaves_out_what_was_said_is_refused_by_name(template, lost, fitting):
    tokenizer = using(template)
    if fitting:
        assert tokenizer.chat(fitting) == tokenizer.encode("hello")
    answered = {"role": "assistant", "content": "hi"}
    with pytest.raises(ValueError, match=f"^here: the chat template leaves out messages {lost}"):
        tokenizer.chat([*USER, answered, *USER])


@pytest.mark.parametrize("template", ["{{ raise_exception('a\nb') }}", "{{ messages | nosuch }}"])
def test_what_a_template_raises_is_one_line(template):
    with pytest.raises(ValueError) as error:
        using(template).chat(USER)
    assert "\n" not in str(error.value)


def test_the_template_is_compiled_once(monkeypatch):
    template = "{{ messages[0].content }}<|im_end|>"
    asked = template, {}, [[USER, None]], True
    assert chat_program.answer(*asked) == {"rendered": [("hello<|im_end|>", "")]}
    monkeypatch.setattr(chat_program, "_environment", None)
    assert chat_program.answer(*asked) == {"rendered": [("hello<|im_end|>", "")]}


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages | random }}",
        "{% if false %}{{ messages | random }}{% endif %}",
        "{{ [messages] | map('random') | list }}",
        "{{ [messages] | map('ran' ~ 'dom') | list }}",
        "{{ lipsum() }}",
        "{{ lipsum(n=1, html=False)[:3] }}",
        "{% set f = lipsum %}{{ f() }}",
    ],
)
def test_a_random_template_is_refused_by_name(template):
    name = "lipsum" if "lipsum" in template else "random"
    with pytest.raises(ValueError, match=f"^here: the chat template is refused: it uses '{name}'"):
        using(template).chat(USER)


@pytest.mark.parametrize("template", ["{{ messages[0].items }}", "{{ messages[0].values() }}"])
def test_what_is_another_text_in_every_process_is_refused(template):
    if template.endswith("() }}"):
        using(template).chat(USER)
        return
    with pytest.raises(ValueError, match="writes the address of an object"):
        using(template).chat(USER)
    quoted = [{"role": "user", "content": "<object at 0x7f00>"}]
    assert "0x7f00>" in using("{{ messages[0].content }}").render(quoted)


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set n = namespace(t='aaaaaaaa') %}{% for i in range(60) %}"
        "{% set n.t = n.t ~ n.t %}{% endfor %}{{ n.t }}",
        "{{ 'a' * 10 ** 11 }}",
        "{{ 10 ** (10 ** 10) }}",
        "{{ (messages | length + 9) ** (10 ** 10) }}",
        "{{ '%099999999999d' | format(1) }}",
        "{{ 'a' | center(10 ** 11) }}",
        "{{ 'a' * 30000000 }}",
    ],
)
def test_a_template_that_takes_too_much_is_refused_in_bounded_time(monkeypatch, template):
    monkeypatch.setattr(chat, "_SECONDS", 1.0)
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"^here: the chat template is refused: it ") as error:
        using(template).chat(USER)
    assert "\n" not in str(error.value)
    assert time.monotonic() - started < 60
    # The next one is not waited for, and others are rendered as before.
    tokenizer = using("{{ messages[0].content }}")
    assert tokenizer.render(USER) == "hello"


def test_a_template_that_took_too_long_is_not_tried_again(monkeypatch):
    monkeypatch.setattr(chat, "_SECONDS", 1.0)
    tokenizer = using(
        "{% if messages[0].content == 'loop' %}{% for a in range(99999) %}"
        "{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}{{ messages[0].content }}"
    )
    assert tokenizer.render(USER) == "hello"
    with pytest.raises(chat.TemplateRefused, match="it takes more than 1 seconds"):
        tokenizer.chat([{"role": "user", "content": "loop"}])
    monkeypatch.setattr(chat._PROCESS, "ask", None)
    with pytest.raises(chat.TemplateRefused, match="it takes more than 1 seconds"):
        tokenizer.chat(USER)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% break %}", "'break' outside loop"),
        ("{% if true %}{% continue %}{% endif %}", "'continue' not properly in loop"),
        ("{{ " + "(" * 5000 + ")" * 5000 + " }}", ""),
        ("{% if a %}" * 500 + "{% endif %}" * 500, ""),
        ("{{ " + "9" * 5000 + " }}", ""),
    ],
)
def test_a_template_that_cannot_be_compiled_is_one_line(template, reason):
    with pytest.raises(ValueError, match=f"^here: the chat template is refused: .*{reason}") as e:
        using(template).chat(USER)
    assert "\n" not in str(e.value)


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


CALL = {"type": "function", "function": {"name": "add", "arguments": {}}}
CALLING = [*USER, turn("assistant", None, tool_calls=[CALL]), turn("tool", "3")]
BARE = (
    "{% for m in messages %}{% if m.role in ('user', 'assistant') and m.content %}"
    "{{ m.content }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("messages", "what"),
    [
        ([turn("system", "s"), *USER], "messages of the system"),
        ([turn("developer", "s"), *USER], "messages of the developer"),
        (CALLING, "calls of tools"),
        ([*USER, turn("tool", "3")], "messages of tools"),
        ([turn("tools", [CALL]), *USER], "descriptions of tools"),
    ],
)
def test_what_a_template_leaves_out_is_refused_by_name(messages, what):
    with pytest.raises(ValueError, match=f"^here: the chat template leaves out {what}, so that"):
        using(BARE).chat(messages)
    whole = using("{{ messages | tojson }}{{ tools | tojson }}")
    assert whole.render(messages)
    assert using(BARE).render(USER) == "hello"


def test_tools_are_given_apart_and_quote_no_special_tokens():
    tokenizer = using("{{ tools | tojson }}{{ messages | tojson }}")
    tools = [{"name": "<|im_end|>", "parameters": {"<|im_end|>": {}}}]
    messages = [turn("tools", tools), *USER]
    rendered = json.dumps(tools) + json.dumps(USER)
    assert tokenizer.render(messages) == rendered
    assert special(tokenizer, tokenizer.chat(messages)) == {}


@pytest.mark.parametrize(
    ("ending", "response", "learnt"),
    [
        ("<think>\n", "<think>\nI add.\n</think>\n3", "I add.\n</think>\n3"),
        ("<think>\n", "<think>I add.</think>3", "I add.</think>3"),
        ("<think>\n", "\n<think>\nI add.</think>3", "\nI add.</think>3"),
        ("<think>", "<think>\nI add.</think>3", "\nI add.</think>3"),
        ("assistant\n<think>\n", "<think>\nI", "I"),
        ("<|im_start|>assistant\n<think>\n", "<think>\nI", "I"),
        ("[THINK]", "[THINK]I", "I"),
        ("ASSISTANT: ", "ASSISTANT: I", "I"),
        ("<think>\n\n</think>\n\n", "<think>\n\n</think>\n\nI", "I"),
        ("<think>\n", "I <think>\n", "I <think>\n"),
        ("<think>\n", "<thinking>", "<thinking>"),
        ("<|im_start|>assistant\n", "assistant", "assistant"),
        ("<|im_start|>assistant\n", "\n3", "\n3"),
        ("", "<think>3", "<think>3"),
    ],
)
def test_what_the_prompt_has_begun_is_not_doubled(ending, response, learnt):
    tokenizer = using(
        "{{ messages[0].content }}{% if add_generation_prompt %}" + ending + "{% endif %}"
    )
    (encoded,) = data.encode_batch(["q"], [response], tokenizer, 100, "chat")
    assert encoded.response == [*tokenizer.encode(learnt), tokenizer.turn_end_id]
    assert encoded.prompt == tokenizer.encode_markup("q" + ending)
    (plain,) = data.encode_batch(["q"], [response], tokenizer, 100)
    assert plain.response[:-1] == tokenizer.encode(response)


def test_reasoning_that_a_template_begins_is_learnt_once():
    tokenizer = data.load_tokenizer(case_files.TEMPLATES / "t_r1")
    rows = case_files.rows_of(case_files.FOLDER / "think_rows.jsonl", case_files.MESSAGES)
    for row in rows:
        encoded = encode_example(row.question, row.response, tokenizer, 400, "chat")
        text = tokenizer.decode(encoded.tokens)
        assert text.count("<think>") == text.count("</think>") == 1
        assert tokenizer.decode(encoded.tokens[encoded.response]).startswith("I add them.\n</th")


@given(contents=st.lists(st.tuples(checkpoints.TRICKY, checkpoints.TRICKY), max_size=3))
def test_a_batch_gives_what_each_conversation_gives(contents):
    conversations = [
        [{"role": "system", "content": one}, {"role": "user", "content": two}]
        for one, two in contents
    ]
    assert QWEN.chat_batch(conversations) == [QWEN.chat(messages) for messages in conversations]


def test_a_used_tokenizer_goes_to_other_processes():
    ids = QWEN.chat(USER)
    assert pickle.loads(pickle.dumps(QWEN)).chat(USER) == ids
