"""Splitting a parameter tree by path, and putting it together again."""

from collections.abc import Callable
from typing import Any

from flax import traverse_util

Tree = dict[str, Any]


def split(parameters: Tree, wanted: Callable[[tuple[str, ...]], bool]) -> tuple[Tree, Tree]:
    """Splits a nested dict into the leaves whose path is `wanted`, and the others."""
    flat = traverse_util.flatten_dict(parameters)
    parts: tuple[Tree, Tree] = ({}, {})
    for path, leaf in flat.items():
        parts[0 if wanted(path) else 1][path] = leaf
    return traverse_util.unflatten_dict(parts[0]), traverse_util.unflatten_dict(parts[1])


def join(*trees: Tree) -> Tree:
    """The union of nested dicts without a leaf in common: the inverse of `split`."""
    flat: Tree = {}
    for tree in trees:
        flat |= traverse_util.flatten_dict(tree)
    return traverse_util.unflatten_dict(flat)


def count(parameters: Tree) -> int:
    """Number of scalars in the tree."""
    return sum(leaf.size for leaf in traverse_util.flatten_dict(parameters).values())
