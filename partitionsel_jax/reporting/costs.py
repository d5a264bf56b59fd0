"""What a run spends: the currencies that curves are drawn against and targets are priced in."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Currency:
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
CURRENCIES: Mapping[str, Currency] = {
    currency.name: currency
    for currency in (
        Currency("updates", "model updates", "against updates", "updates"),
        Currency("tokens", "tokens through the model", "against tokens", "tokens", _COUNTS),
        Currency("flops", "counted FLOPs", "against FLOPs", "FLOPs", _COUNTS),
        Currency("seconds", "training time", "against training time", "time", _TIMES),
    )
}
