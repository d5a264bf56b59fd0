import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import types

import numpy as np
import pytest

from partitionsel_jax import data
from partitionsel_jax.data.sources import builders, scanning, splitting
from partitionsel_jax.data.sources.schemas import METAMATHQA_DOMAINS, MOLECULE_DOMAINS
from tests.data import source_rows

SIZES = {"validation": 3, "test": 2, "seed": 0}
SPLITS = ("train", "validation", "test")


@pytest.fixture
def prepare(tmp_path):
    """Writes rows as a file and prepares it."""

    def prepare_rows(kind, rows, name="rows.jsonl", **arguments):
        path = source_rows.write(tmp_path, name, rows)
        directory = tmp_path / "prepared"
        return data.prepare_files(kind, path, **{**SIZES, "directory": directory, **arguments})

    return prepare_rows


def records(builder, split=None):
    """The records of a split, or of all."""
    if split is None:
        return [record for split in SPLITS for record in records(builder, split)]
    source = builder.as_data_source(split=split)
    return [
        {
            key: value.decode() if isinstance(value, bytes) else int(value)
            for key, value in r.items()
        }
        for r in source.__getitems__(list(range(len(source))))
    ]


def report(builder):
    return builder.info.metadata["report"]


def lines(count, prefix="question"):
    """Instructions that have no three words in common."""
    return [
        {"prompt": f"{prefix}{i}", "response": f"answer {i}", "domain": "all"} for i in range(count)
    ]


def test_metamathqa_has_its_eight_domains_and_final_answers(prepare):
    builder = prepare("metamathqa", source_rows.metamathqa(12), "rows.json")
    assert builder.info.metadata["domains"] == list(METAMATHQA_DOMAINS)
    assert METAMATHQA_DOMAINS[0] == "GSM_AnsAug" and METAMATHQA_DOMAINS[-1] == "MATH_FOBAR"
    published = {row["query"]: row for row in source_rows.metamathqa(12)}
    for record in records(builder):
        row = published[record["question"]]
        assert record["response"] == row["response"]
        assert record["answer"] == row["response"].split()[-1]
        assert METAMATHQA_DOMAINS[record["domain"]] == row["type"]
        entry = {"type": row["type"], "original_question": row["original_question"]}
        assert json.loads(record["entry"]) == entry
        assert record["messages"] == ""


def test_metamathqa_without_original_questions_is_refused(prepare):
    rows = [{**row, "original_question": None} for row in source_rows.metamathqa(8)]
    with pytest.raises(ValueError, match=r"rows.jsonl row 1: 'original_question' is not text"):
        prepare("metamathqa", rows)
    for row in rows:
        del row["original_question"]
    with pytest.raises(ValueError, match=r"original_question missing; .* the published files"):
        prepare("metamathqa", rows)


def test_the_variations_of_a_question_held_out_are_no_training_rows(prepare):
    # What FOBAR and SV ask shares neither numbers nor most words with the question.
    rows = [
        {
            "type": domain,
            "query": query.format(source_rows.sentence(number), number),
            "original_question": f"{source_rows.sentence(number)} costs {number} dollars?",
            "response": f"The answer is: {number}",
        }
        for number in range(12)
        for domain, query in {
            "GSM_AnsAug": "{} costs {} dollars?",
            "GSM_FOBAR": "{} costs x dollars? The answer is 7. What is x?",
            "GSM_SV": "{} costs x dollars and comes to 7. What is x?",
        }.items()
    ]
    builder = prepare("metamathqa", rows, domains=("GSM_AnsAug", "GSM_FOBAR", "GSM_SV"))
    asked = {
        split: {json.loads(r["entry"])["original_question"] for r in records(builder, split)}
        for split in SPLITS
    }
    assert not asked["train"] & (asked["validation"] | asked["test"])


def test_molecules_have_a_domain_for_every_task_that_answers_with_one(tmp_path):
    path = source_rows.molecule_archive(tmp_path / "Molecule-oriented_Instructions.zip", 12, 4)
    builder = data.prepare_files("mol_instructions", path, **SIZES, directory=tmp_path)
    assert builder.info.metadata["domains"] == list(MOLECULE_DOMAINS)
    published = {
        (task, row["output"]): row
        for task in MOLECULE_DOMAINS
        for row in source_rows.molecules(task, 12, 4)
    }
    for record in records(builder):
        row = published[MOLECULE_DOMAINS[record["domain"]], record["response"]]
        assert record["question"] == f"{row['instruction']}\n{row['input']}"
        assert record["answer"] == row["output"]
        entry = json.loads(record["entry"])
        assert entry["input"] == row["input"] and entry["split"] == row["metadata"]["split"]


def test_molecules_marked_for_testing_are_the_test_rows_and_no_others(tmp_path):
    path = source_rows.molecule_archive(tmp_path / "molecules.zip", 12, 4)
    builder = data.prepare_files("mol_instructions", path, **SIZES, directory=tmp_path)
    marks = {
        split: {json.loads(record["entry"])["split"] for record in records(builder, split)}
        for split in SPLITS
    }
    assert marks == {"train": {"train"}, "validation": {"train"}, "test": {"test"}}
    assert report(builder)["left_out"] == {"published for testing and not needed": 2 * 4}


