"""The methods that the paper compares, in the field's terms; `methods.py` trains them all."""

from ml_collections import ConfigDict

from configs import common

RANDOM = common.RANDOM
# Of every domain on its own, and as if there were none.
IWD = {"selection": {"coupling": "independent"}}
GRADMATCH = {"selection": {"coupling": "agnostic"}}


def greats(step_scale: float, coupling: str = "agnostic") -> dict[str, dict]:
    """GREATS, whose step scale decides how much redundancy counts; independent, it is ID."""
    return {
        "selection": {"utility": "taylor", "coupling": coupling, "step_scale": step_scale},
    }


def methods(config: ConfigDict) -> dict[str, dict]:
    """Label -> the fields that it changes.

    GREATS and ID are there twice: at the learning rate of the scale's own config, which its authors
    take, and at step scale 1, where the term for redundancy counts.
    """
    rate = config.optimizer.learning_rate
    full = {"selection": {"utility": "full", "size": config.selection.pool}}
    return {
        "partitionsel": {},
        "random": RANDOM,
        "full": full,
        "greats": greats(1.0),
        "greats-rate": greats(rate),
        "id": greats(1.0, "independent"),
        "id-rate": greats(rate, "independent"),
        "iwd": IWD,
        "gradmatch": GRADMATCH,
        "colm": {"selection": {"utility": "facility_location"}},
        "alignment": {"selection": {"utility": "alignment"}},
        "transport": {"selection": {"utility": "fair_transport"}},
        "grad-norm": {
            "selection": {"utility": "grad_norm"},
            # The factored path estimates norms from sketches; these are exact.
            "features": {"path": "reference", "family": "srht"},
        },
    }
