"""Starts of runs: a pretrained checkpoint, or the parameters that a finished run ended with."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orbax.checkpoint as ocp
from etils import epath

from partitionsel_jax import data, models, paths
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.config.axes import changed
from partitionsel_jax.config.essentials import flatten
from partitionsel_jax.distributed import processes
from partitionsel_jax.json_files import read_json
from partitionsel_jax.models import parameters as trees
from partitionsel_jax.models import pretrained
from partitionsel_jax.step.parts import divide, new_adapters
from partitionsel_jax.step.state import TrainState, fingerprint
from partitionsel_jax.step.step import Step
from partitionsel_jax.training import workdir
from partitionsel_jax.training.checkpoints import completed, saved_part

if TYPE_CHECKING:
    from partitionsel_jax.config.settings import Settings

_LOG = logging.getLogger(__name__)

# The fields of `data` that decide which examples there are, and of which split each is.
EXAMPLES = (
    *("source", "path", "tasks", "columns", "anchors_path"),
    *("train", "validation", "test", "seed"),
)
# In the origin of a run, the fingerprint of the model that selects for it.
PROXY_WEIGHTS = "weights of selection.proxy"

# Marks a method of the same plan, in the fields that may name one instead of a folder.
CHOOSER = "@"
_CHOSEN_BY = ("selection.recorded", "selection.proxy", "data.filter.model")


def named_methods(config: Mapping[str, Any]) -> dict[str, str]:
    """Dotted field -> the method of the same plan that it names, of a part of a configuration."""
    flat = flatten(config)
    found = {field: str(flat.get(field, "")) for field in _CHOSEN_BY}
    return {
        field: value.removeprefix(CHOOSER)
        for field, value in found.items()
        if value.startswith(CHOOSER)
    }


def resolved(config: Mapping[str, Any], folder: epath.PathLike) -> dict[str, Any]:
    """The configuration with a run's folder in place of the method that it belongs to."""
    return changed(config, dict.fromkeys(named_methods(config), str(folder)))


def of_folder(about: Mapping[str, Any], folder: epath.Path) -> dict[str, Any]:
    """The configuration in a run's config.json, with the folder of the run that it needs in place.

    Args:
      about: all of config.json, which names that run by its place in the plan's workdir.
      folder: that the run of config.json lies in, as deep in the workdir as the other.
    """
    chooser = about.get("chooser", "")
    root = folder.parents[chooser.count("/")]
    return resolved(about["config"], root / chooser)


