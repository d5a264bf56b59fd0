"""Metrics of answers that are molecules, as Mol-Instructions measures them, garbage included.

molecules.compare(output, reference).exact

The tasks are description-guided design, forward reaction, reagents and retrosynthesis of Fang et
al. (2023), arXiv 2306.08018, whose evaluation is that of MolT5 (Edwards et al. 2022, arXiv
2204.11817). It differs from this one in three ways: it leaves what cannot be decoded out of its
means, so that one right answer beside 99 undecodable ones has a similarity of 1; it compares SMILES
as they were decoded, where here they are canonical, so that a molecule that is written another way
is no further off; and its Morgan fingerprints are counts, where here they are 2,048 bits.
"""

import dataclasses
from collections.abc import Sequence

from partitionsel_jax.evaluation import molecules_decoding
from partitionsel_jax.evaluation.molecules_decoding import (
    MOST_CHARACTERS,
    NoMolecule,
    library,
    whole,
)
from partitionsel_jax.time_limited import TimeLimited

_PROCESS = TimeLimited(molecules_decoding.PROGRAM)
_SECONDS = 5.0


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


class NotCompared(Exception):
    """An output that could not be compared, or not within the limits of time and memory."""


def compare(output: str, reference: str) -> MoleculeScores:
    """Scores what a model wrote against the reference molecules.

    Args:
      output: any text; `molecules_decoding.find` says which molecule is taken from it.
      reference: SELFIES or SMILES, several molecules joined by ".".

    Raises:
      NotCompared: the libraries failed, or took more than 5 seconds or 2 GiB.
      NoMolecule: a reference that is no molecule.
      NotStarted: the process that compares cannot be started on this machine.
      ValueError: a package of the extra `evaluation` that is not installed.
    """
    wanted = whole(reference).smiles
    found = _PROCESS.ask(output[:MOST_CHARACTERS], reference, seconds=_SECONDS)
    if found is None:
        raise NotCompared("its molecules could not be compared in 5 seconds and 2 GiB")
    if not found:
        length = max(len(output[:MOST_CHARACTERS].strip()), len(wanted))
        return MoleculeScores(False, False, 0.0, length, 0.0, 0.0, 0.0, "", wanted)
    smiles, maccs, rdk, morgan, exact = found
    distance = library("rapidfuzz.distance.Levenshtein").distance(smiles, wanted)
    bleu = _bleu([smiles], [wanted])
    return MoleculeScores(exact, True, bleu, distance, maccs, rdk, morgan, smiles, wanted)


def is_molecule(reference: str) -> bool:
    """Returns whether a published answer is a molecule, which outputs can be compared with.

    Raises:
      ValueError: a package of the extra `evaluation` is not installed.
    """
    try:
        whole(reference)
    except NoMolecule:
        return False
    return True


def corpus_bleu(smiles: Sequence[str], references: Sequence[str]) -> float:
    """BLEU-4 of all examples together, for which an undecodable output is an empty text.

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
