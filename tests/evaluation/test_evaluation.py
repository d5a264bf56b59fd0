"""Losses per domain against a loop, and the accuracy of answers whose score is known."""

import itertools
import json

import numpy as np
import pytest

from partitionsel_jax import data, evaluation
from partitionsel_jax.evaluation.losses import batches
from tests.data import checkpoints


def rows(domains):
    count = len(domains)
    return data.Rows(
        tokens=np.arange(count, dtype=np.int32)[:, None],
        response=np.ones((count, 1), bool),
        domain=np.asarray(domains, np.int32),
        id=np.arange(count, dtype=np.int32),
        corrupted=np.zeros(count, bool),
    )


@pytest.mark.parametrize(("total", "batch"), [(1, 4), (4, 4), (7, 3), (3, 1)])
def test_batches_hold_every_row_once_and_fill_the_last_one_up(total, batch):
    pieces = list(batches(np.arange(total), batch))
    assert all(len(piece) == batch for piece, _ in pieces)
    assert np.concatenate([piece[:real] for piece, real in pieces]).tolist() == list(range(total))


def test_losses_are_means_over_all_rows_and_over_each_domain():
    values = np.array([1.0, 2.0, 4.0, 8.0, 16.0], np.float32)
    found = evaluation.domain_losses(
        lambda piece: values[piece.tokens[:, 0]], rows([0, 1, 0, 1, 1]), batch=2, domains=2
    )
    assert found.mean == pytest.approx(31 / 5)
    assert found.per_domain == pytest.approx([5 / 2, 26 / 3])


def test_a_domain_without_a_row_may_be_left_out():
    values = np.array([1.0, 2.0, 4.0], np.float32)
    found = evaluation.domain_losses(
        lambda piece: values[piece.tokens[:, 0]], rows([0, 2, 2]), batch=2, domains=3, every=False
    )
    assert found.mean == pytest.approx(7 / 3)
    np.testing.assert_allclose(found.per_domain, [1.0, np.nan, 3.0])


def test_a_domain_without_a_row_is_refused():
    with pytest.raises(ValueError, match="domain 1 has no row to evaluate"):
        evaluation.domain_losses(lambda piece: np.zeros(2), rows([0, 2]), batch=2, domains=3)


TOKENIZER = data.ByteTokenizer()
SCORERS = {"chain_sum": evaluation.task_scorer(("chain_sum", {}))}
SUMS = [("1 + 2 =", "3"), ("4 + 5 =", "9"), ("7 + 7 =", "14")]
WRITTEN = {"1 + 2 =": "3", "4 + 5 =": "8", "7 + 7 =": "steps\n#### 14"}


def sums(tokenizer=TOKENIZER, length=40, template="plain"):
    """Three sums as a source; the scorer is reasoning-gym's own."""
    records = [
        {
            "id": number,
            "domain": 0,
            "question": question.encode(),
            "response": answer.encode(),
            "answer": answer.encode(),
            "entry": json.dumps({"question": question, "answer": answer, "metadata": {}}).encode(),
        }
        for number, (question, answer) in enumerate(SUMS)
    ]

    class Records(list):
        def __getitems__(self, positions):
            return [self[position] for position in positions]

    zeros = np.zeros(len(SUMS), np.int32)
    places = np.arange(len(SUMS))
    return data.Source("test", Records(records), places, zeros, places, tokenizer, length, template)


def model(source, stops, calls):
    """Answers as `WRITTEN` says, each row followed by the next of the stops and by junk."""
    tokenizer = source.tokenizer
    prompts = {
        tuple(data.encode_prompt(question, tokenizer, source.length - 1, source.template)): question
        for question, _ in SUMS
    }
    ends = itertools.cycle(stops)

    def generate(tokens, lengths):
        calls.append(len(tokens))
        out = tokens.copy()
        for row, length in enumerate(lengths):
            question = prompts[tuple(tokens[row, :length].tolist())]
            # What follows the end must not count.
            ids = [*tokenizer.encode(WRITTEN[question]), next(ends), *tokenizer.encode(" junk")]
            ids = ids[: source.length - length]
            out[row, length : length + len(ids)] = ids
        return out

    return generate


def test_what_is_written_between_prompt_and_end_is_scored():
    source, calls = sums(), []
    generate = model(source, [TOKENIZER.eos_id], calls)
    found = evaluation.answer_accuracy(generate, source, SCORERS, batch=2)
    assert calls == [2, 2]
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["accuracy_per_domain"] == {"chain_sum": pytest.approx(2 / 3)}


@pytest.mark.parametrize("template", ["plain", "alpaca", "chat"])
def test_answers_end_at_any_stop_and_prompts_are_those_of_the_template(tmp_path, template):
    folder = checkpoints.edited(tmp_path, "llama3", generation={"eos_token_id": [368, 372]})
    source = sums(data.load_tokenizer(folder), 200, template)
    stops = source.tokenizer.stop_ids
    assert len(stops) == 3
    for stop in stops:
        generate = model(source, [stop], [])
        found = evaluation.answer_accuracy(generate, source, SCORERS, batch=3)
        assert found["accuracy"] == pytest.approx(2 / 3)
    # A special token that ends no answer is no part of the text either, but what follows it is.
    generate = model(source, [source.tokenizer.bos_id], [])
    found = evaluation.answer_accuracy(generate, source, SCORERS, batch=3)
    assert found["accuracy"] == 0.0


