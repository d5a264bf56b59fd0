"""The costs of a run: the axes that curves are drawn against and that targets are costed in."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class CostAxis:
    """A quantity that every update spends some of.

    Attributes:
      name: its column in CSV files.
      axis: the text at an axis.
      title: the title of a panel.
      noun: the noun of a ratio, as in "0.45x the updates".
      units: (size, name), largest first; an axis uses the first that it holds five of.
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
COST_AXES: Mapping[str, CostAxis] = {
    axis.name: axis
    for axis in (
        CostAxis("updates", "model updates", "against updates", "updates"),
        CostAxis("tokens", "tokens through the model", "against tokens", "tokens", _COUNTS),
        CostAxis("flops", "counted FLOPs", "against FLOPs", "FLOPs", _COUNTS),
        CostAxis("seconds", "training time", "against training time", "time", _TIMES),
    )
}
