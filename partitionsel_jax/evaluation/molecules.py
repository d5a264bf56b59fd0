"""Metrics of answers that are molecules, as Mol-Instructions measures them, garbage included.

scores = [molecules.compare(output, reference) for output, reference in pairs]
molecules.summarise(scores)["exact"]

The tasks are description-guided design, forward reaction, reagents and retrosynthesis of Fang et
al. (2023), arXiv 2306.08018, whose evaluation is that of MolT5 (Edwards et al. 2022, arXiv
2204.11817). It differs from this one in three ways: it leaves what cannot be decoded out of its
means, so that one right answer beside 99 undecodable ones has a similarity of 1; it compares SMILES
as they were decoded, where here they are canonical, so that a molecule that is written another way
is no further off; and its Morgan fingerprints are counts, where here they are 2,048 bits.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from partitionsel_jax.evaluation.molecules_decoding import MOST_CHARACTERS, find, library, whole

_MORGAN_RADIUS = 2
_MORGAN_BITS = 2048


@dataclasses.dataclass(frozen=True)
class MoleculeScores:
    """How near an output is to its reference; what cannot be decoded has the worst of each.

    Attributes:
      exact: whether they are the same molecules, stereo included: by canonical SMILES, or by
        standard InChI, which also takes tautomers for the same, as in the published evaluation.
        The order of the components does not matter.
      valid: whether the output holds a molecule (see `molecules_decoding.find`).
      bleu: BLEU-4 of the characters of the canonical SMILES, in [0, 1], without smoothing. Texts of
        fewer than four characters are compared by the n-grams that they have.
      levenshtein: edits between the canonical SMILES; where the output holds no molecule, the
        length of its text or of the reference's SMILES, whichever is greater: no text of that
        length is further off.
      maccs, rdk, morgan: Tanimoto similarity in [0, 1] of the MACCS keys, of RDKit's path
        fingerprints, and of Morgan fingerprints of radius 2. None of them sees stereo.
      smiles, reference_smiles: canonical SMILES; the output's is "" where it holds no molecule.
    """

    exact: bool
    valid: bool
    bleu: float
    levenshtein: int
    maccs: float
    rdk: float
    morgan: float
    smiles: str
    reference_smiles: str


def compare(output: str, reference: str) -> MoleculeScores:
    """Scores what a model wrote against the reference molecules; no output makes it raise.

    Args:
      output: any text; `molecules_decoding.find` says which molecule is taken from it.
      reference: SELFIES or SMILES, several molecules joined by ".".

    Raises:
      NoMolecule: a reference that is no molecule.
      ValueError: a package of the extra `evaluation` that is not installed.
    """
    wanted, found = whole(reference), find(output)
    if found is None:
        length = len(output[:MOST_CHARACTERS].strip())
        worst = max(length, len(wanted.smiles))
        return MoleculeScores(False, False, 0.0, worst, 0.0, 0.0, 0.0, "", wanted.smiles)
    same = found.smiles == wanted.smiles
    distance = library("rapidfuzz.distance.Levenshtein").distance(found.smiles, wanted.smiles)
    with library("rdkit.rdBase").BlockLogs():
        maccs, rdk, morgan = (
            1.0 if same else _tanimoto(fingerprint(found.graph), fingerprint(wanted.graph))
            for fingerprint in _fingerprints()
        )
        exact = same or _same_inchi(found.graph, wanted.graph)
    bleu = _bleu([found.smiles], [wanted.smiles])
    return MoleculeScores(
        exact, True, bleu, distance, maccs, rdk, morgan, found.smiles, wanted.smiles
    )


def summarise(scores: Sequence[MoleculeScores]) -> dict[str, float]:
    """Means over all examples, undecodable ones included.

    Returns:
      The mean of each metric under its name, and `corpus_bleu`: BLEU-4 of all examples together,
      for which an undecodable output is an empty text.

    Raises:
      ValueError: no score.
    """
    if not scores:
        raise ValueError("expected at least one score, got none; evaluate at least one question")
    names = ("exact", "valid", "bleu", "levenshtein", "maccs", "rdk", "morgan")
    means = {name: float(np.mean([getattr(score, name) for score in scores])) for name in names}
    corpus = _bleu([s.smiles for s in scores], [s.reference_smiles for s in scores])
    return {**means, "corpus_bleu": corpus}


def corpus_bleu(smiles: Sequence[str], references: Sequence[str]) -> float:
    """BLEU-4 of all examples together, as `summarise` gives it, from what was saved of them.

    Args:
      smiles: canonical SMILES of what `compare` found in the outputs; "" for nothing.
      references: as `compare` takes them.
    """
    return _bleu(smiles, [whole(reference).smiles for reference in references])


def _bleu(outputs: Sequence[str], references: Sequence[str]) -> float:
    """BLEU of texts whose words are their characters (Papineni et al. 2002)."""
    # A smoothed BLEU would give one wrong atom half of the full score.
    metric = library("sacrebleu").BLEU(tokenize="none", effective_order=True, smooth_method="none")
    spaced = [[" ".join(text) for text in texts] for texts in (outputs, references)]
    return min(metric.corpus_score(spaced[0], [spaced[1]]).score / 100, 1.0)


@functools.cache
def _fingerprints() -> tuple[Any, Any, Any]:
    """MACCS, RDK and Morgan, each a function of a molecule."""
    generators = library("rdkit.Chem.rdFingerprintGenerator")
    morgan = generators.GetMorganGenerator(radius=_MORGAN_RADIUS, fpSize=_MORGAN_BITS)
    return (
        library("rdkit.Chem.rdMolDescriptors").GetMACCSKeysFingerprint,
        library("rdkit.Chem").RDKFingerprint,
        morgan.GetFingerprint,
    )


def _tanimoto(first: Any, second: Any) -> float:
    """Bits in both over bits in either; 0 where neither molecule has one."""
    return library("rdkit.DataStructs").TanimotoSimilarity(first, second)


def _same_inchi(first: Any, second: Any) -> bool:
    """Whether both have an InChI, and the same; where atoms differ in number, none is made."""
    if first.GetNumAtoms() != second.GetNumAtoms():
        return False
    inchi = library("rdkit.Chem").MolToInchi
    found = inchi(first)
    return found != "" and found == inchi(second)