def test_frames_of_prompts_are_not_cut():
    tokenizer = checkpoints.golden("qwen2")
    frame = len(data.encode_prompt("=", tokenizer, 200, "chat"))
    generate = pytest.fail
    with pytest.raises(ValueError, match=f"at least {frame} tokens of the prompt"):
        evaluation.answer_accuracy(generate, sums(tokenizer, frame, "chat"), SCORERS, batch=3)


def test_the_reference_would_fit_behind_a_prompt_that_is_cut_and_such_prompts_are_counted():
    # "7 + 7 =" and its newline take 9 of 11 tokens, "14" and the end 3.
    source, rooms = sums(length=11), []

    def known(question, answer):
        return data.encode_prompt(question, TOKENIZER, 11 - len(answer) - 1)

    asked = {tuple(known(question, answer)): answer for question, answer in SUMS}

    def answer(tokens, lengths):
        rooms.extend((11 - lengths).tolist())
        out = tokens.copy()
        for row, length in enumerate(lengths):
            text = asked[tuple(tokens[row, :length].tolist())]
            ids = [*TOKENIZER.encode(text), TOKENIZER.eos_id]
            out[row, length : length + len(ids)] = ids
        return out

    found = evaluation.answer_accuracy(answer, source, SCORERS, batch=3)
    assert rooms == [2, 2, 3]
    assert found["accuracy"] == 1.0
    assert found["cut_prompts"] == 1
    whole = model(sums(), [TOKENIZER.eos_id], [])
    assert evaluation.answer_accuracy(whole, sums(), SCORERS, batch=3)["cut_prompts"] == 0


def test_a_reference_that_cannot_be_read_counts_as_wrong_and_is_counted():
    source = sums()
    source.records[0]["answer"] = b"no molecule"
    source.records[1]["answer"] = b"[C]"
    source.records[2]["answer"] = b"[O]"

    def generate(tokens, lengths):
        out = tokens.copy()
        for row, length in enumerate(lengths):
            ids = [*TOKENIZER.encode("[C]"), TOKENIZER.eos_id]
            out[row, length : length + len(ids)] = ids
        return out

    scorers = {"chain_sum": evaluation.SCORERS["molecules"]}
    found = evaluation.answer_accuracy(generate, source, scorers, batch=3)
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["bad_references"] == 1


def test_a_scorer_that_raises_ends_nothing_counts_as_wrong_and_names_the_row(caplog):
    def scorer(output, example):
        if example.id == 1:
            raise ArithmeticError(output)
        return True

    source = sums()
    generate = model(source, [TOKENIZER.eos_id], [])
    found = evaluation.answer_accuracy(generate, source, {"chain_sum": scorer}, batch=3)
    assert found["accuracy"] == pytest.approx(2 / 3) and found["bad_references"] == 0
    assert [record.getMessage() for record in caplog.records] == [
        "chain_sum, example 1: the scorer failed (ArithmeticError: 8); it counts as wrong"
    ]


def test_scorers_judge_by_text_by_value_and_by_molecule():
    def example(answer):
        return data.Example(0, 0, "", "", answer, "{}", False)

    for name, answer, right, wrong in (
        ("text", "so\n#### a b", "#### a b", "a  b"),
        ("mathematics", "1/2", "The answer is: 0.5", "The answer is: 5"),
        ("molecules", "[C][C][O]", "[O][C][C]", "[C][O][C]"),
    ):
        scorer = evaluation.check_scorer(name)
        assert scorer(answer, example(answer)) and scorer(right, example(answer))
        assert not scorer(wrong, example(answer)) and not scorer("", example(answer))


def test_unknown_scorers_and_missing_packages_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="unknown scorer 'bleu'; choose one of text, math"):
        evaluation.check_scorer("bleu")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="'molecules' needs rdkit, selfies, rapidfuzz"):
        evaluation.check_scorer("molecules")
    evaluation.check_scorer("text")


@pytest.mark.parametrize("widths", [(), (2, 3), (1, 2, 5, 8)])
def test_losses_at_narrower_widths_are_those_of_whole_rows(widths):
    lengths = np.random.default_rng(0).integers(1, 9, 23)
    response = np.arange(8)[None] == lengths[:, None] - 1
    whole = rows(np.arange(23) % 3)._replace(
        tokens=np.tile(np.arange(23)[:, None], (1, 8)), response=response
    )
    seen = []

    def losses(piece):
        seen.append(piece.tokens.shape[1])
        assert piece.response.any(axis=1).all()
        return piece.tokens[:, 0] + 0.5 * piece.lengths

    values = np.arange(23) + 0.5 * lengths
    found = evaluation.domain_losses(losses, whole, batch=4, domains=3, widths=widths)
    assert found.mean == pytest.approx(values.mean())
    assert found.per_domain == pytest.approx([values[i::3].mean() for i in range(3)])
    assert set(seen) <= {*widths, 8}
    assert (min(seen) < 8) == bool(widths)
