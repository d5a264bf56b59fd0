"""Molecule metrics against values that are computed by hand, and outputs of every kind."""

import contextlib
import math
import sys
import time
from pathlib import Path
from statistics import mean

import hypothesis
import hypothesis.strategies as st
import pytest

from partitionsel_jax.evaluation import molecules

ETHANOL, ETHYLAMINE = "[C][C][O]", "[C][C][N]"
L_ALANINE = "[C][C@@H1][Branch1][=Branch1][C][=Branch1][C][=O][O][N]"
D_ALANINE = "[C][C@H1][Branch1][=Branch1][C][=Branch1][C][=O][O][N]"
SIMILARITIES = ("maccs", "rdk", "morgan")


def lattice(width):
    """SMILES of 3 × 3 × `width` sulphur atoms, each bound to its neighbours in space."""
    places = [(x, y, z) for x in range(3) for y in range(3) for z in range(width)]
    bonds = [
        (a, b)
        for a in places
        for b in places
        if a < b and sum(map(abs, map(int.__sub__, a, b))) == 1
    ]
    rings = {place: "" for place in places}
    for number, (a, b) in enumerate(bonds, 10):
        rings[a] += f"%({number})"
        rings[b] += f"%({number})"
    return ".".join("S" + text for text in rings.values())


@pytest.mark.parametrize(
    "output",
    [
        ETHANOL,
        f"  {ETHANOL}\n",
        f"The product is {ETHANOL}.",
        f"[C] or rather:{ETHANOL}, as [O] is lost",
        "CCO",
        "OCC",
        "C(O)C\n",
        "[CH3:1][CH2:2][OH:3]",
        "[O][C][C]",
        "[C][C][O][",
    ],
)
def test_the_same_molecule_has_full_marks_however_it_is_written(output):
    found = molecules.compare(output, ETHANOL)
    assert found == molecules.MoleculeScores(True, True, 1.0, 0, 1.0, 1.0, 1.0, "CCO", "CCO")


@pytest.mark.parametrize(
    "output",
    [
        "",
        " \n",
        ".",
        "[nop]",
        "[Branch1][Ring1]",
        "[C][C][Xx]",
        "The product is ethanol.",
        "The product is CCO.",
        "CCO CCO",
        "C1CC",
        "CC(C)(C)(C)C",
        "*",
        "[C][*]",
        "CCO\0OCC",
        "CC\ud800O",
        "[１３C]",
        "C" * 1001,
        "[C]" * 1001,
        f"[{'9' * 5000}C]",
        lattice(12),
    ],
)
def test_what_is_no_molecule_has_the_worst_of_every_metric(output):
    found = molecules.compare(output, ETHANOL)
    assert (found.exact, found.valid, found.bleu, found.smiles) == (False, False, 0.0, "")
    assert [getattr(found, name) for name in SIMILARITIES] == [0.0, 0.0, 0.0]
    assert found.levenshtein == max(len(output.strip()), 3)


def test_one_right_answer_beside_99_undecodable_ones_scores_a_hundredth():
    scores = [molecules.compare(ETHANOL, ETHANOL)]
    scores += [molecules.compare("no idea", ETHANOL)] * 99
    for name in ("exact", "valid", "bleu", *SIMILARITIES):
        assert mean(getattr(score, name) for score in scores) == pytest.approx(0.01)
    # Seven characters of garbage are 7 edits from anything short: 99 · 7 / 100.
    assert mean(score.levenshtein for score in scores) == pytest.approx(6.93)
    # 3 characters where 300 are expected: the brevity penalty alone is exp(1 - 300 / 3).
    together = molecules.corpus_bleu([score.smiles for score in scores], [ETHANOL] * 100)
    assert together == pytest.approx(math.exp(-99))


