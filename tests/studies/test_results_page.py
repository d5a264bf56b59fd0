"""RESULTS.md: verdicts that follow from the figures, and every chart and table in its place."""

import importlib
import re

import pytest
from etils import epath

from partitionsel_jax import studies, sweeps
from partitionsel_jax.studies import charts, claims, records, tables
from tests.studies.conftest import groups_of, make_run, make_study


@pytest.fixture
def folder(methods, noise, tmp_path):
    for study in (methods, noise):
        records.write(study, epath.Path(tmp_path) / "study" / "bytes" / study.claim)
    return tmp_path


def outcomes(study):
    return {verdict.claim: verdict.outcome for verdict in claims.shown(study)[0]}


def test_the_page_has_every_study_and_says_what_is_owed(folder):
    written = studies.update(folder / "study", folder / "RESULTS.md")
    page = (folder / "RESULTS.md").read_text()
    pictures = re.findall(r"!\[[^]]*\]\(([^)]*)\)", page)
    assert pictures and all(
        (folder / path).read_bytes().startswith(b"\x89PNG") for path in pictures
    )
    assert len(written) == 1 + len(pictures)
    assert "### (a) PartitionSel" in page and "### (d) Corrupted answers" in page
    assert "### (h)" not in page
    owed = page.split("## Not run yet")[1]
    assert "* `bytes` (" in owed and "weights" in owed and "noise" not in owed.split("smollm2")[0]
    assert "`smollm2`" in owed
    assert not re.search(r"None\b(?! is)|\bnan\b", page)
    # The same files give the same page.
    studies.update(folder / "study", folder / "RESULTS.md")
    assert (folder / "RESULTS.md").read_text() == page


def test_links_are_relative_to_the_page(folder):
    (folder / "elsewhere").mkdir()
    studies.update(folder / "study", folder / "elsewhere" / "page.md")
    page = (folder / "elsewhere" / "page.md").read_text()
    assert "](../study/bytes/main.png)" in page


def test_without_a_study_there_is_no_page(tmp_path):
    with pytest.raises(ValueError, match="no study in"):
        studies.update(tmp_path, tmp_path / "RESULTS.md")
    assert not (tmp_path / "RESULTS.md").exists()


def test_what_beats_random_and_loses_to_greats_is_said_so(methods):
    found = outcomes(methods)
    assert found["The paper: PartitionSel trains better than random picks"] == claims.HELD
    greats = "The paper: PartitionSel trains better than GREATS, ID, IWD, CoLM and others"
    assert found[greats] == claims.FAILED
    table = claims.shown(methods)[1][0].text
    row = next(line for line in table.splitlines() if line.startswith("| partitionsel"))
    # Of the way from 4 to 1.1, that to 2.1 is 0.655; every update costs four.
    assert "**−1.000** (−1.000 to −1.000)" in row and "4.00×" in row
    assert "0.65× (" in row and "2.62× (" in row


def test_clean_data_without_a_difference_decide_nothing(noise):
    found = outcomes(noise)
    goal = next(outcome for claim, outcome in found.items() if "the goal" in claim)
    assert goal == claims.FAILED
    assert found["Ours: with garbled answers PartitionSel ends lower than random picks"] == "held"
    assert "Clean" in [table.heading for table in claims.shown(noise)[1]]


@pytest.mark.parametrize(
    ("signs", "expected"),
    [
        ([], claims.OPEN),
        ([-1, -1], claims.HELD),
        ([-1, 0], claims.PARTLY),
        ([0, 0], claims.OPEN),
        ([0, 1], claims.FAILED),
        ([-1, -1, 1], claims.PARTLY),
        ([-1, 1, 1], claims.FAILED),
    ],
)
def test_outcomes_follow_the_signs(signs, expected):
    assert claims.outcome(signs, -1) == expected
    assert claims.outcome([-sign for sign in signs], 1) == expected


@pytest.mark.parametrize("claim", sorted(claims.SECTIONS))
def test_every_claim_makes_a_section_of_its_own_runs(claim, tmp_path):
    """The methods and axes are those of the claim's own config."""
    config = importlib.import_module(f"configs.reproduce.{claim}").get_config("seeds=2,tune=False")
    runs = sweeps.planned(config.to_dict())
    made = [make_run(run.method, run.seed, 1.0 + 0.1 * run.seed, axes=run.axes) for run in runs]
    # As it comes from disk.
    records.write(make_study(claim, made), epath.Path(tmp_path) / claim)
    verdicts, shown = claims.shown(records.read(epath.Path(tmp_path) / claim))
    assert shown and all(table.text.count("\n") >= 2 for table in shown)
    for verdict in verdicts:
        # All methods are equal: none may be said to end lower than another.
        assert verdict.evidence and (verdict.outcome != claims.HELD or "no worse" in verdict.claim)


@pytest.mark.parametrize(
    ("finals", "flops", "expected"),
    [
        # Random picks end at 2.0; the preset has 0.4 of the updates.
        ((1.8, 1.81, 1.8), 1.9, claims.HELD),
        ((1.8, 1.81, 1.8), 2.1, claims.FAILED),
        ((1.9, 2.2, 1.9), 1.9, claims.OPEN),
        ((2.1, 2.11, 2.1), 1.9, claims.FAILED),
    ],
)
def test_the_goal_of_the_preset_needs_the_whole_interval(finals, flops, expected):
    runs = [make_run("random", seed, 2.0, updates=100) for seed in range(3)]
    runs += [
        make_run("frugal", seed, final, updates=40, flops=flops)
        for seed, final in enumerate(finals)
    ]
    (goal, _), _ = claims.shown(make_study("cost", runs))
    assert "the goal" in goal.claim and goal.outcome == expected


