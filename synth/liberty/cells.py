"""Typed standard cells: pins, functions, flip-flops, NLDM timing arcs, internal power and leakage.

Units inside: ns, pF, V, um^2 (the library's area unit), pJ for energies, nW for leakage.
"""

import math
import re
from collections.abc import Set
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from .expression import compile_expression, variables
from .text import Group, Library, parse_liberty

__all__ = [
    "Arc",
    "Cell",
    "ClockGate",
    "FlipFlop",
    "InternalPower",
    "Leakage",
    "Pin",
    "StandardCells",
    "Table",
    "WireLoad",
]

_PAIR = 2
_LARGEST = 1e9
_NAME = re.compile(r"\w[\w$.-]*", re.ASCII)
_CAPACITANCE = {"ff": 1e-3, "pf": 1.0}
_TIME = {"1ps": 1e-3, "10ps": 1e-2, "100ps": 0.1, "1ns": 1.0}
_POWER = {"1mW": 1e6, "100uW": 1e5, "10uW": 1e4, "1uW": 1e3, "100nW": 100.0, "10nW": 10.0, "1nW": 1.0}
_POWER |= {"100pW": 0.1, "10pW": 1e-2, "1pW": 1e-3}
_CLOCK_GATES = ("latch_posedge", "latch_posedge_precontrol", "latch_posedge_postcontrol")
_LOAD_VARIABLES = ("total_output_net_capacitance", "equal_or_opposite_output_net_capacitance")
_SLEW_VARIABLES = (
    "input_net_transition", "input_transition_time", "related_pin_transition", "constrained_pin_transition",
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A lookup table over (first, second): slew in ns by load in pF; of constraints related and data slew."""

    first: tuple[float, ...]
    second: tuple[float, ...]
    values: NDArray[np.float64]

    def at(self, first: float, second: float) -> float:
        """Bilinear interpolation; beyond the edges the last segment is continued, as timing analysers do."""
        return float(_interpolate(self, first, second))


def _interpolate(table: Table, x: float, y: float) -> float:
    def place(axis: tuple[float, ...], at: float) -> tuple[int, float]:
        if len(axis) == 1:
            return 0, 0.0
        low = int(np.clip(np.searchsorted(axis, at, side="right") - 1, 0, len(axis) - 2))
        return low, (at - axis[low]) / (axis[low + 1] - axis[low])

    i, u = place(table.first, x)
    j, v = place(table.second, y)
    z = table.values
    i2, j2 = min(i + 1, z.shape[0] - 1), min(j + 1, z.shape[1] - 1)
    result = (1 - u) * ((1 - v) * z[i, j] + v * z[i, j2]) + u * ((1 - v) * z[i2, j] + v * z[i2, j2])
    return float(result)


@dataclass(frozen=True)
class Arc:
    """One timing arc: `kind` is combinational, launch (clock to output) or setup; tables by edge of the endpoint."""

    related: str
    kind: str
    sense: str
    delay: dict[str, Table]
    slew: dict[str, Table]


@dataclass(frozen=True)
class InternalPower:
    """Energy per transition of the pin it belongs to, in pJ: mean of rise and fall, over (slew, load)."""

    related: str | None
    when: str | None
    rise: Table | None
    fall: Table | None

    def energy(self, slew: float, load: float) -> float:
        """Half of rise plus fall; a missing table counts as zero."""
        return sum(t.at(slew, load) for t in (self.rise, self.fall) if t is not None) / 2


@dataclass(frozen=True)
class Leakage:
    """Leakage power in nW in a state; `when` None is the cell's default."""

    when: str | None
    power: float


@dataclass(frozen=True, kw_only=True)
class Pin:
    """A pin; `capacitance` of a rising and of a falling edge in pF, `function` of an output."""

    name: str
    direction: str
    capacitance: tuple[float, float]
    max_capacitance: float
    function: str | None
    arcs: tuple[Arc, ...]
    power: tuple[InternalPower, ...]


@dataclass(frozen=True)
class FlipFlop:
    """An edge-triggered flip-flop: `state` and `inverse` are the names that functions use; `rising` is the edge."""

    state: str
    inverse: str
    next_state: str
    clock_pin: str
    rising: bool


@dataclass(frozen=True)
class ClockGate:
    """An integrated clock-gating cell: its output follows the clock in cycles before which an enable pin was high."""

    clock_pin: str
    enable_pins: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class WireLoad:
    """Net capacitance by fanout, in pF."""

    name: str
    per_length: float
    slope: float
    lengths: tuple[tuple[int, float], ...]

    def capacitance(self, fanout: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of nets with these numbers of sinks; beyond the table the length grows by `slope` per sink."""
        if not self.lengths:
            return np.asarray(self.per_length * self.slope * fanout, dtype=np.float64)
        points = np.array(self.lengths)
        inside = np.interp(fanout, points[:, 0], points[:, 1])
        beyond = points[-1, 1] + self.slope * (fanout - points[-1, 0])
        length = np.where(fanout > points[-1, 0], beyond, inside)
        return np.asarray(np.where(fanout > 0, length, 0.0) * self.per_length, dtype=np.float64)


@dataclass(frozen=True)
class Cell:
    """A standard cell."""

    name: str
    area: float
    pins: dict[str, Pin]
    flip_flop: FlipFlop | None
    leakage: tuple[Leakage, ...]
    clock_gate: ClockGate | None = None

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of the input pins, the clock included."""
        return tuple(p.name for p in self.pins.values() if p.direction == "input")

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Names of the output pins that have a function; a clock gate's output is none of them."""
        if self.clock_gate is not None:
            return ()
        return tuple(p.name for p in self.pins.values() if p.direction == "output" and p.function)

    @property
    def clock_pin(self) -> str | None:
        """The clock pin of a flip-flop or clock gate."""
        source = self.flip_flop or self.clock_gate
        return source.clock_pin if source else None

    @property
    def has_power(self) -> bool:
        """Whether any internal power table is there."""
        return any(p.power for p in self.pins.values())

    @property
    def has_timing(self) -> bool:
        """Whether every output has a timing arc."""
        return all(self.pins[name].arcs for name in self.outputs)


class StandardCells:
    """A Liberty file's cells, parsed when they are asked for.

    Attributes:
        name, source: the library's name and the file it came from.
        voltage: nominal supply in V.
        cell_names: all cells.
        wire_load: the library's default wire load model, or None.
    """

    def __init__(self, text: str, source: str):
        self._library: Library = parse_liberty(text, source)
        self._cells: dict[str, Cell] = {}
        head = self._library.head
        self.source = source
        self.name = head.name
        self.cell_names = tuple(self._library.cells)
        odd = [name for name in self.cell_names if not _NAME.fullmatch(name)]
        if odd:
            raise InputError(f"{source}: cell name {odd[0]!r}, expected letters, digits and underscores")
        self.hidden = tuple(n for n, body in self._library.cells.items() if _dont_use(body))
        self._time = _unit(_TIME, head.attributes.get("time_unit", "1ns"), "time_unit", source)
        self._leakage = _unit(_POWER, head.attributes.get("leakage_power_unit", "1nW"), "leakage_power_unit", source)
        load_unit = head.complex.get("capacitive_load_unit", ["1", "pf"])
        scale = _positive(load_unit[0], "capacitive_load_unit", source)
        unit = load_unit[1].lower() if len(load_unit) == _PAIR else ""
        self._capacitance = scale * _unit(_CAPACITANCE, unit, "capacitive_load_unit", source)
        self.voltage = self._voltage(head)
        self._templates = {g.name: g for kind in ("lu_table_template", "power_lut_template") for g in head.all(kind)}
        default = head.attributes.get("default_wire_load")
        models = [g for g in head.all("wire_load") if g.name == default]
        if default is not None and not models:
            raise InputError(f"{source}: default_wire_load {default!r}, expected the name of a wire_load group in it")
        self.wire_load = self._wire_load(models[0]) if models else None

    def without(self, excluded: Set[str]) -> str:
        """Liberty text of the library without some cells."""
        return self._library.without(excluded)

    def _voltage(self, head: Group) -> float:
        """Of the default operating conditions, else nominal, else of the only conditions that there are."""
        conditions = {
            g.name: g.attributes["voltage"] for g in head.all("operating_conditions") if "voltage" in g.attributes
        }
        default = head.attributes.get("default_operating_conditions")
        if default in conditions:
            return _positive(conditions[default], "voltage", self.source)
        if "nom_voltage" in head.attributes:
            return _positive(head.attributes["nom_voltage"], "nom_voltage", self.source)
        if len(conditions) == 1:
            return _positive(next(iter(conditions.values())), "voltage", self.source)
        raise InputError(
            f"{self.source}: {len(conditions)} operating_conditions with a voltage, expected nom_voltage, "
            "default_operating_conditions, or one of them"
        )

    def _wire_load(self, group: Group) -> WireLoad:
        where = f"wire_load {group.name}"
        values = [_number(v, f"{where} fanout_length", self.source) for v in group.complex.get("fanout_length", ())]
        if len(values) % _PAIR:
            raise InputError(f"{self.source}: {where} fanout_length with {len(values)} numbers, expected pairs")
        capacitance, slope = (
            _number(group.attributes.get(n, "0"), f"{where} {n}", self.source) for n in ("capacitance", "slope")
        )
        lengths = tuple(sorted(zip(map(int, values[::2]), values[1::2], strict=True)))
        return WireLoad(group.name, capacitance * self._capacitance, slope, lengths)

    def cell(self, name: str) -> Cell:
        """The cell called `name`. Raises InputError where the library lacks or garbles it."""
        if name not in self._cells:
            if name not in self._library.cells:
                raise InputError(f"{self.source}: no cell {name}")
            try:
                self._cells[name] = self._cell(self._library.cell(name))
            except (KeyError, ValueError, IndexError) as error:
                if isinstance(error, InputError) and str(error).startswith(self.source):
                    raise
                reason = f"no {error}" if isinstance(error, KeyError) else error
                raise InputError(f"{self.source}: cell {name} cannot be read: {reason}") from error
        return self._cells[name]

    def _cell(self, group: Group) -> Cell:
        pins = {}
        for pin in group.all("pin"):
            for name in pin.arguments:
                pins[name] = self._pin(name, pin)
        leakage = [
            Leakage(_when(g), _finite(g.attributes["value"]) * self._leakage) for g in group.all("leakage_power")
        ]
        if "cell_leakage_power" in group.attributes:
            leakage.append(Leakage(None, _finite(group.attributes["cell_leakage_power"]) * self._leakage))
        flip_flop = None
        ff = group.first("ff")
        if ff is not None:
            clocked_on = ff.attributes["clocked_on"].strip(" ()")
            clock = variables(clocked_on)[0]
            state, inverse = [*ff.arguments, "", ""][:2]
            if clock not in pins:
                raise ValueError(f"clocked_on {clocked_on!r}, expected one of its pins")
            flip_flop = FlipFlop(state, inverse, ff.attributes["next_state"], clock, clocked_on == clock)
        area = _finite(group.attributes.get("area", "0"))
        if area < 0:
            raise ValueError(f"area {area}, expected 0 or more")
        return Cell(group.name, area, pins, flip_flop, tuple(leakage), _clock_gate(group))

    def _pin(self, name: str, group: Group) -> Pin:
        arcs = [arc for g in group.all("timing") for arc in self._arcs(g)]
        power = [
            InternalPower(related or None, _when(g), self._energy(g, "rise"), self._energy(g, "fall"))
            for g in group.all("internal_power")
            for related in (g.attributes.get("related_pin", "").split() or [""])
        ]
        function = group.attributes.get("function")
        if function is not None:
            compile_expression(function)
        capacitance = group.attributes.get("capacitance", "0")
        edges = [_finite(group.attributes.get(f"{e}_capacitance", capacitance)) for e in ("rise", "fall")]
        limit = group.attributes.get("max_capacitance", "inf")
        return Pin(
            name=name,
            direction=group.attributes.get("direction", "internal"),
            capacitance=(edges[0] * self._capacitance, edges[1] * self._capacitance),
            max_capacitance=float(limit) * self._capacitance,
            function=function,
            arcs=tuple(arcs),
            power=tuple(power),
        )

    def _arcs(self, group: Group) -> list[Arc]:
        kind = group.attributes.get("timing_type", "combinational")
        known = {"combinational": "combinational", "rising_edge": "launch", "falling_edge": "launch"}
        known |= {"setup_rising": "setup", "setup_falling": "setup"}
        if kind not in known:
            return []
        sense = group.attributes.get("timing_sense", "non_unate")
        names = ("rise_constraint", "fall_constraint") if known[kind] == "setup" else ("cell_rise", "cell_fall")
        delay = {e: self._table(g) for e, n in zip(("rise", "fall"), names, strict=True) if (g := group.first(n))}
        slew = {e: self._table(g) for e in ("rise", "fall") if (g := group.first(f"{e}_transition"))}
        related = group.attributes.get("related_pin", "").split()
        return [Arc(pin, known[kind], sense, delay, slew) for pin in related]

    def _energy(self, group: Group, edge: str) -> Table | None:
        """Liberty leaves the unit of internal power to be the capacitance unit times 1 V^2: pF V^2 = pJ."""
        found = group.first(f"{edge}_power") or group.first("power")
        return None if found is None else self._table(found, value_scale=self._capacitance)

    def _table(self, group: Group, value_scale: float | None = None) -> Table:
        template = self._templates.get(group.name)
        kinds = []
        axes = []
        for i in (1, 2, 3):
            variable = template.attributes.get(f"variable_{i}") if template else None
            axis = group.numbers(f"index_{i}") or (template.numbers(f"index_{i}") if template else [])
            if any(low >= high for low, high in pairwise(axis)):
                raise ValueError(f"table {group.name} with index_{i} {axis}, expected each above the one before")
            if axis:
                axes.append(axis)
                kinds.append(variable)
        values = np.array(group.numbers("values")).reshape([len(a) for a in axes] or [1])
        if not (np.abs(values) < _LARGEST).all():
            raise ValueError(f"table {group.name} holds a number that is not finite or above {_LARGEST:g}")
        is_load = [k in _LOAD_VARIABLES for k in kinds]
        if len(axes) > 2 or any(k not in _LOAD_VARIABLES + _SLEW_VARIABLES for k in kinds if k):
            raise InputError(f"{self.source}: table {group.name} over {kinds}, expected slew and load")
        if not axes:
            first, second, values = [0.0], [0.0], values.reshape(1, 1)
        elif len(axes) == 1:
            first, second = ([0.0], axes[0]) if is_load[0] else (axes[0], [0.0])
            values = values.reshape(len(first), len(second))
        else:
            # Constraint tables come as (data, clock) or (clock, data): the related pin goes first, like the input slew.
            swap = is_load[0] or kinds[0] == "constrained_pin_transition"
            first, second = (axes[1], axes[0]) if swap else (axes[0], axes[1])
            values = values.T if swap else values
        loads = any(is_load)
        first = [x * self._time for x in first]
        second = [x * (self._capacitance if loads else self._time) for x in second]
        return Table(tuple(first), tuple(second), values * (self._time if value_scale is None else value_scale))


def _when(group: Group) -> str | None:
    when = group.attributes.get("when")
    if when is not None:
        compile_expression(when)
    return when


def _clock_gate(group: Group) -> ClockGate | None:
    if group.attributes.get("clock_gating_integrated_cell") not in _CLOCK_GATES:
        return None
    marked: dict[str, list[str]] = {"clock": [], "enable": [], "test": [], "out": []}
    for pin in group.all("pin"):
        for role in marked:
            if pin.attributes.get(f"clock_gate_{role}_pin") == "true":
                marked[role] += pin.arguments
    if len(marked["clock"]) != 1 or len(marked["out"]) != 1 or not marked["enable"]:
        return None
    return ClockGate(marked["clock"][0], tuple(marked["enable"] + marked["test"]), marked["out"][0])


def _dont_use(body: str) -> bool:
    position = body.find("dont_use")
    return position >= 0 and "true" in body[position : position + 24]


def _unit(table: dict[str, float], text: str, name: str, source: str) -> float:
    if text not in table:
        raise InputError(f"{source}: {name} {text!r}, expected one of {', '.join(table)}")
    return table[text]


def _number(text: str, name: str, source: str) -> float:
    try:
        return _finite(text)
    except ValueError as error:
        raise InputError(f"{source}: {name} {text!r}, expected a number") from error


def _positive(text: str, name: str, source: str) -> float:
    value = _number(text, name, source)
    if value <= 0:
        raise InputError(f"{source}: {name} {text!r}, expected a number above 0")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text!r}, expected a finite number")
    return value
