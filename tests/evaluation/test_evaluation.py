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
        spoilt=np.zeros(count, bool),
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


def test_a_domain_without_a_row_is_refused():
    with pytest.raises(ValueError, match="domain 1 has no row to evaluate"):
        evaluation.domain_losses(lambda piece: np.zeros(2), rows([0, 2]), batch=2, domains=3)


TOKENIZER = data.ByteTokenizer()
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
    return data.Source("test", Records(records), places, zeros, tokenizer, length, template)


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
    found = evaluation.answer_accuracy(generate, source, [("chain_sum", {})], batch=2)
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
        found = evaluation.answer_accuracy(generate, source, [("chain_sum", {})], batch=3)
        assert found["accuracy"] == pytest.approx(2 / 3)
    # A special token that ends no answer is no part of the text either, but what follows it is.
    generate = model(source, [source.tokenizer.bos_id], [])
    found = evaluation.answer_accuracy(generate, source, [("chain_sum", {})], batch=3)
    assert found["accuracy"] == 0.0


def test_prompts_that_must_stay_whole_are_not_cut():
    tokenizer = checkpoints.golden("qwen2")
    longest = max(len(data.encode_prompt(q, tokenizer, 200, "chat")) for q, _ in SUMS)
    generate = pytest.fail
    with pytest.raises(ValueError, match=f"at least {longest} tokens of the prompt"):
        evaluation.answer_accuracy(
            generate, sums(tokenizer, longest, "chat"), [("chain_sum", {})], batch=3
        )
