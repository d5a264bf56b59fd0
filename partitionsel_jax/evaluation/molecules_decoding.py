"""Molecules in texts, SELFIES or SMILES, and how near they are to each other.

It is also the program of the process in which outputs are compared (see `TimeLimited`), and imports
nothing of this package for that reason.
"""

import dataclasses
import functools
import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

PROGRAM = Path(__file__)
_MORGAN_RADIUS = 2
_MORGAN_BITS = 2048
# A written molecule has at most some thousand characters; what follows is not read.
MOST_CHARACTERS = 20_000
_MOST_ATOMS = 1_000
# Walks of so many bonds bound the time of the path fingerprint and of the MACCS patterns: a text
# can describe a lattice of 75 atoms on which they take 20 seconds. Real molecules of the most atoms
# have under a million.
_WALK_BONDS = 7
_MOST_WALKS = 2e6

# SELFIES symbols, and molecules of them joined by dots. No other character that is printable ASCII
# stands in a molecule; a NUL would end the text for RDKit, so that what follows went unseen.
_SYMBOLS = r"(?:\[[!-Z\\^-~]+\])+"
_RUN = re.compile(rf"{_SYMBOLS}(?:\.{_SYMBOLS})*")
_TOKEN = re.compile(r"[!-~]+")


@dataclasses.dataclass(frozen=True)
class Molecule:
    """Molecules of one text, as a whole.

    Attributes:
      smiles: canonical, with stereo and isotopes; the order of the components does not matter.
      graph: the RDKit molecule.
    """

    smiles: str
    graph: Any = dataclasses.field(repr=False, compare=False)


def find(text: str) -> Molecule | None:
    """The molecule that an output states.

    That is the whole output, white space around it aside, where it is SELFIES or else SMILES;
    otherwise its longest run of SELFIES symbols (the first of those with the most), whatever is
    written around it. SMILES between words are not looked for, since words are SMILES too.

    Args:
      text: any text; no more than its first `MOST_CHARACTERS` are read.

    Returns:
      None where there is no molecule, an empty one, one that RDKit does not sanitise, one with a
      wildcard in place of an atom, or one of more than 1,000 atoms or of far more paths than a
      molecule of that size has.

    Raises:
      ValueError: a package that reads molecules is not installed.
    """
    text = text[:MOST_CHARACTERS].strip()
    run = max(_RUN.findall(text), key=lambda found: found.count("["), default="")
    readings = [_from_selfies(run), _from_smiles(text)]
    if run != text:
        readings.reverse()
    return next((molecule for molecule in readings if molecule is not None), None)


class NoMolecule(ValueError):
    """A reference that is no molecule."""


def whole(text: str) -> Molecule:
    """The molecule that a reference is.

    Raises:
      NoMolecule: the text, white space around it aside, is neither SELFIES nor SMILES of a molecule
        that `find` would accept.
      ValueError: a package is not installed.
    """
    stripped = text.strip()
    selfies = _from_selfies(stripped) if _RUN.fullmatch(stripped) else None
    molecule = selfies or _from_smiles(stripped)
    if molecule is None or len(stripped) > MOST_CHARACTERS:
        raise NoMolecule(
            f"expected a reference that is SELFIES or SMILES of a molecule, got {text[:80]!r}; "
            "leave the example out"
        )
    return molecule


def _from_selfies(text: str) -> Molecule | None:
    if not text:
        return None
    decoder = library("selfies").decoder
    try:
        smiles = decoder(text)
    except Exception:  # DecoderError for symbols it does not know, others for numbers out of range
        return None
    return _from_smiles(smiles)


def _from_smiles(text: str) -> Molecule | None:
    if not _TOKEN.fullmatch(text):
        return None
    chem = library("rdkit.Chem")
    with library("rdkit.rdBase").BlockLogs():
        # Sizes are looked at first: some steps of sanitising take long on what is no molecule.
        graph = chem.MolFromSmiles(text, sanitize=False)
        if graph is None or not _is_moderate(graph):
            return None
        graph = chem.MolFromSmiles(text)
        if graph is None:
            return None
        for atom in graph.GetAtoms():
            # A number that a reaction gives to an atom is no part of the molecule.
            atom.SetAtomMapNum(0)
        return Molecule(chem.MolToSmiles(graph), graph)


def _is_moderate(graph: Any) -> bool:
    """Returns whether the graph has atoms alone, few enough of them, and few enough walks."""
    atoms = graph.GetNumAtoms()
    if not 0 < atoms <= _MOST_ATOMS or any(not atom.GetAtomicNum() for atom in graph.GetAtoms()):
        return False
    bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in graph.GetBonds()]
    begin, end = np.array(bonds, np.int64).reshape(-1, 2).T
    walks = np.ones(atoms)
    for _ in range(_WALK_BONDS):
        walks = np.bincount(begin, walks[end], atoms) + np.bincount(end, walks[begin], atoms)
    return walks.sum() <= _MOST_WALKS


def answer(output: str, reference: str) -> list[Any]:
    """The canonical SMILES of an output, its similarities to a reference, and whether it is exact.

    Returns:
      [SMILES, MACCS, RDK, Morgan, exact], see `molecules.MoleculeScores`; empty where there is no
      molecule in the output.
    """
    wanted, found = whole(reference), find(output)
    if found is None:
        return []
    same = found.smiles == wanted.smiles
    with library("rdkit.rdBase").BlockLogs():
        similar = [
            1.0 if same else _tanimoto(fingerprint(found.graph), fingerprint(wanted.graph))
            for fingerprint in _fingerprints()
        ]
        return [found.smiles, *similar, same or _same_inchi(found.graph, wanted.graph)]


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
    """Returns whether both have the same InChI; where atoms differ in number, none is made."""
    if first.GetNumAtoms() != second.GetNumAtoms():
        return False
    inchi = library("rdkit.Chem").MolToInchi
    try:
        found = inchi(first)
        return found != "" and found == inchi(second)
    except ValueError:  # rings that are sanitised as aromatic, and cannot be kekulised
        return False


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
