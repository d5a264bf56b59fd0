"""Starts of runs: a pretrained checkpoint, or the parameters that a finished run ended with."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orbax.checkpoint as ocp
from etils import epath

from partitionsel_jax import data, models, paths
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.distributed import processes
from partitionsel_jax.json_files import read_json
from partitionsel_jax.models import parameters as trees
from partitionsel_jax.models import pretrained
from partitionsel_jax.step.parts import new_adapters
from partitionsel_jax.step.state import TrainState, fingerprint
from partitionsel_jax.step.step import Step
from partitionsel_jax.training import workdir
from partitionsel_jax.training.checkpoints import completed, saved_part

if TYPE_CHECKING:
    from partitionsel_jax.config.settings import Settings

_LOG = logging.getLogger(__name__)


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fills in the model's shape from `config.checkpoint`.

    The shape of `config.selection.proxy` is noted as `config.proxy`.

    Raises:
      ValueError: a checkpoint that cannot be found or described, or a shape in `config.model` that
        is not the checkpoint's; a proxy that cannot be one.
    """
    return _with_proxy(_with_shape(config))


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


def _with_proxy(config: dict[str, Any]) -> dict[str, Any]:
    selection = config.get("selection") or {}
    name = selection.get("proxy", "")
    if not name:
        return config
    if (paths.absolute(name) / "config.json").exists() and not _is_checkpoint(name):
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


def origin(settings: "Settings", frozen: Any, proxy: Any = None) -> dict[str, Any]:
    """Fingerprints of what a run stands on beside its config: frozen weights and tokenizer."""
    found = {
        "frozen weights": int(fingerprint(frozen)),
        "tokenizer and its chat template": tokenizer(settings).fingerprint,
    }
    if proxy is not None:
        found["weights of selection.proxy"] = int(fingerprint(proxy))
    return found


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
    state, frozen = Step.create(settings).initial(settings.seed, weights(settings))
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


def check_proxy(settings: "Settings") -> None:
    """Makes sure that the proxy can read the run's rows, and says so if it is no small one.

    Raises:
      ValueError: a proxy whose tokenizer gives other ids, or that has learnt other domains.
    """
    if not settings.selection.has_proxy:
        return
    name = f"selection.proxy={settings.selection.proxy!r}"
    theirs = _finished_proxy(settings)
    if theirs is not None and theirs.data.names != settings.data.names:
        raise ValueError(
            f"{name} was trained on the domains {', '.join(theirs.data.names)}, and this run has "
            f"{', '.join(settings.data.names)}: name a run with the same"
        )
    checkpoint = settings.selection.proxy if theirs is None else theirs.checkpoint
    if checkpoint != settings.checkpoint:
        there = data.ByteTokenizer() if not checkpoint else _open(checkpoint).tokenizer
        if there.ids_fingerprint != tokenizer(settings).ids_fingerprint:
            raise ValueError(
                f"{name} reads other ids: its tokenizer differs from that of "
                f"checkpoint={settings.checkpoint!r} in vocabulary, merges, pre-tokenizer or "
                "special tokens; name a model of the same family"
            )
    ours, its = (_multiplications(shape) for shape in (settings.model, settings.chooser[0]))
    if its >= ours:
        _LOG.warning(
            f"{name} does not make selection cheaper: a token costs it {its:.3g} multiplications, "
            f"and the model that it selects for {ours:.3g}"
        )


def _multiplications(shape: models.DecoderConfig) -> int:
    """Multiplications with weights of one token on its way through a decoder."""
    attention = shape.width * shape.head_dim * 2 * (shape.heads + shape.kv_heads)
    layer = attention + 3 * shape.width * shape.mlp_width
    return shape.layers * layer + shape.width * shape.vocab_size


def _finished_proxy(settings: "Settings") -> "Settings | None":
    """The configuration of the run that the proxy is; None where it is a pretrained model."""
    name = settings.selection.proxy
    folder = paths.absolute(name)
    if not (folder / "config.json").exists() or _is_checkpoint(name):
        return None
    return settings_of(folder, f"selection.proxy={name!r}")


def load_proxy(settings: "Settings") -> tuple[Any, Any]:
    """The proxy's parameters: those that training changes, and the others; of none, two Nones.

    Raises:
      ValueError: as `load_finished`, or a checkpoint that cannot be read.
    """
    name = settings.selection.proxy
    if not settings.selection.has_proxy:
        return None, None
    if _finished_proxy(settings) is not None:
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
