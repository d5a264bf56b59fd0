import dataclasses

import numpy as np
import pytest

from partitionsel_jax import data
from partitionsel_jax.data import card, fitting
from partitionsel_jax.data.fitting import Named
from partitionsel_jax.data.tokenizers import chat
from tests.data import case_files, checkpoints

TOKENIZER = data.ByteTokenizer()


def all_ids(source):
    return source.rows(range(len(source))).id


def test_parts_of_a_corpus_share_no_row(corpus):
    parts = (corpus.train, corpus.anchors, corpus.validation, corpus.test)
    assert [len(part) for part in parts] == [8 * 40, 8 * 4, 8 * 4, 8 * 4]
    ids = np.concatenate([all_ids(part) for part in parts])
    assert len(set(ids.tolist())) == len(ids)


def test_parts_of_a_corpus_share_no_question(corpus):
    parts = (corpus.train, corpus.anchors, corpus.validation, corpus.test)
    questions = [e.question for part in parts for e in part.examples(range(len(part)))]
    assert len(set(questions)) == len(questions)


def test_half_of_the_validation_rows_of_every_domain_are_anchors_and_half_are_scored(corpus):
    np.testing.assert_array_equal(np.bincount(corpus.anchors.domains), [4] * 8)
    np.testing.assert_array_equal(np.bincount(corpus.validation.domains), [4] * 8)


@pytest.mark.parametrize(("rows", "anchors"), [(2, 1), (3, 2), (5, 2)])
def test_an_odd_row_is_either_an_anchor_or_scored(synthetic, rows, anchors):
    corpus = data.load(synthetic.builder(validation=rows), TOKENIZER, 16, 0)
    np.testing.assert_array_equal(np.bincount(corpus.anchors.domains), [anchors] * 2)
    np.testing.assert_array_equal(np.bincount(corpus.validation.domains), [rows - anchors] * 2)


def test_the_seed_chooses_the_anchors(synthetic):
    builder = synthetic.builder()
    first, second, again = (data.load(builder, TOKENIZER, 16, seed) for seed in (0, 1, 0))
    assert set(all_ids(first.anchors)) != set(all_ids(second.anchors))
    np.testing.assert_array_equal(all_ids(first.anchors), all_ids(again.anchors))


def test_rows_do_not_depend_on_the_order_of_the_records(synthetic):
    in_order, reversed_order = synthetic.builder(), synthetic.builder()
    for split in ("train", "validation"):
        reversed_order.as_data_source(split).reverse()
    before, after = (
        data.load(builder, TOKENIZER, 16, 0, noise_kind="swapped", noise_share=0.4)
        for builder in (in_order, reversed_order)
    )
    for part in ("train", "anchors"):
        rows = [getattr(corpus, part).rows(range(8)) for corpus in (before, after)]
        assert all(np.array_equal(a, b) for a, b in zip(*rows, strict=True))


def test_rows_of_bytes_are_laid_out_as_ever(corpus):
    """The quickstart's rows, written down once more: its numbers depend on every bit of them."""
    for source in (corpus.train, corpus.anchors, corpus.validation, corpus.test):
        examples = source.examples(range(len(source)))
        rows = source.rows(range(len(source)))
        for row, example in enumerate(examples):
            prompt = [1, *(3 + byte for byte in f"{example.question}\n".encode())]
            answer = [*(3 + byte for byte in example.response.encode()), 2]
            rest = 96 - len(prompt) - len(answer)
            assert rows.tokens[row].tolist() == prompt + answer + [0] * rest
            assert (
                rows.response[row].tolist()
                == [False] * len(prompt) + [True] * len(answer) + [False] * rest
            )
        assert rows.id.tolist() == sorted(example.id for example in examples)


def test_rows_hold_what_examples_say(corpus):
    rows, examples = corpus.train.rows([5, 300]), corpus.train.examples([5, 300])
    for tokens, is_response, domain, example in zip(
        rows.tokens, rows.response, rows.domain, examples, strict=True
    ):
        assert TOKENIZER.decode(tokens) == f"{example.question}\n{example.response}"
        assert TOKENIZER.decode(tokens[is_response]) == example.response
        assert domain == example.domain
    assert corpus.train[5] == examples[0]