def published(task, pairs, split="train"):
    """Rows of Mol-Instructions with these inputs and outputs."""
    metadata = {"task": task.replace("_", " "), "split": split}
    return [
        {"instruction": "Do.", "input": given, "output": output, "metadata": metadata}
        for given, output in pairs
    ]


def molecule(number):
    symbols = ["[C]", "[N]", "[=O]", "[Ring1]", "[S]"]
    return "".join(np.random.default_rng(number).choice(symbols, 30))


@pytest.mark.parametrize("chosen", [MOLECULE_DOMAINS, MOLECULE_DOMAINS[:2]], ids=["all", "two"])
def test_no_training_row_asks_what_a_row_published_for_testing_asks(prepare, chosen):
    rows = []
    for first, task in zip(range(0, 40_000, 10_000), MOLECULE_DOMAINS, strict=True):
        pairs, swapped = [], []
        for n in range(first, first + 40):
            one, other, product, output = (molecule(n + shift) for shift in (0, 900, 500, 700))
            end = f">>{product}" if task == "reagent_prediction" else ""
            pairs.append((f"{one}.{other}{end}", output))
            swapped.append((f"{other}.{one}{end}", molecule(n + 77_000)))
        rows += published(task, pairs[:20]) + published(task, pairs[20:], "test")
        # The same questions again, and nearly the same ones.
        rows += published(task, pairs[20:30]) + published(task, swapped[30:])
    # What is asked for retrosynthesis, which may not be wanted: the other way round, and nearly.
    tests = [row for row in rows if row["metadata"]["split"] == "test"]
    backwards = [row for row in tests if row["metadata"]["task"] == "retrosynthesis"]
    mirrored = [(row["output"], row["input"]) for row in backwards]
    nearly = [
        (".".join(reversed(row["input"].split("."))), molecule(88_000 + i))
        for i, row in enumerate(backwards)
    ]
    rows += published("forward_reaction_prediction", mirrored + nearly)
    builder = prepare("mol_instructions", rows, "rows.json", domains=chosen)

    def molecules(text):
        return tuple(sorted(text.partition(">>")[0].split(".")))

    tested = {molecules(row["input"]) for row in tests}
    for split in ("train", "validation"):
        for record in records(builder, split):
            assert molecules(json.loads(record["entry"])["input"]) not in tested
            assert molecules(record["response"]) not in tested
    counts = report(builder)
    assert counts["left_out"]["published for testing and not needed"] == 18 * len(chosen)
    # Of the other two tasks, the products say already that the questions are the same.
    near = counts["duplicates"]["train"]["near"] + counts["duplicates"]["validation"]["near"]
    assert near == 10 + 10 + 20
    places = counts["duplicates"]["first"]["near"]
    assert len(places) == 10
    assert all(molecules(rows[number - 1]["input"]) in tested for _, number in places)


def test_a_reaction_is_one_question_whichever_task_asks_it(prepare):
    rows = []
    for n in range(60):
        reactant, reagent, product = (molecule(n + shift) for shift in (0, 1000, 2000))
        rows += published("forward_reaction_prediction", [(f"{reactant}.{reagent}", product)])
        rows += published("reagent_prediction", [(f"{reactant}>>{product}", reagent)])
        rows += published("retrosynthesis", [(product, reactant)])
    builder = prepare("mol_instructions", rows, domains=MOLECULE_DOMAINS[1:])
    assert report(builder)["groups"] == 60
    held = {
        split: {
            product
            for record in records(builder, split)
            for product in map(molecule, range(2000, 2060))
            if product in record["question"] or product in record["response"]
        }
        for split in SPLITS
    }
    assert not held["train"] & (held["validation"] | held["test"])
    assert not held["validation"] & held["test"]


def test_molecule_files_of_other_tasks_are_skipped_and_counted(tmp_path):
    others = {
        task: source_rows.molecules(task, 5)
        for task in ("property_prediction", "molecular_description_generation")
    }
    path = source_rows.molecule_archive(tmp_path / "molecules.zip", 12, 4, **others)
    builder = data.prepare_files("mol_instructions", path, **SIZES, directory=tmp_path)
    assert {task: found["rows"] for task, found in report(builder)["skipped"].items()} == (
        dict.fromkeys(others, 5)
    )
    assert report(builder)["read"] == 4 * 12 + 10


def test_molecules_without_metadata_go_by_the_name_of_their_file(tmp_path):
    folder = tmp_path / "Molecule-oriented_Instructions"
    folder.mkdir()
    for task in MOLECULE_DOMAINS:
        rows = [row | {"metadata": None} for row in source_rows.molecules(task, 9)]
        (folder / f"{task}.json").write_text(json.dumps(rows))
    (tmp_path / "Protein-oriented_Instructions.zip").write_text("of no concern")
    builder = data.prepare_files("mol_instructions", tmp_path, **SIZES, directory=tmp_path / "p")
    counts = report(builder)["rows"]
    shares = {"train": 4, "validation": 3, "test": 2}
    assert counts == {domain: shares for domain in MOLECULE_DOMAINS}