def complete(config: Mapping[str, Any], chooser: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Fills in the model's shape from `config.checkpoint`.

    The shape of `config.selection.proxy` is noted as `config.proxy`.

    Args:
      config: nested mappings.
      chooser: the configuration of the method that it names, if it names one; complete.

    Raises:
      ValueError: a checkpoint that cannot be found or described, or a shape in `config.model` that
        is not the checkpoint's; a proxy that cannot be one.
    """
    return _with_filter(_with_proxy(_with_shape(config), chooser))


def _with_shape(config: Mapping[str, Any]) -> dict[str, Any]:
    name = config.get("checkpoint", "")
    if not name:
        return dict(config)
    shape = dataclasses.asdict(pretrained.shape_of(name))
    model = dict(config["model"])
    for field in models.ARCHITECTURE:
        # As JSON gives it back.
        theirs = list(shape[field]) if isinstance(shape[field], tuple) else shape[field]
        ours = model.get(field, theirs)
        if (list(ours) if isinstance(ours, tuple) else ours) != theirs:
            raise ValueError(
                f"model.{field}={ours!r}, but the checkpoint {name!r} has {theirs!r}: leave the "
                "shape out, as configs that start from a checkpoint do"
            )
        model[field] = theirs
    # A path must mean the same from another directory, when the run goes on there.
    return {**config, "model": model, "checkpoint": str(pretrained.as_path(name) or name)}


def _with_proxy(config: dict[str, Any], chooser: Mapping[str, Any] | None) -> dict[str, Any]:
    selection = config.get("selection") or {}
    name = selection.get("proxy", "")
    if not name:
        return config
    if name.startswith(CHOOSER):
        if chooser is None:
            raise ValueError(
                f"selection.proxy={name!r} stands for a method of config.methods, and is to be set "
                "by another of them: name the folder of a run, or add both methods"
            )
        shape, lora = dict(chooser["model"]), dict(chooser["lora"])
    elif (paths.absolute(name) / "config.json").exists() and not _is_checkpoint(name):
        name = str(paths.absolute(name))
        theirs = settings_of(name, f"selection.proxy={name!r}")
        shape, lora = dataclasses.asdict(theirs.model), dataclasses.asdict(theirs.lora)
    else:
        found = dataclasses.asdict(pretrained.shape_of(name))
        # Numerics and adapters are those of the model that it selects for.
        shape = {**config["model"], **{field: found[field] for field in models.ARCHITECTURE}}
        lora = dict(config["lora"])
        name = str(pretrained.as_path(name) or name)
    proxy = {"model": shape, "lora": lora}
    return {**config, "selection": {**selection, "proxy": name}, "proxy": proxy}


def _with_filter(config: dict[str, Any]) -> dict[str, Any]:
    """Makes the path of the model that filters mean the same from another directory."""
    section = (config.get("data") or {}).get("filter") or {}
    name = section.get("model", "")
    if not name or name.startswith(CHOOSER) or not paths.absolute(name).exists():
        return config
    return changed(config, {"data.filter.model": str(paths.absolute(name))})


def _is_checkpoint(name: str) -> bool:
    """True for a folder in a hub's format, which has a config.json too."""
    return "config" not in read_json(paths.absolute(name) / "config.json")


def open_checkpoint(settings: "Settings") -> pretrained.Checkpoint:
    """Opens the run's checkpoint, once it is known to be the model that the run describes.

    Raises:
      ValueError: as `Checkpoint.open`, or a shape that is not the run's.
    """
    checkpoint = _open(settings.checkpoint)
    for field in models.ARCHITECTURE:
        there, here = getattr(checkpoint.config, field), getattr(settings.model, field)
        if there != here:
            raise ValueError(
                f"{checkpoint.path} has {field}={there!r} where the run has {here!r}: it is not "
                f"the model that checkpoint={settings.checkpoint!r} stood for; fetch it again, or "
                "name it by its path in a new --workdir"
            )
    return checkpoint


def tokenizer(settings: "Settings") -> data.Tokenizer:
    """Returns the checkpoint's tokenizer, or the byte-level one."""
    return open_checkpoint(settings).tokenizer if settings.checkpoint else data.ByteTokenizer()


def weights(settings: "Settings") -> dict[str, Any] | None:
    """Reads the checkpoint's parameters onto the default device; None for random ones."""
    if not settings.checkpoint:
        return None
    return open_checkpoint(settings).parameters(settings.model.param_dtype)


def origin(settings: "Settings", frozen: Any) -> dict[str, Any]:
    """Fingerprints of what a run stands on beside its config: frozen weights and tokenizer."""
    return {
        "frozen weights": int(fingerprint(frozen)),
        "tokenizer and its chat template": tokenizer(settings).fingerprint,
    }


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A run's end.

    Attributes:
      settings: its configuration.
      state: its last state.
      frozen: the parameters that it did not train.
    """

    settings: "Settings"
    state: TrainState
    frozen: Any

    @property
    def parameters(self) -> dict[str, Any]:
        """All parameters, a nested dict."""
        return trees.join(self.frozen, self.state.parameters)


def settings_of(folder: epath.PathLike, name: str) -> "Settings":
    """Reads the configuration of a finished run, and nothing else.

    Args:
      folder: of the run.
      name: what errors call it.

    Raises:
      ValueError: it holds no finished run, or one of another version.
    """
    folder = paths.absolute(folder)
    for file in ("config.json", "summary.json"):
        if not (folder / file).exists():
            raise ValueError(
                f"{name} is not the folder of a finished run, as it lacks {file}: name the folder "
                f"that holds its config.json{workdir.hint(folder, 'summary.json')}, or let it "
                "finish"
            )
    config = workdir.read_config(folder)["config"]
    try:
        return run_settings.parse(config)
    except ValueError as error:
        raise ValueError(f"{name} has a config.json of another version ({error})") from None


def load_finished(folder: epath.PathLike, name: str) -> FinishedRun:
    """Reads a finished run's last checkpoint; nothing is written to its folder.

    Args:
      folder: of the run.
      name: what errors call it.

    Raises:
      ValueError: as `settings_of`, or a checkpoint that cannot be read or is not the one that the
        run ended with.
    """
    folder = paths.absolute(folder)
    settings = settings_of(folder, name)
    summary = workdir.read_summary(folder)
    step, proxy = Step.create(settings), None
    if settings.selection.trains_proxy or settings.selection.has_guard:
        # A stand-in of its shape: its parameters are in the checkpoint.
        proxy, _ = divide(step.chooser, step.chooser.init(step.key(0, "parameters")))
    state, frozen = step.initial(settings.seed, weights(settings), proxy)
    path = folder / "checkpoints" / str(summary["updates"]) / "state"
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            found = checkpointer.restore(path, saved_part(state, path))
            restored = completed(state, found)
    except Exception as error:  # whatever a missing or broken file makes a reader raise
        raise ValueError(
            f"{name}: its last checkpoint {path} cannot be read ({processes.first_line(error)}); "
            "restore it from a copy, or train it again"
        ) from None
    if int(fingerprint(restored)) != summary["fingerprint"]:
        raise ValueError(
            f"{name}: its last checkpoint does not match the fingerprint in summary.json; restore "
            "it from a copy, or train it again"
        )
    if not origin(settings, frozen).items() <= summary["origin"].items():
        raise ValueError(
            f"{name}: checkpoint={settings.checkpoint!r} does not hold the weights and the "
            "tokenizer that the run started from; restore it from a copy"
        )
    return FinishedRun(settings, restored, frozen)


def check_scorers(settings: "Settings", chooser: "Settings | None" = None) -> None:
    """Makes sure that proxy and filter can read the run's rows, and warns of a proxy that is large.

    Args:
      settings: of the run.
      chooser: of the run of the same plan that either may stand for.

    Raises:
      ValueError: a model whose tokenizer gives other ids, or that has learnt other domains or other
        examples.
    """
    for field, name in scorers(settings).items():
        theirs = chooser if name.startswith(CHOOSER) else settings_if_run(name, field)
        _check_reader(f"{field}={name!r}", name, settings, theirs)
    if not settings.selection.has_proxy:
        return
    name = f"selection.proxy={settings.selection.proxy!r}"
    ours, its = (shape.multiplications for shape in (settings.model, settings.chooser[0]))
    if its >= ours:
        _LOG.warning(
            f"{name} does not make selection cheaper: a token costs it {its:.3g} multiplications, "
            f"and the model that it selects for {ours:.3g}"
        )


def check_scored_rows(settings: "Settings", examples: str) -> None:
    """Makes sure that runs which are proxy or filter have learnt from this run's rows alone.

    Args:
      settings: of the run.
      examples: the fingerprint of its corpus.

    Raises:
      ValueError: one was trained on other examples.
    """
    for field, name in scorers(settings).items():
        if settings_if_run(name, field) is None:
            continue
        theirs = workdir.read_summary(paths.absolute(name))["origin"].get("examples", examples)
        if theirs != examples:
            raise ValueError(
                f"{field}={name!r} was trained on other examples than these, and may have "
                "learnt the rows that this run is validated on: were the files of data.path "
                "replaced since? Restore them, or train it again"
            )


def scorers(settings: "Settings") -> dict[str, str]:
    """Dotted field -> the model that it names, of those that score a run's rows in its stead."""
    found = {"selection.proxy": settings.selection.proxy} if settings.selection.has_proxy else {}
    return found | ({"data.filter.model": settings.data.filter.model} if settings.filters else {})


def _check_reader(what: str, name: str, settings: "Settings", theirs: "Settings | None") -> None:
    """Raises ValueError if a model cannot read the rows; `theirs` are a finished run's settings."""
    if theirs is not None and theirs.data.names != settings.data.names:
        raise ValueError(
            f"{what} was trained on the domains {', '.join(theirs.data.names)}, and this run has "
            f"{', '.join(settings.data.names)}: name a run with the same"
        )
    if theirs is not None:
        for field in EXAMPLES:
            ours, here = getattr(theirs.data, field), getattr(settings.data, field)
            if ours != here:
                raise ValueError(
                    f"{what} was trained with data.{field}={ours!r}, and this run has {here!r}: "
                    "it may have learnt the rows that this run is validated on; train it on the "
                    "same examples"
                )
    checkpoint = name if theirs is None else theirs.checkpoint
    if checkpoint != settings.checkpoint:
        there = data.ByteTokenizer() if not checkpoint else _open(checkpoint).tokenizer
        if there.ids_fingerprint != tokenizer(settings).ids_fingerprint:
            raise ValueError(
                f"{what} reads other ids: its tokenizer differs from that of "
                f"checkpoint={settings.checkpoint!r} in vocabulary, merges, pre-tokenizer or "
                "special tokens; name a model of the same family"
            )


def settings_if_run(name: str, field: str) -> "Settings | None":
    """The configuration of the run in a folder that a field names; None for a pretrained model.

    Raises:
      ValueError: a run that is not finished, or of another version.
    """
    folder = paths.absolute(name)
    if not (folder / "config.json").exists() or _is_checkpoint(name):
        return None
    return settings_of(folder, f"{field}={name!r}")


def trainings(settings: "Settings") -> dict[str, int]:
    """Folder -> number of updates, of the finished runs that score a run's rows in its stead."""
    found = {name: settings_if_run(name, field) for field, name in scorers(settings).items()}
    return {name: theirs.training.updates for name, theirs in found.items() if theirs is not None}


def load_filter(settings: "Settings") -> tuple[models.Model, Any]:
    """The model that filters a run's training rows, and all of its parameters.

    Raises:
      ValueError: as `load_finished`, or a checkpoint that cannot be read.
    """
    name = settings.data.filter.model
    theirs = settings_if_run(name, "data.filter.model")
    if theirs is not None:
        finished = load_finished(name, f"data.filter.model={name!r}")
        return models.Model(theirs.model, theirs.lora), finished.parameters
    checkpoint = _open(name)
    its = {field: getattr(checkpoint.config, field) for field in models.ARCHITECTURE}
    shape = dataclasses.replace(settings.model, **its)
    return models.Model(shape), checkpoint.parameters(shape.param_dtype)


def load_proxy(settings: "Settings") -> tuple[Any, Any]:
    """The proxy's parameters: those that training changes, and the others; of none, two Nones.

    Raises:
      ValueError: as `load_finished`, or a checkpoint that cannot be read.
    """
    name = settings.selection.proxy
    if not settings.selection.has_proxy:
        return None, None
    if settings_if_run(name, "selection.proxy") is not None:
        finished = load_finished(name, f"selection.proxy={name!r}")
        return finished.state.parameters, finished.frozen
    shape, lora = settings.chooser
    base = _open(name).parameters(shape.param_dtype)
    if not lora.rank:
        return base, {}
    key = Step.key(settings.seed, "parameters")
    return new_adapters(models.Model(shape, lora), key), base


def whole_proxy(settings: "Settings") -> Any:
    """All parameters that the proxy begins with; None without one."""
    trained, fixed = load_proxy(settings)
    return None if trained is None else trees.join(fixed, trained)


def _open(checkpoint: str) -> pretrained.Checkpoint:
    return pretrained.Checkpoint.open(pretrained.locate(checkpoint))


def load_reference(settings: "Settings") -> dict[str, Any] | None:
    """All parameters of the reference model of `reducible_loss`; None for other utilities.

    They are what the run in `settings.selection.reference` ended with; nothing is written there.

    Raises:
      ValueError: it holds no finished run, a run of another model, or a checkpoint that cannot be
        read or is not the one that the run ended with.
    """
    if "reference_losses" not in settings.selection.reads:
        return None
    folder = settings.selection.reference
    name = f"selection.reference={folder!r}"
    theirs = settings_of(folder, name)
    if theirs.checkpoint != settings.checkpoint and not settings.selection.proxy:
        raise ValueError(
            f"{name} started from checkpoint={theirs.checkpoint!r}, this run from "
            f"{settings.checkpoint!r}: name one of the same"
        )
    differing, (shape, lora) = [], settings.chooser
    for section, its, ours in (("model", theirs.model, shape), ("lora", theirs.lora, lora)):
        there, here = dataclasses.asdict(its), dataclasses.asdict(ours)
        differing += [
            f"{section}.{field}: {there[field]!r} there, {here[field]!r} here"
            for field in here
            if there[field] != here[field]
        ]
    if differing:
        raise ValueError(
            f"{name} is a run of another model ({'; '.join(differing)}): name one of the same"
        )
    return load_finished(folder, name).parameters