NOISE = {"data.noise.kind": "garbled", "data.noise.share": 0.3}


@pytest.mark.parametrize(
    ("finals", "flops", "expected"),
    [
        # Random picks end at 2: of the way from 4 to -0.5 this is 0.444, which costs 0.489.
        ((-0.5, -0.51, -0.5), 1.1, claims.HELD),
        ((-0.5, -0.51, -0.5), 1.3, claims.FAILED),
        ((0.0, 0.0, 0.01), 1.0, claims.FAILED),
        # 0.2 and 0.6 of the updates: an interval far beyond 0.8.
        ((-6.0, 2 / 3), 1.1, claims.OPEN),
        ((-0.5, -0.51, 2.1), 1.1, claims.OPEN),
    ],
)
def test_the_goal_of_a_small_model_needs_all_three_costs_and_their_intervals(
    finals, flops, expected
):
    seeds = range(len(finals))
    runs = [make_run("random", seed, 2.0, axes=NOISE) for seed in seeds]
    runs += [make_run("small-random", seed, 3.0, axes=NOISE) for seed in seeds]
    runs += [
        make_run("frozen", seed, final, axes=NOISE, flops=flops)
        for seed, final in enumerate(finals)
    ]
    verdicts, shown = claims.shown(make_study("proxy_large", runs))
    (goal,) = (verdict for verdict in verdicts if "the goal" in verdict.claim)
    assert goal.outcome == expected and "30 % garbled" in goal.claim
    (table,) = shown
    assert "| frozen" in table.text and "small-random" not in table.text
    assert "at equal seconds" in table.text


@pytest.mark.parametrize(
    ("of_garbled", "of_clean", "expected"),
    [
        ((True, True), (None, False), claims.HELD),
        ((True, None), (None, None), claims.FAILED),
        ((True, True), (True, None), claims.FAILED),
    ],
)
def test_a_guard_has_to_be_right_in_every_seed(of_garbled, of_clean, expected):
    runs = []
    clean = {"data.noise.kind": "none"}
    for axes, said in ((NOISE, of_garbled), (clean, of_clean)):
        for seed, pays in enumerate(said):
            runs.append(make_run("random", seed, 2.0, axes=axes))
            guard = {True: 1.0, False: -1.0, None: 0.0}[pays]
            runs.append(make_run("guarded", seed, 1.0, axes=axes, guard=guard))
    verdicts, _ = claims.shown(make_study("proxy_large", runs))
    (verdict,) = (verdict for verdict in verdicts if "the guard" in verdict.claim)
    assert verdict.outcome == expected
    assert f"30 % garbled answers: pays {of_garbled.count(True)}," in verdict.evidence


def test_every_problem_has_its_methods_and_who_selects_is_drawn():
    clean = {"data.noise.kind": "none"}
    runs = [
        make_run(method, seed, final, axes=axes)
        for axes in (clean, NOISE)
        for method, final in (("random", 2.0), ("frozen", 1.0), ("partitionsel", 1.0))
        for seed in (1, 2)
    ]
    study = make_study("proxy", runs)
    names = ["partitionsel", "frozen", "random"]
    assert {heading: list(groups) for heading, groups in claims.problems(study).items()} == {
        "clean": names,
        "30 % garbled answers": names,
    }
    ((name, _, image),) = charts.of_study(study)
    assert name == "proxy" and image.startswith(b"\x89PNG")


def test_simpler_ways_are_compared_with_the_small_model():
    finals = {"frozen": 1.0, "filtered-30": 1.5, "anchors-alone": 3.0, "random": 2.0}
    runs = [make_run(name, seed, final) for name, final in finals.items() for seed in (1, 2, 3)]
    verdicts, (table,) = claims.shown(make_study("proxy_rivals", runs))
    assert list(claims.problems(make_study("proxy_rivals", runs))) == ["30 % garbled answers"]
    (verdict,) = (verdict for verdict in verdicts if "simpler" in verdict.claim)
    assert verdict.outcome == claims.HELD
    assert "filtered-30" in verdict.evidence and "random" not in verdict.evidence
    assert "anchors-alone" in table.text


def test_the_best_of_a_situation_and_what_is_as_good(methods):
    table = claims.choices(claims.shown(methods)[1])
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert [line[0] for line in lines[2:]] == [
        "clean, 12.5 % of the pool",
        "clean, 25 % of the pool",
    ]
    # Greats ends lowest by far, but four times the cost per update is never made up for.
    assert lines[2][1:] == ["greats", "–", "random"]
    assert claims.choices([]) == ""


def test_a_study_without_its_runs_is_no_study_that_was_not_run(folder):
    (folder / "study" / "bytes" / "methods" / records.RUNS).unlink()
    with pytest.raises(ValueError, match="methods holds no study that can be read"):
        studies.update(folder / "study", folder / "RESULTS.md")


def test_cells_say_how_many_reached_the_target():
    made = [make_run("a", seed, final) for seed, final in ((1, 0.0), (2, 3.0), (3, 0.0))]
    groups = groups_of(*made, *(make_run("b", seed, 2.0) for seed in (1, 2, 3)))
    group, baseline = groups["a"], groups["b"]
    assert tables.ratio_text(tables.to_target(group, baseline, "updates")) == "0.50× (2 of 3)"
    assert tables.ratio_text(tables.to_target(group[1:2], baseline, "updates")) == (
        "not reached (0 of 1)"
    )
    assert tables.ratio_text(tables.to_target(group, baseline[:0], "updates")) == tables.NOTHING
    assert tables.seeds(group) == "1 to 3" and tables.seeds(group[::2]) == "1, 3"