def test_similarities_are_bits_in_both_over_bits_in_either():
    found = molecules.compare(ETHYLAMINE, ETHANOL)
    # MACCS keys. Ethanol: 82 109 114 139 153 155 157 160 164 (*CH2X, *CH2O, CH3CH2*, OH, XCH2*,
    # CH2, C-O, CH3, O); ethylamine: 82 84 100 114 151 153 155 158 160 161 (with NH2, *CH2N, NH,
    # C-N and N in place of those of oxygen). Five in both, 9 + 10 - 5 in either.
    assert found.maccs == pytest.approx(5 / 14)
    # Paths, two bits each. Ethanol: C-C, C-O, C-C-O; ethylamine: C-C, C-N, C-C-N.
    assert found.rdk == pytest.approx(2 / (6 + 6 - 2))
    # Surroundings of radius 0: CH3, CH2, OH against CH3, CH2, NH2. Of radius 1, one around each
    # atom, of which only the one around CH3 is in both; those of radius 2 hold no new bonds.
    assert found.morgan == pytest.approx(3 / (6 + 6 - 3))
    # Butane: CH3, CH2; around them CH3-CH2, CH3-CH2-CH2; all of it, around a CH2: 5. Pentane: the
    # first four, CH2-CH2-CH2, and of radius 2 those around its two kinds of CH2: 7.
    assert molecules.compare("CCCC", "CCCCC").morgan == pytest.approx(4 / (5 + 7 - 4))


def test_molecules_without_a_bit_are_alike_only_where_they_are_the_same():
    assert molecules.compare("[C]", "[O]").rdk == 0.0
    assert molecules.compare("[C]", "[C]").rdk == 1.0


def test_bleu_is_that_of_the_characters_of_canonical_smiles():
    butylamine, butanol = "[C][C][C][C][N]", "[O][C][C][C][C]"
    found = molecules.compare(butylamine, butanol)
    # CCCCN against CCCCO: 4 of 5 characters, 3 of 4 pairs, 2 of 3 triples, 1 of 2 of four.
    precision = (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4)
    assert found.bleu == pytest.approx(precision)
    # CCCO against CCCCO: every n-gram is there, and one of five characters is missing.
    assert molecules.compare("[C][C][C][O]", butanol).bleu == pytest.approx(math.exp(1 - 5 / 4))
    # CCN against CCO: no triple is right.
    assert molecules.compare(ETHYLAMINE, ETHANOL).bleu == 0.0
    # Together with an output of no length, 5 characters stand for 10.
    both = molecules.corpus_bleu([found.smiles, ""], [butanol] * 2)
    assert both == pytest.approx(precision * math.exp(1 - 10 / 5))


def test_levenshtein_counts_edits_of_canonical_smiles():
    # CCO to CC(C)O: three characters come in.
    assert molecules.compare("[C][C][O]", "[C][C][Branch1][C][C][O]").levenshtein == 3
    # O to c1ccccc1: seven come in, one is another.
    assert molecules.compare("O", "c1ccccc1").levenshtein == 8


@pytest.mark.parametrize(
    ("same", "mirrored"),
    [
        ((L_ALANINE, "C[C@H](N)C(=O)O", "N[C@@H](C)C(=O)O"), (D_ALANINE, "N[C@H](C)C(=O)O")),
        (("F/C=C/F", "F\\C=C\\F"), ("F/C=C\\F", "F\\C=C/F")),
    ],
)
def test_stereo_decides_and_fingerprints_do_not_see_it(same, mirrored):
    assert all(molecules.compare(output, same[0]).exact for output in same)
    for output in mirrored:
        found = molecules.compare(output, same[0])
        assert not found.exact
        assert [getattr(found, name) for name in SIMILARITIES] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("output", "reference", "exact"),
    [
        ("[C][O].[C][C][O]", "[C][C][O].[C][O]", True),
        ("[C][C][O].[C][O].[C][O]", "[C][C][O].[C][O]", False),
        ("[C][C][O]", "[C][C][O].[C][O]", False),
        ("[Na+1].[Cl-1]", "[Cl-1].[Na+1]", True),
        ("[Na+].[Cl-]", "[Cl-1].[Na+1]", True),
        ("[K+1].[Cl-1]", "[Cl-1].[Na+1]", False),
        ("[13C][O]", "[C][O]", False),
        ("Oc1ccccn1", "O=c1cccc[nH]1", True),
        ("[N-]=[N+]=NC", "CN=[N+]=[N-]", True),
    ],
)
def test_exact_means_the_same_components_in_any_order(output, reference, exact):
    assert molecules.compare(output, reference).exact is exact


