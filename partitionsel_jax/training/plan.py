"""Expands one configuration into several runs: methods side by side, axes, and seeds."""

import collections
import copy
import dataclasses
import functools
import logging
import re
import types
from collections.abc import Mapping
from typing import Any

from partitionsel_jax.config import relevance
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.config.axes import Axes, changed
from partitionsel_jax.config.checks import check_kinds, near
from partitionsel_jax.config.essentials import OF_THE_PLAN, flatten
from partitionsel_jax.config.settings import Settings
from partitionsel_jax.training import corpora, recorded, starts

_LOG = logging.getLogger(__name__)

NOTHING: Mapping[str, Any] = types.MappingProxyType({})
# Where the runs that choose values go, in a plan's workdir.
TUNING = "tuning"
# Seeds of one configuration, each of which is a run.
_MOST_REPEATS = 10_000


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One run of a plan.

    Attributes:
      method: the label under which its seeds are averaged, within equal `axes`.
      seed: its seed.
      folder: where it goes, relative to the plan's workdir; "" for a plan of one run.
      config: its whole configuration, with all changes applied and `seed` set.
      axes: dotted field -> its value in this run, of the plan's axes that it reads.
      tuned: the same of the fields that tuning chose, or tries.
      trial: whether it is there to choose these, and is no result.
      chooser: the run of the same plan whose selections this one trains on, or that is its proxy
        or filters its rows; None where it needs no other, or one of another plan.
    """

    method: str
    seed: int
    folder: str
    config: dict[str, Any]
    axes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tuned: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    trial: bool = False
    chooser: "PlannedRun | None" = None

    @functools.cached_property
    def settings(self) -> Settings:
        """Its configuration, parsed."""
        return run_settings.parse(self.config)


@dataclasses.dataclass(frozen=True)
class Point:
    """A method at one combination of the axes' values, to be run with several seeds.

    Attributes:
      method: its label.
      name: the folder of its runs, which stays the same when an axis is given more values.
      config: its configuration.
      axes: see `PlannedRun`.
      grid: the fields that are tuned for it, and their values.
      chooser: the point whose runs it needs, seed by seed; None where it needs none.
    """

    method: str
    name: str
    config: dict[str, Any]
    axes: Mapping[str, Any]
    grid: Axes
    chooser: "Point | None" = None

    def run(
        self, seed: int, chosen: Mapping[str, Any], of_chooser: Mapping[str, Any] = NOTHING
    ) -> PlannedRun:
        """One run with the values that tuning chose for it, and for its chooser."""
        config = {**changed(self.config, chosen), "seed": seed}
        folder = f"{self.name}/seed{seed}" if self.name else ""
        chooser = None if self.chooser is None else self.chooser.run(seed, of_chooser)
        return PlannedRun(
            self.method, seed, folder, config, self.axes, dict(chosen), chooser=chooser
        )

    def trial(
        self, seed: int, tried: Mapping[str, Any], of_chooser: Mapping[str, Any] = NOTHING
    ) -> PlannedRun:
        """One run that tries some values; it leaves the test split alone."""
        run = self.run(seed, tried)
        return dataclasses.replace(
            run,
            folder=f"{TUNING}/{self.name},{self.grid.text(tried) or 'untuned'}/seed{seed}",
            config=changed(run.config, {"evaluation.test": False}),
            trial=True,
            chooser=None if self.chooser is None else self.chooser.trial(seed, of_chooser),
        )


@dataclasses.dataclass(frozen=True)
class Plan:
    """All runs of a configuration.

    Attributes:
      points: what is compared, in order.
      seeds: each of them is run with.
      trial_seeds: seeds of the runs that tune; empty where nothing is tuned.
      left_out: lines about combinations that are not run.
    """

    points: list[Point]
    seeds: tuple[int, ...]
    trial_seeds: tuple[int, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def runs(self) -> list[PlannedRun]:
        """All runs, as far as they depend on no tuning.

        The seeds of a point follow one another: compiled programs take so much memory that those of
        many points cannot all be kept.
        """
        return [point.run(seed, {}) for point in self.points for seed in self.seeds]

    @property
    def chains(self) -> list[list[Point]]:
        """The points in groups that depend on no other: a chooser and those that it serves."""
        heads = [point for point in self.points if point.chooser is None]
        return [[head, *(each for each in self.points if each.chooser is head)] for head in heads]

    def trials(self, point: Point, of_chooser: Mapping[str, Any] = NOTHING) -> list[PlannedRun]:
        """The runs that choose a point's values: its grid's combinations with every seed.

        A chooser that has nothing to tune is run with these seeds for those that it serves.
        """
        serves = any(each.chooser is point and each.grid for each in self.points)
        tried = point.grid.combinations() if point.grid else [{}] if serves else []
        return [
            point.trial(seed, values, of_chooser) for values in tried for seed in self.trial_seeds
        ]


def expand(config: Mapping[str, Any]) -> list[PlannedRun]:
    """The runs of a configuration without `tune`, every one of them checked; see `survey`.

    Raises:
      ValueError: as `survey`, or a configuration that tunes something.
    """
    plan = survey(config)
    if plan.trial_seeds:
        raise ValueError(
            "config.tune chooses values by trial runs, which experiments.ablate makes: use that, "
            "or empty config.tune.seeds"
        )
    for line in plan.left_out:
        _LOG.info("%s", line)
    return plan.runs


def survey(config: Mapping[str, Any]) -> Plan:
    """The runs of a configuration, every one of them checked.

    `methods` maps a label to the fields it changes ({"random": {"selection": {"utility":
    "random"}}}); without methods there is one, named after utility and coupling. `axes` lists
    values of fields ({"selection": {"size": (8, 16)}, "seed": (4, 5)}): every method is run at
    every combination of them. `repeats` stands for an axis of the seeds `seed`, `seed` + 1, ...

    All runs share the corpus and its corrupted rows (`data.seed`) unless an axis says otherwise;
    those of one seed also share the initial weights and the pools. A method whose
    `selection.recorded` is "@LABEL" trains on the selections of the method with that label, made
    before it, seed by seed and at the same values of the axes that either of them reads. As
    `selection.proxy`, that method's model selects in its stead; as `data.filter.model`, it filters.

    * A field that a method changes itself is not varied for it, and neither is one that it does not
      read (a step scale without `taylor`): it keeps the config's value, and is not in the name.
    * A combination that the settings refuse is left out, and `left_out` says why. A value or a
      method that is left with no run at all is an error.

    `tune` has a `grid`, of the form of `axes`, and `seeds`: every point chooses its values from the
    grid by the validation loss of runs with these seeds, none of which is a seed of the plan.

    Raises:
      ValueError: an unknown field, a value that fits no run, seeds that are used twice, or any
        setting that `settings.parse` refuses.
    """
    base = {key: value for key, value in config.items() if key not in OF_THE_PLAN}
    _check_kinds(config, base)
    axes = Axes.read(config.get("axes") or {}, base, "axes")
    seeds = _seeds(config, axes)
    tune = config.get("tune") or {}
    if unknown := tune.keys() - {"grid", "seeds"}:
        raise ValueError(f"tune.{min(unknown)} is unknown: config.tune has a grid and seeds")
    grid = Axes.read(tune.get("grid") or {}, base, "tune.grid")
    trial_seeds = _trial_seeds(tune.get("seeds") or (), grid, axes, seeds)
    points, left_out = _points(base, config.get("methods") or {}, axes, grid)
    for point in points:
        if point.chooser is not None and point.config["selection"]["recorded"]:
            ours, theirs = (run_settings.parse(each.config) for each in (point, point.chooser))
            recorded.check_chooser(point.name, ours, point.chooser.name, theirs)
    if len(points) == len(seeds) == 1 and not (config.get("methods") or axes or grid):
        points = [dataclasses.replace(points[0], name="")]
    for point in points:
        for values in point.grid.combinations():
            run_settings.parse(point.trial(seeds[0], values).config)
    for seed in (*seeds, *trial_seeds):
        run_settings.parse({**points[0].config, "seed": seed})
    return Plan(points, seeds, trial_seeds, tuple(left_out))


def _check_kinds(config: Mapping[str, Any], base: Mapping[str, Any]) -> None:
    """Raises ValueError for a value that is of the wrong kind, before anything is made of it."""
    check_kinds(Settings, base, "", ("model",) if base.get("checkpoint") else ())
    for name in ("axes", "methods", "tune"):
        if not isinstance(config.get(name) or {}, Mapping):
            raise ValueError(f"{name} must be a section of fields, not {config[name]!r}")
    for label, changes in (config.get("methods") or {}).items():
        if not isinstance(changes, Mapping):
            raise ValueError(f"methods.{label} must be a section of fields, not {changes!r}")
        if re.search(r"[/\\\0]|^\.+$", label):
            raise ValueError(f"methods has a label {label!r}, which is no name of a folder")


def _seeds(config: Mapping[str, Any], axes: Axes) -> tuple[int, ...]:
    repeats = config.get("repeats", 1)
    if type(repeats) is not int or not 1 <= repeats <= _MOST_REPEATS:
        raise ValueError(f"repeats must be at least 1 and at most {_MOST_REPEATS}, not {repeats!r}")
    if "seed" not in axes.values:
        return tuple(config["seed"] + repeat for repeat in range(repeats))
    if repeats != 1:
        raise ValueError(f"repeats={repeats} and axes.seed both give seeds: use one of them")
    return axes.values["seed"]


def _trial_seeds(
    seeds: tuple[int, ...] | list[int], grid: Axes, axes: Axes, reported: tuple[int, ...]
) -> tuple[int, ...]:
    if bool(grid) != bool(seeds):
        raise ValueError(
            "config.tune needs a grid and seeds: give both, or neither; got "
            f"{'a grid' if grid else 'seeds'} alone"
        )
    if both := [field for field in grid.values if field in axes.values or field == "seed"]:
        raise ValueError(
            f"tune.grid.{both[0]} cannot be chosen, as it is an axis: leave it out of one of them"
        )
    if used := [seed for seed in seeds if seed in reported]:
        raise ValueError(
            f"tune.seeds={tuple(seeds)} and the seeds that are reported, {reported}, share "
            f"{used[0]}: what is chosen by a seed says nothing about it; use others"
        )
    return tuple(seeds)


def _points(
    base: dict[str, Any], methods: Mapping[str, Any], axes: Axes, grid: Axes
) -> tuple[list[Point], list[str]]:
    """The points there are, and lines about combinations that are left out."""
    choosing = {label: _chooser_of(label, methods) for label in methods}
    found: dict[str, Point] = {}
    refused: dict[str, list[str]] = collections.defaultdict(list)
    # Values of a field, or methods (under ""), that a run has, and why others have none.
    used: set[tuple[str, Any]] = set()
    reasons: dict[tuple[str, Any], str] = {}
    seen: set[str] = set()
    equal = 0
    varied = [field for field in axes.values if field != "seed"]
    # Those that choose for others come first.
    for method in sorted(methods or {"": {}}, key=lambda label: bool(choosing.get(label))):
        own, pinned = _with_method(base, method, methods.get(method, {}))
        chooser = choosing.get(method)
        free = [field for field in varied if field not in pinned]
        if chooser:
            its_own, its_pinned = _with_method(base, chooser, methods[chooser])
            free = [field for field in varied if not (field in pinned and field in its_pinned)]
        for values in axes.combinations(free):
            config, read = _as_read(own, {f: v for f, v in values.items() if f not in pinned})
            serving: Point | None = None
            if chooser:
                its_values = {f: v for f, v in values.items() if f not in its_pinned}
                _, also_read = _as_read(its_own, its_values)
                serving = found.get(_name(axes, chooser, also_read))
                read = {f: (read | also_read)[f] for f in values if f in read | also_read}
            selection = relevance.selection_of(config)
            label = method or f"{selection['utility']}-{selection['coupling']}"
            if not method and selection["recorded"]:
                label += "-recorded"
            # What the label says already is not said again.
            shown = ("selection.utility", "selection.coupling") if not method else ()
            name = _name(axes, label, {f: v for f, v in read.items() if f not in shown})
            if name in seen:
                equal += name in found
                continue
            seen.add(name)
            tuned = {
                field: listed
                for field, listed in grid.values.items()
                if field not in pinned and relevance.is_read(field, config)
            }
            try:
                if chooser and serving is None:
                    why = reasons.get(("", chooser))
                    raise ValueError(
                        f"methods.{chooser}, which selects for it, has no such run"
                        + (f": {why}" if why else "")
                    )
                theirs = None if serving is None else serving.config
                config = corpora.complete(starts.complete(config, theirs))
                run_settings.parse(config)
            except ValueError as error:
                refused[str(error)].append(name)
                for key in [("", method), *values.items()]:
                    reasons.setdefault(key, str(error))
                continue
            used |= {("", method), *read.items()}
            own_grid = dataclasses.replace(grid, values=tuned)
            found[name] = Point(label, name, config, read, own_grid, serving)
    if not found:  # whatever is wrong is not a matter of one value
        raise ValueError(next(iter(refused)))
    listed = [(field, value) for field in varied for value in axes.values[field]]
    for field, value in [*(("", method) for method in methods), *listed]:
        if (field, value) not in used:
            raise ValueError(_describe_useless(field, value, reasons.get((field, value))))
    total = sum(map(len, refused.values()))
    lines = [
        f"left out: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}: {reason}"
        for reason, names in refused.items()
    ]
    if total or equal:
        lines.append(
            f"{len(found)} combinations are run, {total} make no sense, and {equal} "
            "would differ from these only in what their method does not read"
        )
    return list(found.values()), lines


def _name(axes: Axes, label: str, read: Mapping[str, Any]) -> str:
    """The folder of a method's runs at some values."""
    text = axes.text(read)
    return f"{label},{text}" if text else label