@pytest.mark.parametrize("kind", ["garbled", "swapped"])
def test_corrupted_rows_are_flagged_and_everything_else_is_clean(builder, corpus, kind):
    corrupted = data.load(builder, TOKENIZER, 96, 0, noise_kind=kind, noise_share=0.3)
    rows = corrupted.train.rows(range(len(corrupted.train)))
    np.testing.assert_array_equal(np.bincount(rows.domain[rows.corrupted]), [12] * 8)
    clean = corpus.train.examples(range(len(corpus.train)))
    dirty = corrupted.train.examples(range(len(corrupted.train)))
    for row, (before, after) in enumerate(zip(clean, dirty, strict=True)):
        assert (before.response != after.response) == after.corrupted == rows.corrupted[row]
        assert (before.question, before.answer) == (after.question, after.answer)
    for part in (corrupted.anchors, corrupted.validation, corrupted.test):
        assert not part.rows(range(len(part))).corrupted.any()


def test_garbled_responses_fit_whatever_the_tokenizer_makes_of_them(synthetic):
    class Greedy(data.ByteTokenizer):
        """Two tokens for whatever is no digit, as if digits had merges and nothing else."""

        def encode(self, text):
            return [
                i
                for c in text
                for i in super(Greedy, self).encode(c) * (1 + (c not in "0123456789"))
            ]

    builder = synthetic.builder()
    corpus = data.load(builder, Greedy(), 4, 0, noise_kind="garbled", noise_share=0.5)
    rows = corpus.train.rows(range(40))
    assert rows.corrupted.sum() == 20
    assert rows.response.any(-1).all()


def test_long_responses_are_left_out_and_cut_prompts_counted(synthetic):
    builder = synthetic.builder()
    train = builder.as_data_source("train")
    train += [
        synthetic.record(900, 0, "q", "x" * 14),
        synthetic.record(901, 0, "q", "x" * 15),
        synthetic.record(902, 1, "a long question", "y"),
        synthetic.record(903, 1, "", "y"),
        synthetic.record(904, 1, "q" * 12, "y"),
        synthetic.record(905, 1, "q" * 13, "y"),
    ]
    corpus = data.load(builder, TOKENIZER, length=16, seed=0)
    ids = set(all_ids(corpus.train))
    assert {900, 902, 903, 904, 905} < ids
    assert 901 not in ids
    none = {"validation": Named(0), "test": Named(0)}
    assert corpus.left_out == {"train": Named(1, ("id 901",)), **none}
    assert corpus.cut == {"train": Named(3, ("id 900", "id 902", "id 905")), **none}


@pytest.mark.parametrize("template", ["alpaca", "chat"])
@pytest.mark.parametrize("family", checkpoints.FAMILIES)
def test_prompts_are_cut_inside_their_frame_and_rows_without_room_left_out(
    synthetic, family, template
):
    tokenizer = checkpoints.golden(family)
    frame = len(data.encode_prompt("", tokenizer, 200, template))
    x = len(tokenizer.encode("x" * 8))
    builder = synthetic.builder()
    train = builder.as_data_source("train")
    train += [
        synthetic.record(900, 0, "x" * 8, "1"),
        synthetic.record(901, 0, "x" * 9, "1"),
        synthetic.record(902, 1, "x" * 8, "11"),
        synthetic.record(903, 1, "", "y" * (x + 1)),
        synthetic.record(904, 1, "", "y" * (x + 2)),
    ]
    corpus = data.load(builder, tokenizer, frame + x + 2, seed=0, template=template)
    assert corpus.train.template == corpus.test.template == template
    assert {900, 901, 902, 903} == {i for i in all_ids(corpus.train) if i >= 900}
    assert {split: rows.rows for split, rows in corpus.left_out.items()} == {
        **{"train": 1, "validation": 0, "test": 0}
    }
    assert corpus.cut["train"] == Named(2, ("id 901", "id 902"))
    rows, examples = corpus.train.rows(range(42)), corpus.train.examples(range(42))
    for tokens, is_response, example in zip(rows.tokens, rows.response, examples, strict=True):
        room = len(tokens) - is_response.sum()
        prompt = data.encode_prompt(example.question, tokenizer, room, template)
        assert tokens[: np.argmax(is_response)].tolist() == prompt


@pytest.mark.parametrize("kind", ["garbled", "swapped"])
def test_corrupted_responses_fit_beside_prompts_that_are_never_cut(synthetic, kind):
    tokenizer = checkpoints.golden("qwen2")
    builder = synthetic.builder()
    train = builder.as_data_source("train")
    train += [synthetic.record(900 + i, i % 2, "x" * (30 - i), f"{10**i}") for i in range(30)]
    train.reverse()
    length = 2 + max(
        len(data.encode_prompt("x" * (30 - i), tokenizer, 200, "chat")) + i for i in range(30)
    )
    corpus = data.load(
        builder, tokenizer, length, 0, template="chat", noise_kind=kind, noise_share=0.9
    )
    assert not any(rows.rows for rows in corpus.left_out.values())
    rows = corpus.train.rows(range(len(corpus.train)))
    assert rows.corrupted.sum() == round(0.9 * 35) * 2
    assert (rows.tokens[rows.response] == tokenizer.turn_end_id).sum() == len(rows.tokens)