@pytest.mark.parametrize("name", source_rows.WRITERS)
def test_instructions_are_the_same_in_every_format(prepare, name):
    columns = data.Columns(input="input")
    builder = prepare("instructions", source_rows.instructions(20), name, columns=columns)
    assert builder.info.metadata["domains"] == ["code", "prose"]
    number = 3
    row = source_rows.instructions(20)[number]
    (record,) = [record for record in records(builder) if record["id"] == number]
    assert record == {
        "id": number,
        "domain": 0,
        "question": f"{row['prompt']}\n{row['input']}",
        "response": row["response"],
        "answer": "3",
        "messages": "",
        "entry": "{}",
        "place": f"{name}{':below/rows.json' * name.endswith('.zip')} row {number + 1}",
    }


@pytest.mark.parametrize("name", source_rows.WRITERS)
def test_conversations_keep_what_comes_before_the_response(prepare, name):
    columns = data.Columns(messages="messages", domain="")
    builder = prepare("instructions", source_rows.instructions(20), name, columns=columns)
    assert builder.info.metadata["domains"] == ["all"]
    messages = source_rows.instructions(20)[5]["messages"]
    (record,) = [record for record in records(builder) if record["id"] == 5]
    assert record["response"] == messages[-1]["content"]
    assert record["question"] == f"Be brief.\n{messages[1]['content']}"
    assert json.loads(record["messages"]) == messages[:-1]


def test_sharegpt_conversations_end_with_the_last_message_of_the_assistant(prepare):
    rows = [
        {
            "turns": [
                {"from": "human", "value": f"question{i}"},
                {"from": "gpt", "value": "first"},
                {"from": "human", "value": "and then"},
                {"from": "gpt", "value": "last"},
                {"from": "human", "value": "thanks"},
            ]
        }
        for i in range(10)
    ]
    columns = data.Columns(messages="turns", domain="")
    record = records(prepare("instructions", rows, columns=columns))[0]
    assert record["response"] == "last"
    roles = [message["role"] for message in json.loads(record["messages"])]
    assert roles == ["user", "assistant", "user"]


