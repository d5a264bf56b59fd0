"""Metrics of answers that are molecules, as Mol-Instructions measures them, garbage included.

molecules.compare(output, reference).exact

The tasks are description-guided design, forward reaction, reagents and retrosynthesis of Fang et
al. (2023), arXiv 2306.08018, whose evaluation is that of MolT5 (Edwards et al. 2022, arXiv
2204.11817). It differs from this one in three ways: it leaves what cannot be decoded out of its
means, so that one right answer beside 99 undecodable ones has a similarity of 1; it compares SMILES
as they were decoded, where here they are canonical, so that a molecule that is written another way
is no further off; and its Morgan fingerprints are counts, where here they are 2,048 bits.

This file is also the program of the process in which outputs are compared (see `TimeLimited`).
"""

import dataclasses
import functools
import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

_SECONDS = 5.0
# A written molecule has at most some thousand characters; what follows is not read.
_MOST_CHARACTERS = 20_000
_MOST_ATOMS = 1_000
# Walks of so many bonds bound the time of the path fingerprint and of the MACCS patterns: a text
# can describe a lattice of 75 atoms on which they take 20 seconds. Real molecules of the most atoms
# have under a million.
_WALK_BONDS = 7
_MOST_WALKS = 2e6
# SELFIES symbols, and molecules of them joined by dots.
_SYMBOLS = r"(?:\[[!-Z\\^-~]+\])+"
_RUN = re.compile(rf"{_SYMBOLS}(?:\.{_SYMBOLS})*")


@dataclasses.dataclass(frozen=True)
class MoleculeScores:
    """How near an output is to its reference; what cannot be decoded has the worst of each.

    Attributes:
      exact: whether they are the same molecules, stereo included: by canonical SMILES, or by
        standard InChI, which also takes tautomers for the same, as in the published evaluation.
        The order of the components does not matter.
      valid: whether the output holds a molecule (see `find`).
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


class NoMolecule(ValueError):
    """A reference that is no molecule."""


def compare(output: str, reference: str) -> MoleculeScores:
    """Scores what a model wrote against the reference molecules.

    Args:
      output: any text; `find` says which molecule is taken from it.
      reference: SELFIES or SMILES, several molecules joined by ".".

    Raises:
      NotCompared: the libraries failed, or took more than 5 seconds or 2 GiB.
      NoMolecule: a reference that is no molecule.
      NotStarted: the process that compares cannot be started on this machine.
      ValueError: a package of the extra `evaluation` that is not installed.
    """
    wanted, output = canonical(reference), output[:_MOST_CHARACTERS]
    found = _process().ask(output, reference, seconds=_SECONDS)
    if found is None:
        raise NotCompared("its molecules could not be compared in 5 seconds and 2 GiB")
    if not found:
        length = max(len(output.strip()), len(wanted))
        return MoleculeScores(False, False, 0.0, length, 0.0, 0.0, 0.0, "", wanted)
    smiles, maccs, rdk, morgan, exact = found
    distance = library("rapidfuzz.distance.Levenshtein").distance(smiles, wanted)
    bleu = _bleu([smiles], [wanted])
    return MoleculeScores(exact, True, bleu, distance, maccs, rdk, morgan, smiles, wanted)


def is_molecule(reference: str) -> bool:
    """Returns whether a published answer is a molecule, which outputs can be compared with."""
    return _whole(reference) is not None


def corpus_bleu(smiles: Sequence[str], references: Sequence[str]) -> float:
    """BLEU-4 of all examples together, for which an undecodable output is an empty text.

    Args:
      smiles: canonical SMILES of what `compare` found in the outputs; "" for nothing.
      references: as `compare` takes them.
    """
    return _bleu(smiles, [canonical(reference) for reference in references])


def canonical(reference: str) -> str:
    """Canonical SMILES of a reference, with stereo and isotopes, its components in any order.

    Raises:
      NoMolecule: the text, white space around it aside, is neither SELFIES nor SMILES of a molecule
        that `find` would accept.
      ValueError: a package of the extra `evaluation` is not installed.
    """
    molecule = _whole(reference)
    if molecule is None:
        raise NoMolecule(
            f"expected a reference that is SELFIES or SMILES of a molecule, got {reference[:80]!r};"
            " leave the example out"
        )
    with library("rdkit.rdBase").BlockLogs():
        return library("rdkit.Chem").MolToSmiles(molecule)


def find(text: str) -> Any:
    """The molecule that an output states, as RDKit has it.

    That is the whole output, white space around it aside, where it is SELFIES or else SMILES;
    otherwise its longest run of SELFIES symbols (the first of those with the most), whatever is
    written around it. SMILES between words are not looked for, since words are SMILES too.

    Args:
      text: any text; no more than its first 20,000 characters are read.

    Returns:
      None where there is no molecule, an empty one, one that RDKit does not sanitise, one with a
      wildcard in place of an atom, or one of more than 1,000 atoms or of far more paths than a
      molecule of that size has.

    Raises:
      ValueError: a package of the extra `evaluation` is not installed.
    """
    text = text[:_MOST_CHARACTERS].strip()
    run = max(_RUN.findall(text), key=lambda found: found.count("["), default="")
    readings = [_from_selfies(run), _from_smiles(text)]
    if run != text:
        readings.reverse()
    return next((molecule for molecule in readings if molecule is not None), None)


def answer(output: str, reference: str) -> list[Any]:
    """Compares in the process: [SMILES, MACCS, RDK, Morgan, exact]; empty for no molecule."""
    wanted, found = _whole(reference), find(output)
    if found is None:
        return []
    with library("rdkit.rdBase").BlockLogs():
        smiles, other = map(library("rdkit.Chem").MolToSmiles, (found, wanted))
        same = smiles == other
        similarities = [1.0 if same else _tanimoto(made, found, wanted) for made in _fingerprints()]
        return [smiles, *similarities, same or _same_inchi(found, wanted)]


@functools.cache
def library(name: str) -> ModuleType:
    """A module of the packages that molecule metrics need.

    Raises:
      ValueError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ValueError(
            f"molecule metrics need {name.split('.')[0]}: pip install -e "
            "'.[evaluation]' in the clone"
        ) from None


