"""Distinct reasoning-gym entries of a task, and the worked steps that an entry carries.

reasoning-gym (Stojanovski et al. 2025, arXiv 2505.24760) writes puzzles procedurally and scores
answers to them. It is imported where it is first used, because that takes a second or two.
"""

import collections
import difflib
import itertools
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from partitionsel_jax.data.streams import derive, generator

Task = tuple[str, Mapping[str, Any]]
Entry = dict[str, Any]

# Questions tried for every one wanted before a task counts as exhausted.
_TRIES_PER_QUESTION = 20
# A few tasks write other entries where they are asked for more.
_BLOCK = 1000
# `composite` mixes other tasks, whose rows would then lose their domain.
_NOT_A_DOMAIN = "composite"


def canonical_tasks(tasks: Iterable[str | Task]) -> tuple[Task, ...]:
    """Returns names and (name, settings) pairs as pairs, checked before anything is generated.

    Args:
      tasks: a reasoning-gym task name each, or the name with keyword arguments for
        `reasoning_gym.create_dataset`. One domain each, in this order.

    Raises:
      ValueError: no task, a name twice, an unknown name (close matches are listed), or settings
        that the task refuses or that are not JSON values.
    """
    pairs = tuple(
        (task, {}) if isinstance(task, str) else (task[0], dict(task[1])) for task in tasks
    )
    if not pairs:
        raise ValueError("expected at least one task, got none; name reasoning-gym tasks")
    counts = collections.Counter(name for name, _ in pairs)
    if repeated := sorted(name for name, count in counts.items() if count > 1):
        raise ValueError(f"every task is one domain, but {', '.join(repeated)} came more than once")
    for name, settings in pairs:
        create(name, settings, size=1, seed=0)
        try:
            json.dumps(settings)
        except TypeError as error:
            raise ValueError(
                f"the settings of task {name} are part of the corpus's identity and must be JSON "
                f"values (numbers, strings, lists): {error}"
            ) from error
    return pairs


def create(name: str, settings: Mapping[str, Any], size: int, seed: int) -> Any:
    """Makes a task's reasoning-gym dataset; ValueError where it, or a setting, is unknown."""
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    known = sorted(set(DATASETS) - {_NOT_A_DOMAIN})
    if name not in known:
        close = difflib.get_close_matches(name, known, n=5, cutoff=0.4) or known
        raise ValueError(f"unknown reasoning-gym task {name!r}; did you mean {', '.join(close)}?")
    if taken := {"size", "seed"} & set(settings):
        raise ValueError(
            f"the settings of task {name} hold {', '.join(sorted(taken))}, which the sizes of the "
            "splits and the data seed decide; leave them out"
        )
    try:
        return reasoning_gym.create_dataset(name, **settings, size=size, seed=seed)
    except (AssertionError, TypeError, ValueError) as error:
        fields = sorted(set(DATASETS[name][1].__dataclass_fields__) - {"size", "seed"})
        raise ValueError(
            f"task {name} refuses the settings {dict(settings)}: {error}; "
            f"it takes {', '.join(fields)}"
        ) from error


def distinct_entries(task: Task, count: int, seed: int) -> list[Entry]:
    """Generates `count` entries of a task with different questions, in random order.

    The order is random because what comes late in the generator's own order is rare: common
    questions are used up by then. After the permutation any cut into splits is a fair one.

    Raises:
      ValueError: the task has too few distinct questions, or no reference answer.
    """
    name, settings = task
    tries = _TRIES_PER_QUESTION * count + 1000
    # A task's i-th entry is drawn from seed + i: neighbouring seeds would give the same questions.
    dataset = create(name, settings, tries, derive(seed, f"task {name}", bits=32))
    numbered = _numbered(task, map(dataset.__getitem__, range(tries)), count)
    order = generator(seed, f"order of {name}").permutation(count)
    return [numbered[place][1] for place in order]


def numbered_entries(
    task: Task, count: int, seed: int, seen: Collection[str] = frozenset()
) -> list[tuple[int, Entry]]:
    """Gives the first `count` entries of one endless order, but for those of questions seen.

    An entry's number, from 1, is its place in that order of distinct questions, which the task and
    the seed alone decide: whoever asks for more, or has seen others, finds it under the same.

    Raises:
      ValueError: see `distinct_entries`.
    """
    name, settings = task
    tries = _TRIES_PER_QUESTION * (count + len(seen)) + 1000

    def entries() -> Iterator[Entry]:
        for block in itertools.count():
            block_seed = derive(seed, f"numbered questions of {name}", block, bits=32)
            dataset = create(name, settings, _BLOCK, block_seed)
            yield from (dataset[place] for place in range(_BLOCK))

    return _numbered(task, itertools.islice(entries(), tries), count, seen)


def _numbered(
    task: Task, entries: Iterable[Entry], count: int, seen: Collection[str] = frozenset()
) -> list[tuple[int, Entry]]:
    """Gives `count` entries whose question was not seen, numbered among all distinct ones."""
    name, settings = task
    known: set[str] = set()
    found: list[tuple[int, Entry]] = []
    tries = 0
    for entry in entries:
        tries += 1
        if not isinstance(entry["answer"], str):
            raise ValueError(
                f"task {name} gives no reference answer, so that there is nothing to learn from; "
                "leave it out"
            )
        question = entry["question"]
        if question not in known and question not in seen:
            found.append((1 + len(known), entry))
        known.add(question)
        if len(found) == count:
            return found
    raise ValueError(
        f"task {name} with settings {dict(settings)} gave {len(found)} distinct questions"
        f"{' that were not seen' if seen else ''} in {tries} tries, but {count} are wanted over "
        "all splits; ask for fewer rows, or widen its settings"
    )


def worked_steps(name: str, entry: Entry) -> str:
    """Returns the worked steps that the task's entries carry, "" for a task without any."""
    return _STEPS[name](entry["metadata"]) if name in _STEPS else ""


def _states(metadata: Mapping[str, Any]) -> str:
    """Writes one line per state that the puzzle goes through."""
    states = metadata["states"]
    return "\n".join(
        state if isinstance(state, str) else " ".join(map(str, state)) for state in states
    )


# reasoning-gym has one task with written-out steps; the others carry intermediate results.
_STEPS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "base_conversion": lambda metadata: f"{metadata['decimal_value']} in base 10",
    "count_bits": lambda metadata: metadata["binary"],
    "count_primes": lambda metadata: " ".join(map(str, metadata["primes"])),
    # Its final line repeats the answer behind a marker.
    "gsm_symbolic": lambda metadata: metadata["answer_cot"].rpartition("####")[0],
    "string_manipulation": _states,
    "string_splitting": _states,
    "string_synthesis": _states,
}
