"""What a run spends: the cost_axes that curves are drawn against and targets are costed in."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class CostAxis:
    """Something that every update takes some of.

    Attributes:
      name: as CSV files and the page's data call it.
      axis: what an axis of it says.
      title: a panel's.
      noun: what a ratio is of: "0.45x the updates".
      units: (size, name) of an axis, largest first; the first of which the axis has five is used.
    """

    name: str
    axis: str
    title: str
    noun: str
    units: tuple[tuple[float, str], ...] = ()

    def unit(self, largest: float) -> tuple[float, str]:
        """Size and name of the unit in which an axis up to `largest` reads well; "" for ones."""
        for size, name in self.units:
            if largest > 5 * size:
                return size, name
        return 1.0, self.units[-1][1] if self.units else ""


_COUNTS = ((1e15, "10¹⁵"), (1e12, "10¹²"), (1e9, "10⁹"), (1e6, "10⁶"), (1e3, "10³"), (1.0, ""))
_TIMES = ((86_400.0, "days"), (3_600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
CURRENCIES: Mapping[str, CostAxis] = {
    cost_axis.name: cost_axis
    for cost_axis in (
        CostAxis("updates", "model updates", "against updates", "updates"),
        CostAxis("tokens", "tokens through the model", "against tokens", "tokens", _COUNTS),
        CostAxis("flops", "counted FLOPs", "against FLOPs", "FLOPs", _COUNTS),
        CostAxis("seconds", "training time", "against training time", "time", _TIMES),
    )
}