def test_a_conversation_of_one_question_is_the_question(prepare):
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"question{i}"},
                {"role": "assistant", "content": "a"},
            ]
        }
        for i in range(10)
    ]
    columns = data.Columns(messages="messages", domain="")
    record = records(prepare("instructions", rows, columns=columns))[0]
    assert record["messages"] == "" and record["question"].startswith("question")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"prompt": "a", "domain": "all"}, "no column 'response'"),
        ({"prompt": "a", "response": None, "domain": "all"}, "'response' is not text"),
        ({"prompt": "a", "response": " \n", "domain": "all"}, "empty 'response'"),
        ({"prompt": "", "response": "b", "domain": "all"}, "empty 'prompt'"),
        ({"prompt": "a", "response": "\u200b\ufeff \u3164", "domain": "all"}, "empty 'response'"),
        ({"prompt": "\0", "response": "b", "domain": "all"}, "empty 'prompt'"),
        ({"prompt": "a", "response": "b", "domain": ""}, "empty 'domain'"),
        ({"prompt": "\ud800", "response": "b", "domain": "all"}, "invalid UTF-8"),
        ([], "not a JSON object"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_row_is_counted_by_reason_and_number(prepare, tmp_path, bad, reason):
    path = tmp_path / "rows.jsonl"
    rows = lines(200)
    rows.insert(6, bad)
    path.write_text("\n".join(map(json.dumps, rows)))
    builder = data.prepare_files(
        "instructions", path, **SIZES, directory=tmp_path / "p", domains=("all",)
    )
    assert report(builder)["read"] == 201
    assert report(builder)["bad"] == {reason: {"rows": 1, "first": [["rows.jsonl", 7]]}}
    assert len(records(builder)) == 200


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("[", "'messages' is not JSON"),
        ({"role": "user"}, "'messages' is not a list of messages"),
        ([{"role": "user", "content": "a"}], "no message of the assistant"),
        ([{"role": "assistant", "content": "a"}], "no message of the user before the response"),
        (
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}],
            "empty response",
        ),
        (
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": "\u2060"}],
            "empty response",
        ),
        (
            [{"role": "user", "content": "\u200b"}, {"role": "assistant", "content": "a"}],
            "empty prompt",
        ),
        ([{"role": "user", "content": ["a"]}], "'content' is not text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_conversation_is_refused_with_its_reason(prepare, messages, reason):
    rows = [{"messages": messages}]
    with pytest.raises(ValueError, match=f"got 1 of 1 .*row 1: {reason}"):
        prepare("instructions", rows, columns=data.Columns(messages="messages", domain=""))


def test_more_than_one_in_a_hundred_bad_rows_stop_with_the_first_ten(prepare, tmp_path):
    rows = lines(1000)
    for number in range(11):
        rows[7 * number]["response"] = ""
    with pytest.raises(ValueError, match="at most 1% bad rows, got 11 of 1000") as error:
        prepare("instructions", rows)
    named = [f"rows.jsonl row {7 * number + 1}: empty 'response'" for number in range(10)]
    assert f"({'; '.join(named)})" in str(error.value)
    assert not list((tmp_path / "prepared").rglob("*.array_record*"))
    assert not (tmp_path / "prepared" / "instructions").exists()
    rows[0]["response"] = "mended"
    assert report(prepare("instructions", rows))["bad"]["empty 'response'"]["rows"] == 10


def test_a_missing_column_is_named_with_those_that_are_there(prepare):
    columns = data.Columns(prompt="question")
    with pytest.raises(ValueError, match=r"rows.csv, got prompt, response, domain: question miss"):
        prepare("instructions", lines(20), "rows.csv", columns=columns)


def test_every_domain_with_too_few_questions_is_named_with_its_counts_and_rows(prepare):
    rows = lines(6) + [row | {"domain": "few"} for row in lines(5, "other") + lines(2, "other")]
    with pytest.raises(ValueError, match=r"too few of few \(7 rows of 5 questions") as error:
        prepare("instructions", rows)
    assert "all (" not in str(error.value)
    named = ", ".join(f"rows.jsonl row {number}" for number in range(7, 14))
    assert f"train 0 of 1; another row of its question is held out: 2, first {named})" in str(
        error.value
    )


def test_a_domain_of_near_duplicates_is_refused_with_their_number(prepare):
    rows = [
        {"prompt": f"{sentence(40, 0)} v{chr(97 + i)}", "response": "r", "domain": "all"}
        for i in range(6)
    ]
    with pytest.raises(ValueError, match=r"validation 0 of 3.*; near-duplicate .*: 5"):
        prepare("instructions", rows, test=1)


def test_a_column_of_inputs_may_be_absent_from_rows_but_not_from_all(prepare):
    rows = lines(150)
    columns = data.Columns(input="about")
    with pytest.raises(ValueError, match="the column about in some row, got none that has it"):
        prepare("instructions", rows, columns=columns)
    rows[140]["about"] = "this"
    builder = prepare("instructions", rows, columns=columns)
    asked = {record["id"]: record["question"] for record in records(builder)}
    assert (asked[139], asked[140]) == ("question139", "question140\nthis")


def test_a_domain_asked_for_that_no_row_has_is_named(prepare):
    rows = lines(20) + [row | {"domain": " Maths"} for row in lines(20, "sum")]
    with pytest.raises(ValueError, match=r"data\.domains .* got none of 'maths', 'other'") as error:
        prepare("instructions", rows, domains=("all", "maths", "other"))
    assert "that have rows are ' Maths', 'all'" in str(error.value)
    with pytest.raises(ValueError, match=r"got none of GSM_FOBAR|got none of 'GSM_FOBAR', 'MATH_"):
        prepare("metamathqa", source_rows.metamathqa(8, METAMATHQA_DOMAINS[:3]))


def test_errors_name_ten_domains_and_how_many_more(prepare):
    wanted = [f"d{i:02}" for i in range(25)]
    with pytest.raises(ValueError, match=r"got none of 'd00', .*'d09' and 15 more; .*'all';"):
        prepare("instructions", lines(20), domains=wanted)
    rows = [row | {"domain": wanted[i]} for i, row in enumerate(lines(25))]
    with pytest.raises(ValueError, match=r"; d09 \(1 rows .*\) and 15 more; ask") as error:
        prepare("instructions", rows)
    assert "d10" not in str(error.value)
    assert "listing the others in data.domains (`domains` of `prepare_files`)" in str(error.value)


def test_rows_of_domains_that_are_not_listed_are_passed_over_and_counted(prepare):
    rows = lines(40) + [row | {"domain": "few"} for row in lines(3, "other")]
    with pytest.raises(ValueError, match="leave the domain out by listing the others"):
        prepare("instructions", rows)
    builder = prepare("instructions", rows, domains=("all",))
    assert report(builder)["skipped"] == {
        "other domains": {"rows": 3, "first": [["rows.jsonl", row] for row in (41, 42, 43)]}
    }
    assert report(builder)["bad"] == {} and len(records(builder)) == 40


def test_a_domain_that_a_published_kind_does_not_have_is_bad(prepare):
    rows = source_rows.metamathqa(60)
    rows[6]["type"] = "GSM_None"
    builder = prepare("metamathqa", rows)
    assert report(builder)["bad"] == {"unknown domain": {"rows": 1, "first": [["rows.jsonl", 7]]}}


@pytest.mark.parametrize(
    "output", ["no molecule", "[C", "[C]..[O]", "[C] [O]", "[C].", "[]", "CCO"]
)
def test_an_output_that_is_no_selfies_is_bad(prepare, output):
    rows = [row for task in MOLECULE_DOMAINS for row in source_rows.molecules(task, questions=30)]
    rows[6]["output"] = output
    rows[7]["output"] = " [C][=C].[Na+1].[C@@H1]\n"
    found = report(prepare("mol_instructions", rows, validation=2, test=1))["bad"]
    assert found == {"'output' is not SELFIES": {"rows": 1, "first": [["rows.jsonl", 7]]}}


def test_published_domains_that_are_not_wanted_are_skipped(prepare):
    chosen = ("MATH_SV", "GSM_SV")
    builder = prepare("metamathqa", source_rows.metamathqa(8), domains=chosen)
    assert builder.info.metadata["domains"] == list(chosen)
    assert sum(found["rows"] for found in report(builder)["skipped"].values()) == 6 * 8


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("magic", {}, "unknown kind of source 'magic'; choose one of metamathqa"),
        ("metamathqa", {"domains": ("GSM",)}, "metamathqa has no domain GSM; choose of GSM_AnsAug"),
        ("instructions", {"domains": ("a", "a")}, r"every domain of data\.domains .* once, got a"),
        ("metamathqa", {"columns": data.Columns(prompt="q")}, "its format is fixed"),
        ("instructions", {"columns": data.Columns(prompt="")}, "of prompt and response"),
        ("instructions", {"columns": data.Columns(response="prompt")}, "each of its own"),
        ("instructions", {"columns": data.Columns(input="response")}, "each of its own"),
        (
            "instructions",
            {"validation": 0},
            "at least 1 row per domain .*validation=0",
        ),
        ("instructions", {"test": 0}, "at least 1 row per domain .*test=0"),
        ("instructions", {"train": -1}, "or more in train, got .*train=-1"),
    ],
)
def test_arguments_out_of_range_are_refused(prepare, kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        prepare(kind, lines(20), **arguments)


def test_rows_of_one_question_are_in_one_split(prepare):
    builder = prepare("metamathqa", source_rows.metamathqa(15, variants=2))
    questions = {
        split: {
            json.loads(record["entry"])["original_question"] for record in records(builder, split)
        }
        for split in SPLITS
    }
    assert not questions["train"] & questions["validation"]
    assert not questions["train"] & questions["test"]
    assert not questions["validation"] & questions["test"]
    assert report(builder)["left_out"] == {
        "another row of its question is held out": len(METAMATHQA_DOMAINS) * 5
    }


@pytest.mark.parametrize("seed", range(20))
def test_no_two_splits_share_a_group_at_any_size(seed):
    random = np.random.default_rng(seed)
    count, groups, domains = random.integers((1, 1, 1), (400, 120, 5))
    group = random.integers(0, groups, count) * 7919
    codes = [-1, splitting.TRAIN, splitting.TEST] if seed % 2 else [splitting.TRAIN]
    meant = random.choice(codes, count).astype(np.int8)
    published = [*group[meant == splitting.TEST], *random.integers(0, groups, 2) * 7919]
    scan = scanning.Scan(
        domains=tuple(map(str, range(domains))),
        domain=random.integers(0, domains, count).astype(np.int32),
        group=group,
        meant=meant,
        tally=scanning.Tally(),
        places=scanning.Places(),
        prompts={},
        published=[(group, None) for group in published],
    )
    sizes = splitting.Sizes(*random.integers((1, 1, 0), (4, 4, 3)))
    near = random.choice(count, count // 20, replace=False)
    try:
        split = splitting.assign(scan, sizes, seed, near)
    except ValueError as error:
        assert "got too few of" in str(error)
        return
    parts = [splitting.TRAIN, splitting.VALIDATION, splitting.TEST]
    owned = [set(scan.group[split == part].tolist()) for part in parts]
    assert not owned[0] & owned[1] and not owned[0] & owned[2] and not owned[1] & owned[2]
    for domain in range(domains):
        train, validation, test = (np.sum(split[scan.domain == domain] == part) for part in parts)
        assert (validation, test) == (sizes.validation, sizes.test)
        assert train >= 1 and (not sizes.train or train <= sizes.train)
        for_test = meant[scan.domain == domain] == splitting.TEST
        if for_test.any():
            assert np.all(for_test[split[scan.domain == domain] == splitting.TEST])
    assert not set(published) & (owned[0] | owned[1])
    assert not np.any(split[near] == splitting.VALIDATION)
    # No more rows give way than have to.
    given_way = np.flatnonzero(split == splitting.NEAR_TEST)
    assert set(given_way) <= set(near)
    for row in given_way:
        of_domain = (scan.domain == scan.domain[row]) & (split == splitting.VALIDATION)
        assert scan.group[row] < scan.group[of_domain].max()


def test_the_test_rows_do_not_depend_on_the_other_sizes(prepare):
    few = prepare("instructions", lines(40))
    more = prepare("instructions", lines(40), validation=9, train=4)
    assert records(few, "test") == records(more, "test")


def test_the_seed_decides_which_rows_go_where(prepare):
    one, other = (prepare("instructions", lines(40), seed=seed) for seed in (0, 1))
    assert records(one, "test") != records(other, "test")


def test_training_rows_are_at_most_so_many_per_domain(prepare):
    builder = prepare("instructions", source_rows.instructions(60), train=4)
    counts = report(builder)["rows"]
    assert all(rows["train"] == 4 for rows in counts.values())
    assert report(builder)["left_out"] == {"more than the training rows asked for": 42}


def test_near_duplicates_between_splits_are_left_out_and_counted(prepare):
    rows = [
        {
            "prompt": f"{sentence(40, i % 20)} of kind {'again' * (i // 20)}",
            "response": "r",
            "domain": "d",
        }
        for i in range(60)
    ]
    builder = prepare("instructions", rows)
    kinds = {
        split: {record["question"].split()[0] for record in records(builder, split)}
        for split in SPLITS
    }
    assert not kinds["train"] & (kinds["validation"] | kinds["test"])
    assert not kinds["validation"] & kinds["test"]
    counts = report(builder)
    assert counts["rows"]["d"]["validation"] == SIZES["validation"]
    assert counts["rows"]["d"]["train"] == len(records(builder, "train"))
    assert counts["duplicates"]["train"]["near"] > 0 and counts["duplicates"]["train"]["exact"] == 0
    accounted = len(records(builder)) + sum(counts["left_out"].values())
    assert accounted + counts["duplicates"]["train"]["near"] == 60
    held = {record["id"] % 20 for split in SPLITS[1:] for record in records(builder, split)}
    first = counts["duplicates"]["first"]
    assert first["exact"] == [] and len(first["near"]) == counts["duplicates"]["train"]["near"]
    assert all(file == "rows.jsonl" and (row - 1) % 20 in held for file, row in first["near"])


def sentence(count, number):
    """A sentence of words that no other number's has."""
    return " ".join(f"word{number}x{i}" for i in range(count))


def conversations(count, frame):
    """Short questions of as many words, each after the same frame."""
    return [
        {
            "messages": [
                {"role": "system", "content": frame},
                {"role": "user", "content": sentence(6, i)},
                {"role": "assistant", "content": f"r{i}"},
            ]
        }
        for i in range(count)
    ]


def test_what_a_system_turn_says_tells_no_questions_apart(prepare):
    rows = conversations(200, sentence(120, "frame"))
    rows += conversations(200, sentence(50, "other"))
    builder = prepare("instructions", rows, columns=data.Columns(messages="messages", domain=""))
    counts = report(builder)
    # All that is left out are the questions held out, as they are asked after the other frame.
    assert counts["duplicates"]["train"] == {
        "exact": 0,
        "near": 5 - counts["duplicates"]["validation"]["near"],
    }
    assert len(records(builder)) == 395


@pytest.mark.parametrize("column", ["input", ""])
def test_a_long_instruction_makes_no_near_duplicates(prepare, column):
    frame = sentence(120, "frame")
    rows = [
        {"prompt": frame, "input": sentence(6, i), "response": "r", "domain": "ab"[i % 2]}
        for i in range(300)
    ]
    if not column:
        rows = [row | {"prompt": f"{row['prompt']} {row['input']}"} for row in rows]
    rows += [row | {"response": "again"} for row in rows]
    builder = prepare("instructions", rows, columns=data.Columns(input=column))
    assert report(builder)["duplicates"]["train"] == {"exact": 0, "near": 0}
    assert report(builder)["left_out"] == {"another row of its question is held out": 2 * 5}
    assert len(records(builder, "train")) == 600 - 4 * 5


def test_a_prompt_of_nothing_but_frames_is_compared_as_a_whole(prepare):
    rows = conversations(100, "Be brief.")
    for i, row in enumerate(rows):
        row["messages"][0]["content"] = sentence(50, i)
        row["messages"][1]["content"] = "Sum up what I said before."
    builder = prepare("instructions", rows, columns=data.Columns(messages="messages", domain=""))
    assert len(records(builder)) == 100


@pytest.mark.parametrize("copies", [100, 600])
def test_validation_rows_near_test_rows_give_way_in_a_bounded_number_of_passes(
    prepare, monkeypatch, copies
):
    # Six wordings of every question: too few to be boilerplate.
    rows = [
        {"prompt": f"{sentence(40, i // 6)} v{i % 6}", "response": "r", "domain": "d"}
        for i in range(copies)
    ]
    rows += [row | {"domain": "d"} for row in lines(40)]
    passes = []
    original = scanning.good_rows
    for module in (splitting, scanning):
        monkeypatch.setattr(
            module, "good_rows", lambda *a, **k: passes.append(1) or original(*a, **k)
        )
    builder = prepare("instructions", rows, validation=50, test=30)
    asked = {s: {r["question"].split()[0] for r in records(builder, s)} for s in SPLITS}
    assert not asked["test"] & (asked["validation"] | asked["train"])
    assert not asked["validation"] & asked["train"]
    assert report(builder)["rows"]["d"]["validation"] == 50
    assert report(builder)["duplicates"]["validation"]["near"] > 0
    assert len(passes) <= 3


def test_the_same_query_of_two_original_questions_counts_as_exact(prepare):
    rows = source_rows.metamathqa(12, ["GSM_SV"])
    rows += [row | {"original_question": row["original_question"] + " Really?"} for row in rows]
    builder = prepare("metamathqa", rows, domains=("GSM_SV",))
    assert report(builder)["duplicates"]["train"]["exact"] > 0
    asked = {split: {r["question"] for r in records(builder, split)} for split in SPLITS}
    assert not asked["train"] & (asked["validation"] | asked["test"])


def test_a_domain_whose_training_rows_are_all_duplicates_is_refused(prepare, tmp_path):
    same = {"query": "the same", "response": "r", "type": "GSM_SV"}
    rows = [same | {"original_question": str(i)} for i in range(9)]
    rows += source_rows.metamathqa(3, ["GSM_SV"])
    with pytest.raises(ValueError, match=r"training rows of every domain, got none of GSM_SV"):
        prepare("metamathqa", rows, validation=3, test=1, domains=("GSM_SV",))
    assert not list((tmp_path / "prepared").rglob("*.array_record*"))


def test_ids_are_unique_and_records_in_order_of_reading(prepare):
    builder = prepare("metamathqa", source_rows.metamathqa(12))
    ids = [record["id"] for record in records(builder)]
    assert len(set(ids)) == len(ids)
    for split in SPLITS:
        numbers = [record["id"] for record in records(builder, split)]
        assert numbers == sorted(numbers)


def test_a_corpus_is_prepared_once_and_quietly(prepare, tmp_path, monkeypatch, capfd, caplog):
    first = records(prepare("instructions", lines(20)))
    monkeypatch.setattr(builders, "make_plan", lambda *_: pytest.fail("prepared again"))
    path = tmp_path / "rows.jsonl"
    builder = data.prepare_files("instructions", path, **SIZES, directory=tmp_path / "prepared")
    assert records(builder) == first
    assert builder.info.metadata["domains"] == ["all"] and report(builder)["read"] == 20
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert "tensorflow" not in sys.modules


def test_a_changed_source_is_prepared_again_beside_the_old_corpus(prepare):
    old = prepare("instructions", lines(20))
    kept = records(old)
    new = prepare("instructions", lines(21))
    assert report(new)["read"] == 21
    assert records(old) == kept


@pytest.mark.parametrize(
    "change",
    [{"validation": 4}, {"test": 3}, {"train": 1}, {"seed": 1}, {"domains": ("all",)}],
    ids=str,
)
def test_any_change_of_the_arguments_has_a_name_of_its_own(prepare, change):
    names = {
        prepare("instructions", lines(20), **more).builder_config.name for more in ({}, change)
    }
    assert len(names) == 2


def test_a_later_process_reads_the_same_records(prepare, tmp_path):
    builder = prepare("instructions", lines(20))
    script = f"""
        import tensorflow_datasets as tfds
        builder = tfds.builder_from_directory({str(builder.data_path)!r})
        source = builder.as_data_source(split="train")
        print([source[i]["question"].decode() for i in range(len(source))])
        print(builder.info.metadata["domains"])
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    asked = [record["question"] for record in records(builder, "train")]
    assert done.stdout.splitlines() == [str(asked), "['all']"]


def test_a_process_killed_half_way_leaves_nothing_in_the_way(prepare, tmp_path):
    path = source_rows.write(tmp_path, "rows.jsonl", lines(20))
    arguments = {**SIZES, "directory": str(tmp_path / "prepared")}
    script = f"""
        import os, signal
        from partitionsel_jax.data.sources import builders, splitting

        def dying(*_):
            os.kill(os.getpid(), signal.SIGKILL)

        splitting.Plan.report = dying
        builders.prepare_files("instructions", {str(path)!r}, **{arguments!r})
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    killed = subprocess.run(command, env=os.environ | {"PYTHONPATH": "."}, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert list((tmp_path / "prepared").rglob("incomplete*"))
    again = prepare("instructions", lines(20))
    fresh = prepare("instructions", lines(20), directory=tmp_path / "fresh")
    assert records(again) == records(fresh)


def test_another_process_that_finishes_first_is_no_error(prepare, monkeypatch):
    original = builders.Instructions._generate_splits

    def overtaken(self, *arguments):
        infos = original(self, *arguments)
        monkeypatch.setattr(builders.Instructions, "_generate_splits", original)
        prepare("instructions", lines(20))
        return infos

    monkeypatch.setattr(builders.Instructions, "_generate_splits", overtaken)
    assert len(records(prepare("instructions", lines(20)))) == 20


@pytest.mark.parametrize("count", [0, 200, 599, 600, 601])
@pytest.mark.parametrize(
    ("module", "name"),
    [(splitting.Plan, "rows"), (splitting, "_look_again"), (builders, "make_plan")],
)
def test_a_source_that_changes_while_it_is_read_is_refused(
    prepare, tmp_path, monkeypatch, module, name, count
):
    original = getattr(module, name)
    # Validation rows give way, in favour of rows that the scan did not keep.
    first = scanning.FirstPrompts
    monkeypatch.setattr(scanning, "FirstPrompts", lambda size: first(40))
    rows = [
        {"prompt": f"{sentence(40, i // 6)} v{i % 6}", "response": "r", "domain": "all"}
        for i in range(600)
    ]

    def changed(*arguments):
        monkeypatch.setattr(module, name, original)
        path = tmp_path / "rows.jsonl"
        if count:
            source_rows.write(tmp_path, "rows.jsonl", lines(count))
        else:
            path.unlink()
        return original(*arguments)

    monkeypatch.setattr(module, name, changed)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        prepare("instructions", rows, validation=50, test=30)
    assert "changed while it was read; start again" in str(error.value) or not count
    assert not list((tmp_path / "prepared").rglob("*.array_record-*"))
    assert prepare("instructions", rows, validation=50, test=30)


def test_a_source_that_is_gone_when_it_was_read_is_refused(prepare, tmp_path, monkeypatch):
    original = splitting.Plan.rows

    def gone(plan, left_out):
        yield from original(plan, left_out)
        (tmp_path / "rows.jsonl").unlink()

    monkeypatch.setattr(splitting.Plan, "rows", gone)
    with pytest.raises(ValueError, match="changed while it was read; start again"):
        prepare("instructions", lines(20))


def test_a_source_that_is_touched_while_it_is_read_is_no_other(prepare, tmp_path, monkeypatch):
    original = splitting.Plan.rows

    def touched(plan, left_out):
        os.utime(tmp_path / "rows.jsonl", ns=(1, 1))
        return original(plan, left_out)

    monkeypatch.setattr(splitting.Plan, "rows", touched)
    assert len(records(prepare("instructions", lines(20)))) == 20


def corrupt(path, how):
    content = path.read_bytes()
    path.unlink()
    if how != "gone":
        damage = {"cut": content[: len(content) // 2], "nested": b"[" * 100_000, "empty": b""}
        path.write_bytes(damage.get(how, how.encode()))


@pytest.mark.parametrize("how", ["gone", "cut", "empty", "[]", "null", "nested"])
def test_damaged_files_of_a_prepared_corpus_are_refused_or_of_no_concern(prepare, tmp_path, how):
    folder = tmp_path / "prepared"

    def used():
        corpus = data.load(prepare("instructions", lines(20)), data.ByteTokenizer(), 64, seed=0)
        parts = (corpus.train, corpus.anchors, corpus.validation, corpus.test)
        return [part.rows(range(len(part))).tokens.tolist() for part in parts]

    whole = used()
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 3 + 3 + 3
    folder.rename(tmp_path / "whole")
    refused = set()
    for file in files:
        shutil.copytree(tmp_path / "whole", folder)
        corrupt(folder / file, how)
        try:
            assert used() == whole
        except ValueError as error:
            refused.add(file.name.split(".")[0].split("-")[-1])
            place = folder / "instructions" / file.parts[1]
            assert f"delete {place}, and they are prepared again" in str(error)
            assert how != "gone" or file.name in str(error)
            shutil.rmtree(place)
            assert used() == whole
        shutil.rmtree(folder)
    assert refused == {"dataset_info", "metadata", "train", "validation", "test"}


def test_a_prepared_source_is_a_corpus(prepare):
    builder = prepare("metamathqa", source_rows.metamathqa(12))
    corpus = data.load(builder, data.ByteTokenizer(), length=256, seed=0)
    assert corpus.domains == METAMATHQA_DOMAINS
    assert len(corpus.test) == 16


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub whose every repository holds the molecules' archive; records what is asked of it."""
    asked = []

    def snapshot_download(repository, **arguments):
        asked.append((repository, arguments))
        folder = tmp_path / "snapshot" / "data"
        folder.mkdir(parents=True, exist_ok=True)
        source_rows.molecule_archive(folder / "Molecule-oriented_Instructions.zip", 12, 4)
        return str(folder.parent)

    hub = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    return asked


@pytest.mark.parametrize(
    ("path", "repository", "revision"),
    [("", "zjunlp/Mol-Instructions", None), ("own/copy@v1", "own/copy", "v1")],
)
def test_a_source_is_downloaded_by_its_name(hub, tmp_path, path, repository, revision):
    builder = data.prepare_files("mol_instructions", path, **SIZES, directory=tmp_path / "p")
    assert len(records(builder, "test")) == 2 * 4
    patterns = ["data/Molecule-oriented_Instructions.zip"]
    arguments = {"repo_type": "dataset", "revision": revision, "allow_patterns": patterns}
    assert hub == [(repository, {**arguments, "local_dir": None})]


def test_a_download_that_fails_says_what_to_do(monkeypatch, tmp_path):
    def fails(*_, **__):
        raise ConnectionError("no route\nmore")

    hub = types.SimpleNamespace(snapshot_download=fails)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(
        ValueError, match=r"cannot download .*meta-math/MetaMathQA.*no route\).*copy"
    ):
        data.prepare_files("metamathqa", "", **SIZES, directory=tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"needs the package huggingface_hub: pip install"):
        data.prepare_files("metamathqa", "", **SIZES, directory=tmp_path)


@pytest.mark.parametrize("path", ["", "nothing.json", "a/b/c.json", "./a/b"])
def test_a_path_where_nothing_is_is_refused(tmp_path, path):
    with pytest.raises(ValueError, match=r"name it|mend the path"):
        data.prepare_files("instructions", path, **SIZES, directory=tmp_path)


@pytest.mark.parametrize("seed", range(3))
def test_the_first_prompts_are_those_of_the_first_groups_and_rows(seed):
    random = np.random.default_rng(seed)
    groups = random.integers(-50, 50, 400).tolist()
    first = scanning.FirstPrompts(10)
    for row, group in enumerate(groups):
        first.add("domain", group, row, f"prompt {row}")
    kept = first.prompts()
    assert len(kept) <= 20
    for group in sorted(set(groups))[:10]:
        assert kept[groups.index(group)] == f"prompt {groups.index(group)}"


def test_prompts_that_were_not_kept_are_read_again(prepare, tmp_path, monkeypatch):
    rows = [
        {"prompt": f"{sentence(40, i % 8)} v{chr(97 + i // 8)}", "response": "r", "domain": "d"}
        for i in range(48)
    ]
    kept = prepare("instructions", rows)
    assert report(kept)["duplicates"]["validation"]["near"] > 0

    def scan(*arguments, **more):
        found = scanning.scan(*arguments, **more)
        split = splitting.assign(found, splitting.Sizes(validation=3, test=2), SIZES["seed"])
        tests = set(np.flatnonzero(split == splitting.TEST).tolist())
        prompts = {row: prompt for row, prompt in found.prompts.items() if row in tests}
        return dataclasses.replace(found, prompts=prompts)

    monkeypatch.setattr(splitting, "scan", scan)
    again = prepare("instructions", rows, directory=tmp_path / "again")
    assert records(again) == records(kept) and report(again) == report(kept)
