"""Accelerators: peaks, bandwidths and memory as their makers publish them.

Entered by hand from the pages that are named. Peaks are of dense products; a network's figure is
what comes in, one way, to a device from all others together, while makers mostly publish the sum of
both ways or of all links.
"""

import dataclasses
import re
from typing import NamedTuple

GIGA = 1e9


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device."""

    kind: str  # its name in published tables
    peak: float  # bfloat16 operations a second; a multiplication and an addition are two
    exact: float  # how many times as long a float32 product of full precision takes
    memory: float  # bytes
    bandwidth: float  # bytes a second from its own memory
    network: float  # bytes a second that it receives from the others of one slice or host
    source: str  # where these numbers are published, and how `network` follows from them
    farther: float | None = None  # as `network`, between hosts where that is another network
    together: int = 2**20  # devices that `network` connects


CHIPS = {
    "v5e": Chip(
        kind="TPU v5e",
        peak=197e12,
        exact=6,  # of six bfloat16 products
        memory=16 * GIGA,
        bandwidth=819 * GIGA,
        network=1600 / 8 / 2 * GIGA,
        source="cloud.google.com/tpu/docs/v5e: 197 TFLOP/s bfloat16, 16 GB at 819 GB/s, "
        "interconnect 1,600 Gbit/s (200 GB/s) a chip over all four links, of which the corner of a "
        "slice without wrap-around has half: 100 GB/s taken",
    ),
    "v5p": Chip(
        kind="TPU v5p",
        peak=459e12,
        exact=6,
        memory=95 * GIGA,
        bandwidth=2765 * GIGA,
        network=4800 / 8 / 2 * GIGA,
        source="cloud.google.com/tpu/docs/v5p: 459 TFLOP/s bfloat16, 95 GB at 2,765 GB/s, "
        "interconnect 4,800 Gbit/s (600 GB/s) a chip over all six links, of which the corner of a "
        "slice without wrap-around has half: 300 GB/s taken",
    ),
    "h100": Chip(
        kind="H100 SXM",
        peak=989e12,
        exact=989 / 67,  # outside the tensor cores
        memory=80 * GIGA,
        bandwidth=3350 * GIGA,
        network=900 / 2 * GIGA,
        farther=400 / 8 * GIGA,
        together=8,
        source="nvidia.com/en-us/data-center/h100: 989 TFLOP/s bfloat16 without sparsity and 67 "
        "float32, 80 GB at 3.35 TB/s, NVLink 900 GB/s both ways together, hence 450 inwards; "
        "between hosts one 400 Gbit/s adapter a GPU, 50 GB/s each way",
    ),
}


class Slice(NamedTuple):
    """So many devices of one kind, under the name that they are asked for by."""

    name: str
    chip: Chip
    devices: int
    network: float  # bytes a second that a device receives from the others


def find(name: str) -> Slice:
    """A slice by its name, KIND-COUNT as in v5e-16, v5p-64 (cores, on 32 chips) or h100-8.

    Raises:
      ValueError: another name.
    """
    kind, _, count = name.partition("-")
    if kind not in CHIPS or not re.fullmatch("[1-9][0-9]{0,5}", count):
        raise ValueError(
            f"devices must be {', '.join(f'{kind}-COUNT' for kind in CHIPS)}, as in v5e-16; "
            f"got {name!r}"
        )
    chip, (devices, rest) = CHIPS[kind], divmod(int(count), 2 if kind == "v5p" else 1)
    if rest:
        raise ValueError(f"{name!r}: {kind} slices count 2 cores for every chip")
    far = chip.farther if chip.farther and devices > chip.together else chip.network
    return Slice(name, chip, devices, far)
