"""The floating-point operations of a run's updates: counted once, in the traced stages of its step.

Operations are those of matrix products on all devices together. What else a step computes (norms,
softmax, the selection's rounds) is left out; for a decoder that is a few per cent.
"""

import dataclasses

import numpy as np

from partitionsel_jax.config.settings import Settings
from partitionsel_jax.data.rows import Rows
from partitionsel_jax.step.operations import stages_of


@dataclasses.dataclass(frozen=True)
class Flops:
    """What updates take, from the tokens that they computed.

    Attributes:
      features: operations of the features (or losses) of all candidates and anchors.
      update: operations of the weighted gradient step on the picks.
      feature_tokens, update_tokens: what goes through the model meanwhile, padding included, where
        rows have their full length and nothing is shared with other updates.
      bucketed: whether rows may be computed at less than their full length.
    """

    features: float
    update: float
    feature_tokens: int
    update_tokens: int
    bucketed: bool

    def of(self, tokens: int) -> float:
        """Operations of an update.

        Exact where nothing is bucketed: what an update takes from others is in its tokens. With
        buckets both stages are scaled by the share of the tokens that is left, as if operations
        were proportional to tokens.

        Args:
          tokens: computed in it, padding included, as its record says.
        """
        if self.bucketed:
            share = tokens / (self.feature_tokens + self.update_tokens)
            return share * (self.features + self.update)
        if not self.feature_tokens:
            return self.update
        return self.update + self.features * (tokens - self.update_tokens) / self.feature_tokens


def count(settings: Settings, devices: int, rows: Rows) -> Flops:
    """Traces the stages of a step; compiles nothing.

    Args:
      settings: of the run.
      devices: that it runs on.
      rows: some of its data, whose share of response tokens tells how much of the logits is
        computed. A run that continues has to give the same.
    """
    whole = dataclasses.replace(
        settings,
        features=settings.features.unshared,
        selection=settings.selection.unshared,
        data=dataclasses.replace(settings.data, buckets=()),
        training=dataclasses.replace(settings.training, devices=devices),
    )
    # The first token is predicted from nothing.
    stages = stages_of(whole, float(np.mean(np.asarray(rows.response)[:, 1:])))
    length = settings.data.length
    return Flops(
        features=devices * stages.features.products,
        update=devices * stages.update.products,
        feature_tokens=devices * _feature_rows(settings, devices),
        update_tokens=devices
        * length
        * _padded(settings.selection.size // devices, settings.training.microbatch),
        bucketed=bool(settings.data.buckets),
    )


def _feature_rows(settings: Settings, devices: int) -> int:
    """Tokens of one device's features, or of what takes their place."""
    chosen, features, length = settings.selection, settings.features, settings.data.length
    pool, anchors = chosen.pool // devices, chosen.anchors // devices
    if chosen.needs_features:
        window = min(features.tokens or length, length)
        return window * _padded(pool + anchors, features.microbatch)
    if not chosen.needs_losses:
        return 0
    passes = [pool] * (1 + ("reference_losses" in chosen.reads))
    passes += [anchors] * (chosen.budgets == "curriculum")
    return length * sum(_padded(rows, features.microbatch) for rows in passes)


def _padded(rows: int, microbatch: int) -> int:
    """Rows with those that fill up the last microbatch."""
    size = min(microbatch or rows, rows)
    return -(-rows // size) * size