def _chooser_of(method: str, methods: Mapping[str, Any]) -> str:
    """The label of the method whose runs a method needs; "" for none of the plan."""
    named = starts.named_methods(methods[method])
    if not named:
        return ""
    (field, chooser), *others = named.items()
    said = f"methods.{method}: {field}={starts.CHOOSER + chooser!r}"
    if different := [other for other, label in others if label != chooser]:
        raise ValueError(
            f"{said} and {different[0]} name different methods: let both name the same one"
        )
    if chooser not in methods:
        raise ValueError(
            f"{said} names no method of this config{near(chooser, methods)}; there are "
            f"{', '.join(methods)}"
        )
    if flatten(methods[chooser]).get("selection.recorded"):
        raise ValueError(
            f"{said} names a method that trains on recorded selections itself: name one that "
            "selects"
        )
    if starts.named_methods(methods[chooser]):
        raise ValueError(
            f"{said} names a method that needs another one itself: name one that stands alone"
        )
    return chooser


def _as_read(own: dict[str, Any], values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A method's configuration at some values, and those of them that it reads."""
    config = changed(own, values)
    read = {field: value for field, value in values.items() if relevance.is_read(field, config)}
    if "selection.coupling" in read:
        read["selection.coupling"] = relevance.merged_coupling(config)
    return changed(own, read), read


def _describe_useless(field: str, value: Any, reason: str | None) -> str:
    """Says why a value, or a method, is left with no run."""
    what = f"axes.{field}={value!r}" if field else f"methods.{value}"
    if reason:
        return f"{what} fits no run: {reason}"
    return (
        f"{what} changes no run: no method reads it, all set the field themselves, or another "
        "value computes the same; leave it out, or add what reads it"
    )


def _with_method(
    base: dict[str, Any], method: str, changes: Mapping[str, Any]
) -> tuple[dict[str, Any], set[str]]:
    """The configuration of a method, and the fields that it sets itself."""
    flat = flatten(changes)
    for field in flat:
        *sections, last = field.split(".")
        target = functools.reduce(lambda inner, name: inner.get(name, {}), sections, base)
        if not isinstance(target, dict) or last not in target:
            raise ValueError(
                f"methods.{method} changes {field!r}, which is no field of the config; "
                "write it as section.field, e.g. selection.utility"
            )
    return changed(copy.deepcopy(base), flat), set(flat)
