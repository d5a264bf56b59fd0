"""AdamW with global-norm clipping and a warm-up, from optax."""

import optax


def make_schedule(
    *, learning_rate: float, schedule: str, warmup: float, updates: int
) -> optax.Schedule:
    """Linear warm-up over a share of the updates, then constant or linear to zero.

    Args:
      learning_rate: the peak.
      schedule: "linear" or "constant".
      warmup: share of `updates`, in [0, 1).
      updates: length of the run.

    Returns:
      update count (0-based) -> learning rate.
    """
    rising = max(1, round(warmup * updates))
    end = learning_rate if schedule == "constant" else 0.0
    return optax.join_schedules(
        [
            # The first update already moves: the ramp starts one notch above zero.
            optax.linear_schedule(learning_rate / rising, learning_rate, max(1, rising - 1)),
            optax.linear_schedule(learning_rate, end, max(1, updates - rising)),
        ],
        [rising],
    )


def make_optimizer(
    schedule: optax.Schedule, *, weight_decay: float, clip: float, b1: float, b2: float
) -> optax.GradientTransformation:
    """Clips the global norm to `clip`, then AdamW (arXiv 1711.05101)."""
    return optax.chain(
        optax.clip_by_global_norm(clip),
        optax.adamw(schedule, b1=b1, b2=b2, weight_decay=weight_decay),
    )