def test_every_text_is_tokenised_once_when_a_corpus_is_opened(synthetic):
    texts = []

    class Counting(data.ByteTokenizer):
        """Notes down what it is given."""

        def encode(self, text):
            texts.append(text)
            return super().encode(text)

    builder = synthetic.builder()
    data.load(builder, Counting(), 16, 0)
    assert texts[0] == "?\n"  # the template is tried
    assert len(texts) == 1 + 2 * sum(
        len(builder.as_data_source(split)) for split in ("train", "validation", "test")
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"template": "vicuna"}, "unknown template 'vicuna'; choose one of plain"),
        ({"template": "chat"}, "the byte-level tokenizer has no chat template"),
        ({"noise_kind": "scrambled"}, "'scrambled'"),
        ({"noise_kind": "garbled", "noise_share": 1.0}, r"\[0, 1\), got 1.0"),
        ({"length": 2}, "at least 3 tokens, got 2"),
    ],
)
def test_arguments_out_of_range_are_refused_before_anything_is_read(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.load(None, TOKENIZER, **({"length": 16, "seed": 0} | arguments))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_an_empty_domain_is_refused_by_name(synthetic, split):
    builder = synthetic.builder()
    records = builder.as_data_source(split)
    records[:] = [record for record in records if record["domain"] == 0]
    with pytest.raises(ValueError, match=f"every domain in {split}, got none of domain1"):
        data.load(builder, TOKENIZER, 16, 0)


def test_a_domain_whose_responses_do_not_fit_is_refused(synthetic):
    builder = synthetic.builder()
    for record in builder.as_data_source("train"):
        if record["domain"] == 1:
            record["response"] = b"x" * 20
    with pytest.raises(ValueError, match=r"domain1 \(20 rows were left out.*use longer rows"):
        data.load(builder, TOKENIZER, 16, 0)


def test_one_validation_row_cannot_be_both_anchor_and_scored(synthetic):
    with pytest.raises(ValueError, match=r"at least 2 validation rows of domain domain0.*got 1"):
        data.load(synthetic.builder(validation=1), TOKENIZER, 16, 0)


@pytest.mark.parametrize(
    ("number", "domain", "message"),
    [(5, 2, "domains in 0 .. 1 in train, got 0 .. 2"), (2**31, 0, "ids in 0 .. 2")],
)
def test_ids_and_domains_out_of_range_are_refused(synthetic, number, domain, message):
    builder = synthetic.builder()
    builder.as_data_source("train").append(synthetic.record(number, domain, "q", "r"))
    with pytest.raises(ValueError, match=message):
        data.load(builder, TOKENIZER, 16, 0)


def test_indices_outside_a_source_are_refused(corpus):
    with pytest.raises(IndexError, match=r"0 .. 31 of test.*32"):
        corpus.test[32]
    with pytest.raises(IndexError, match="-1"):
        corpus.test.rows([-1])


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "flipped"])
def test_what_is_remembered_in_a_damaged_file_is_found_again(tmp_path, damage):
    calls = []

    def find():
        calls.append(damage)
        return {"rows": np.arange(100), "cut": 3}

    def remembered():
        found = fitting.remembered(tmp_path / "scans", "train", ["content"], find)
        assert np.array_equal(found["rows"], np.arange(100)) and found["cut"] == 3

    remembered()
    remembered()
    assert len(calls) == 1
    (path,) = (tmp_path / "scans").iterdir()
    whole = path.read_bytes()
    middle = len(whole) // 3
    path.write_bytes(
        {
            "cut": whole[:middle],
            "empty": b"",
            "other": b"no archive",
            "flipped": whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :],
        }[damage]
    )
    remembered()
    assert len(calls) == 2
    # It is whole again.
    remembered()
    assert len(calls) == 2 and [*path.parent.iterdir()] == [path]


def test_a_damaged_shard_is_refused_with_what_to_do(tmp_path):
    sizes = {"train": 200, "validation": 4, "test": 4, "seed": 0}
    prepared = data.prepare((("count_bits", {}),), **sizes, directory=tmp_path)
    (shard,) = tmp_path.rglob("*train.array_record*")
    content = bytearray(shard.read_bytes())
    # In a record, so that the shard can be opened, and its records be counted.
    content[1000] ^= 255
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=r"^the prepared records cannot be read \(.*delete their"):
        data.load(prepared, TOKENIZER, 96, seed=0)