@functools.cache
def _process() -> Any:
    # Imported here, as in the process itself nothing of this package need be found.
    from partitionsel_jax.time_limited import TimeLimited

    return TimeLimited(Path(__file__))


def _whole(reference: str) -> Any:
    stripped = reference.strip()
    molecule = _from_selfies(stripped) if _RUN.fullmatch(stripped) else None
    molecule = _from_smiles(stripped) if molecule is None else molecule
    return molecule if len(stripped) <= _MOST_CHARACTERS else None


def _from_selfies(text: str) -> Any:
    if not text:
        return None
    decoder = library("selfies").decoder
    try:
        smiles = decoder(text)
    except Exception:  # DecoderError for symbols it does not know, others for numbers out of range
        return None
    return _from_smiles(smiles)


def _from_smiles(text: str) -> Any:
    # Printable ASCII alone: a NUL would end the text for RDKit, so that what follows went unseen.
    if not re.fullmatch(r"[!-~]+", text):
        return None
    chem = library("rdkit.Chem")
    with library("rdkit.rdBase").BlockLogs():
        # Sizes are looked at first: some steps of sanitising take long on what is no molecule.
        molecule = chem.MolFromSmiles(text, sanitize=False)
        if molecule is None or not _is_moderate(molecule):
            return None
        molecule = chem.MolFromSmiles(text)
    # A number that a reaction gives to an atom is no part of the molecule.
    for atom in molecule.GetAtoms() if molecule is not None else ():
        atom.SetAtomMapNum(0)
    return molecule


def _is_moderate(molecule: Any) -> bool:
    """Returns whether there are atoms alone, few enough of them, and few enough walks."""
    atoms = molecule.GetNumAtoms()
    if not 0 < atoms <= _MOST_ATOMS or not all(one.GetAtomicNum() for one in molecule.GetAtoms()):
        return False
    bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()]
    begin, end = np.array(bonds, np.int64).reshape(-1, 2).T
    walks = np.ones(atoms)
    for _ in range(_WALK_BONDS):
        walks = np.bincount(begin, walks[end], atoms) + np.bincount(end, walks[begin], atoms)
    return walks.sum() <= _MOST_WALKS


@functools.cache
def _fingerprints() -> tuple[Any, Any, Any]:
    """MACCS, RDK and Morgan, each a function of a molecule."""
    generators = library("rdkit.Chem.rdFingerprintGenerator")
    return (
        library("rdkit.Chem.rdMolDescriptors").GetMACCSKeysFingerprint,
        library("rdkit.Chem").RDKFingerprint,
        generators.GetMorganGenerator(radius=2, fpSize=2048).GetFingerprint,
    )


def _tanimoto(fingerprint: Any, first: Any, second: Any) -> float:
    """Bits in both over bits in either; 0 where neither molecule has one."""
    return library("rdkit.DataStructs").TanimotoSimilarity(fingerprint(first), fingerprint(second))


def _same_inchi(first: Any, second: Any) -> bool:
    """Returns whether both have the same InChI; where atoms differ in number, none is made."""
    if first.GetNumAtoms() != second.GetNumAtoms():
        return False
    inchi = library("rdkit.Chem").MolToInchi
    try:
        found = inchi(first)
        return found != "" and found == inchi(second)
    except ValueError:  # rings that are sanitised as aromatic, and cannot be kekulised
        return False


def _bleu(outputs: Sequence[str], references: Sequence[str]) -> float:
    """BLEU of texts whose words are their characters (Papineni et al. 2002)."""
    # A smoothed BLEU would give one wrong atom half of the full score.
    metric = library("sacrebleu").BLEU(tokenize="none", effective_order=True, smooth_method="none")
    spaced = [[" ".join(text) for text in texts] for texts in (outputs, references)]
    return min(metric.corpus_score(spaced[0], [spaced[1]]).score / 100, 1.0)