def test_an_output_that_is_smiles_with_brackets_is_not_read_as_selfies():
    def smiles_of(output):
        return molecules.compare(output, ETHANOL).smiles

    assert smiles_of("C[C@H](N)C(=O)O") == "C[C@H](N)C(=O)O"
    assert smiles_of("CC(=O)[O-1]") == "CC(=O)[O-]"
    assert smiles_of("[C][C]") == "CC"


@pytest.mark.parametrize("reference", ["", "water", "[Branch1]", f"It is {ETHANOL}", "*", "C1CC"])
def test_a_reference_that_is_no_molecule_is_refused(reference):
    with pytest.raises(ValueError, match="expected a reference that is SELFIES or SMILES"):
        molecules.compare(ETHANOL, reference)


def test_rings_that_inchi_cannot_kekulise_are_a_molecule_like_others():
    # RDKit takes the 36 atoms for aromatic, and finds no alternating bonds in them.
    rings = (Path(__file__).parent / "hostile" / "kekulize_small.smi").read_text()
    chain = "C" * 36
    for output, reference in ((rings, chain), (chain, rings)):
        found = molecules.compare(output, reference)
        assert (found.valid, found.exact) == (True, False)
    assert molecules.compare(rings, rings).exact


def test_what_cannot_be_compared_in_time_is_no_score(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(molecules._process(), "ask", lambda *pair, seconds: None)
        with pytest.raises(molecules.NotCompared):
            molecules.compare(ETHANOL, ETHANOL)
    assert molecules.compare(ETHANOL, ETHANOL).exact


def test_a_missing_package_is_named_with_the_extra(monkeypatch):
    molecules.library.cache_clear()
    monkeypatch.setitem(sys.modules, "selfies", None)
    with pytest.raises(ValueError, match=r"need selfies: pip install -e '\.\[evaluation\]'"):
        molecules.compare(ETHANOL, ETHANOL)


@pytest.mark.parametrize(
    "output",
    [
        "[C]" * 1_000_000,
        "[" * 1_000_000,
        "C(" * 1_000_000,
        "[C][Ring1][Branch1]" * 1_000_000,
        "C1" * 9_000,
        "C" * 999,
        "words " * 1_000_000,
        lattice(3),
        lattice(40),
    ],
)
def test_time_is_bounded_whatever_the_text(output):
    begin = time.perf_counter()
    with contextlib.suppress(molecules.NotCompared):
        molecules.compare(output, ETHANOL)
    assert time.perf_counter() - begin < 10.0


SYMBOLS = st.sampled_from(
    [
        "[C]",
        "[=C]",
        "[N]",
        "[O-1]",
        "[Ring1]",
        "[=Branch1]",
        "[C@@H1]",
        "[Xe]",
        ".",
        "[",
        "]",
        " ",
        "#",
    ]
)


@hypothesis.settings(deadline=None, max_examples=150)
@hypothesis.given(st.one_of(st.text(max_size=50), st.lists(SYMBOLS, max_size=30).map("".join)))
def test_no_output_raises_and_every_score_is_in_range(output):
    found = molecules.compare(output, ETHANOL)
    for name in ("bleu", *SIMILARITIES):
        assert 0.0 <= getattr(found, name) <= 1.0
    assert found.valid == (found.smiles != "")
    assert not found.exact or found.valid


@pytest.mark.parametrize("output", ["C1CC", "CC(C)(C)(C)C", "c1cccc1", "N=[N+]=[N-]", "[C", "C)"])
def test_rdkit_prints_nothing(capfd, output):
    molecules.compare(output, "[NH-][N+]#N")
    assert capfd.readouterr() == ("", "")