def alternating(folder, name="one_of_300_gpt_first.jsonl", rows=None, **more):
    """A corpus of conversations for a template that wants user and assistant in turn."""
    path = case_files.FOLDER / name
    if rows is not None:
        path = folder / "rows.jsonl"
        path.write_text("".join(path_rows(rows)))
    sizes = {"validation": 4, "test": 3, "seed": 0, "directory": folder / "prepared"}
    builder = data.prepare_files("instructions", path, columns=case_files.SHAREGPT, **sizes)
    tokenizer = data.load_tokenizer(case_files.TEMPLATES / "t_alt")
    return data.load(builder, tokenizer, 200, 0, template="chat", **more)


def path_rows(count):
    lines = (case_files.FOLDER / "one_of_300_gpt_first.jsonl").read_text().splitlines(True)
    return lines[:count]


def test_a_row_that_the_chat_template_refuses_is_counted_with_its_number(tmp_path):
    corpus = alternating(tmp_path)
    assert str(corpus.refused["train"]) == "1 (one_of_300_gpt_first.jsonl row 8)"
    assert "Conversation roles must alternate" in corpus.refused["train"].reason
    assert len(corpus.train) == 300 - 7 - 1
    assert 7 not in corpus.train.ids
    assert card.gather(corpus).refused == corpus.refused
    # Found once, it is remembered.
    assert alternating(tmp_path).refused == corpus.refused


def test_more_than_one_in_a_hundred_refused_rows_stop_the_run(tmp_path):
    with pytest.raises(ValueError, match=r"at most 1% of the rows, got 1 of 60 refused: 1 \(rows"):
        alternating(tmp_path, rows=60)


def test_a_template_that_is_refused_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(chat, "_SECONDS", 1.0)
    builder = data.prepare_files(
        "instructions",
        case_files.FOLDER / "int_answers.jsonl",
        columns=case_files.PLAIN,
        validation=4,
        test=3,
        seed=0,
        directory=tmp_path,
    )
    whole = data.load_tokenizer(case_files.TEMPLATES / "t_alt")
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    text = "{{ messages[0].content }}{% if messages[0].content != '?' %}" + loop + "{% endif %}"
    tokenizer = dataclasses.replace(whole, chat_template=text)
    with pytest.raises(ValueError, match="the chat template is refused: it takes more than"):
        data.load(builder, tokenizer, 200, 0, template="chat")


@pytest.mark.parametrize("reads", [[0], [7, 3, 7, 47], [], list(range(48))])
def test_joined_sources_hold_the_rows_of_each_in_order_of_their_ids(synthetic, reads):
    corpus = data.load(synthetic.builder(), TOKENIZER, 16, 0, noise_kind="garbled", noise_share=0.4)
    # The test split's ids are behind all others, and come first here.
    parts = (corpus.test, corpus.train)
    whole = data.joined("both", *parts)
    examples = {e.id: e for part in parts for e in part.all_examples()}
    assert [e.id for e in whole.all_examples()] == sorted(examples)
    assert sum(e.corrupted for e in whole.all_examples()) == 16
    assert whole.examples(reads) == [examples[sorted(examples)[row]] for row in reads]
    for row in reads:
        assert whole.rows([row]).domain == whole.domains[row] == examples[whole.ids[row]].domain
    np.testing.assert_array_equal(whole.find(whole.ids), np.arange(48))


def test_a_corpus_for_some_domains_keeps_all_training_rows(synthetic):
    corpus = data.load(synthetic.builder(domains=3), TOKENIZER, 16, 0)
    found = corpus.held_out_of(["domain2", "domain0"])
    assert found.train is corpus.train and found.fingerprint == corpus.fingerprint
    for what in ("anchors", "validation", "test"):
        before, after = getattr(corpus, what), getattr(found, what)
        wanted = [e for e in before.all_examples() if e.domain != 1]
        assert list(after.all_examples()) == wanted and len(wanted) == 2 * len(before) // 3


def test_a_corpus_for_a_domain_without_anchors_is_refused(synthetic):
    corpus = data.load(synthetic.builder(), TOKENIZER, 16, 0)
    alone = dataclasses.replace(corpus, anchors=corpus.anchors.part(corpus.anchors.domains == 0))
    with pytest.raises(ValueError, match=r"expected anchors rows of .* got none of domain1"):
        alone.held_out_of(["domain1"])
