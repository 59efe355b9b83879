"""What an hour of a machine costs, and what work on it costs. Every figure says where its rate comes from.

The first that knows the device counts: `RMX_USD_PER_HOUR`; the reader's own rates in `rates.json` beside the runs; the
paper's three rates of April 2026. No other price is made up.
"""

import json
import logging
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from rmx.config import ASSETS, runs_dir
from rmx.errors import RmxError
from rmx.storage.safe_files import disk, read_json, write_json

log = logging.getLogger(__name__)
VARIABLE = "RMX_USD_PER_HOUR"
FILE = "rates.json"
BY_HAND = "entered by hand"
MOST = 100  # rates of one reader
LONGEST = 80  # characters of a name
HOW = "rmx cost --rate NAME=USD, such as --rate cpu=0.05"

Marks = tuple[tuple[str, ...], ...]  # words that all have to be in a device's name; one of the lists is enough


@dataclass(frozen=True, slots=True)
class Rate:
    """The rent of one kind of machine."""

    name: str
    usd_per_hour: float
    date: str  # of the price: a day, or a month
    source: str
    marks: Marks
    own: bool = False  # entered by the reader

    def fits(self, device: str) -> bool:
        """Whether this is the rate of a device, by its name in any case of letters."""
        name = device.lower()
        if name in ("cpu", "mps"):  # a rate of "c" is not meant for them
            return name == self.name.lower()
        return any(all(mark in name for mark in marks) for marks in self.marks)

    def json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "marks"}

    def sentence(self) -> str:
        when = f", {self.date}" if self.date else ""
        return f"At {self.usd_per_hour:.2f} USD per hour for {self.name} ({self.source}{when})."


class Cost(NamedTuple):
    """Dollars, None where no rate is known, and a sentence about the rate."""

    usd: float | None
    sentence: str


@dataclass(frozen=True, slots=True)
class Rates:
    """The table as it stands: the reader's own rates first, the longest names before shorter ones."""

    rates: tuple[Rate, ...]
    override: float | None = None  # of RMX_USD_PER_HOUR

    def of(self, device: str) -> Rate | None:
        """The rate of a device, as `torch.cuda.get_device_name` or the kind of device names it; None: not known."""
        if self.override is not None:
            return Rate("this machine", self.override, "", VARIABLE, ())
        exact = (rate for rate in self.rates if rate.own and rate.name.lower() == device.lower())
        return next(exact, None) or next((rate for rate in self.rates if rate.fits(device)), None)

    def cost(self, seconds: float, device: str) -> Cost:
        """What `seconds` on a device cost."""
        rate = self.of(device)
        if rate is None:
            what = "your own CPU" if device.lower() == "cpu" else device
            return Cost(None, f"No hourly rate is known for {what}. Enter one ({HOW}), or set {VARIABLE}.")
        return Cost(rate.usd_per_hour * seconds / 3600, rate.sentence())


def load_rates(root: Path | None = None) -> Rates:
    """The table: bundled rates, with the reader's own over them."""
    own = {rate.name.lower(): rate for rate in own_rates(root)}
    bundled = [own.pop(rate.name.lower(), rate) for rate in bundled_rates()]  # one that was changed keeps its place
    longest_first = sorted(own.values(), key=lambda rate: (-len(rate.marks[0]), rate.name.lower()))
    text = os.environ.get(VARIABLE, "").strip()
    return Rates((*longest_first, *bundled), amount(text, VARIABLE) if text else None)


def cost(seconds: float, device: str) -> Cost:
    """What `seconds` on a device cost by the table as it stands; see `Rates.cost` and `load_rates`."""
    return load_rates().cost(seconds, device)


def bundled_rates() -> list[Rate]:
    """The paper's. HBM3 tells an SXM card from a PCIe one in CUDA's names, and comes first."""
    stored = json.loads((ASSETS / FILE).read_text(encoding="utf-8"))["rates"]
    return [Rate(**r | {"marks": tuple(map(tuple, r["marks"]))}) for r in stored]


def paper_costs() -> dict[str, Any]:
    """The paper's table of scores and costs: {"source", "note", "rows": [{"base", "base_score", "rl_score", "score",
    "rl_usd": [low, high], "usd"}, ...]}. Many of its RL costs are estimates, as the note says."""
    found: dict[str, Any] = json.loads((ASSETS / "paper_costs.json").read_text(encoding="utf-8"))
    return found


def own_rates(root: Path | None = None) -> list[Rate]:
    """The reader's own rates, by name."""
    path = (root or runs_dir()) / FILE
    if not path.exists():
        return []
    stored = read_json(path)
    try:
        return [_own(entry) for entry in stored["rates"]]
    except (KeyError, TypeError, AttributeError) as error:
        log.warning("%s: %r", path, error)
        raise RmxError(f"{path.name} holds no rates that can be read. Correct it, or remove it.") from error


def _own(entry: Mapping[str, Any]) -> Rate:
    name = machine_name(entry["name"])
    known = next((rate for rate in bundled_rates() if rate.name.lower() == name.lower()), None)
    marks = known.marks if known else (_words(name),)
    usd = amount(str(entry["usd_per_hour"]), f"The rate of {name} in {FILE}")
    return Rate(name, usd, str(entry.get("date") or ""), str(entry.get("source") or BY_HAND), marks, own=True)


def set_rate(name: str, usd: str | float | None, root: Path | None = None, today: date | None = None) -> Rates:
    """Enter a rate of the reader's own, dated today; None takes it back. Returns the table as it then stands."""
    root, name = root or runs_dir(), machine_name(name)
    kept = [rate for rate in own_rates(root) if rate.name.lower() != name.lower()]
    if usd is None and len(kept) == len(own_rates(root)):
        raise RmxError(f"No rate of your own is entered for {name}.")
    entries = [{key: value for key, value in rate.json().items() if key != "own"} for rate in kept]
    if usd is not None:
        when = (today or date.today()).isoformat()
        value = amount(str(usd), f"The rate of {name}")
        entries.append({"name": name, "usd_per_hour": value, "date": when, "source": BY_HAND})
    if len(entries) > MOST:
        raise RmxError(f"At most {MOST} rates of your own are kept. Take one back first.")
    with disk(root / FILE):
        root.mkdir(parents=True, exist_ok=True)
        write_json(root / FILE, {"rates": sorted(entries, key=lambda entry: str(entry["name"]).lower())})
    return load_rates(root)


def named_rate(text: str) -> tuple[str, float | None]:
    """The name and the amount of `NAME=USD`; the amount is None for `NAME=none`, which takes a rate back."""
    name, equals, usd = text.rpartition("=")
    if not equals or not name.strip():
        raise RmxError(f"A rate is a machine and an amount: {HOW}; got '{text[:60]}'.")
    name = machine_name(name)
    return name, None if usd.strip().lower() == "none" else amount(usd, f"The rate of {name}")


def machine_name(name: Any) -> str:
    """A machine's name on one line."""
    text = " ".join(str(name).split()) if isinstance(name, str) else ""
    if not _words(text) or len(text) > LONGEST or not text.isprintable():
        raise RmxError(f"A machine's name has letters or digits, {LONGEST} characters at most; got '{str(name)[:40]}'.")
    return text


def _words(name: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[^\W_]+", name.lower()))


def amount(text: str, what: str) -> float:
    """US dollars."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise RmxError(f"{what} must be an amount in US dollars, 0 or more, such as 2.49; it is {text[:40]!r}.")
    return value
