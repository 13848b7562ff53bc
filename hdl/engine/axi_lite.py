"""The AXI4-Lite subordinate: register file made from the register map, and the write ports of the site memories."""

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..pipeline import wire
from .interfaces import ADDRESS_BITS, AxiLite, SiteWrite
from .registers import INPUT_SITE, OUTPUT_SITE, REGISTERS, Register, register

__all__ = ["OKAY", "SLVERR", "RegisterFile", "register_signature"]

_WINDOW_BITS = 16
OKAY, SLVERR = 0, 2
_HIDDEN = ("INTERRUPT_ENABLE",)
"""Registers that nothing outside the register file looks at."""


def register_signature(name: str) -> wiring.Signature:
    """The fields of a register, seen from who gives them their values."""
    return wiring.Signature({field.name: Out(field.bits) for field in register(name).fields})


class RegisterFile(wiring.Component):
    """The AXI4-Lite subordinate: registers made from the register map, and the write port of the site memories.

    Writes to read-only registers are ignored; an address without a register, or not a multiple of 4, answers SLVERR.

    Attributes:
        axi: the bus.
        irq: the interrupt, high while an enabled event is set.
        site_write: writes to the site memories (of engines with a selector).
        REGISTER.FIELD: outputs for what software writes, inputs for what it reads. Fields of "wo" registers are high
            for the cycle of the write; "w1c" ones take events.
    """

    def __init__(self, *, unused: Sequence[str] = (), sites: bool = True, codes: bool = True):
        """`unused` are registers that nothing looks at; without `sites` there are no site memories."""
        self._sites = sites
        self._codes = codes
        self._shown = {item.name for item in REGISTERS} - {*_HIDDEN, *unused}
        members = {"axi": In(AxiLite), "irq": Out(1)}
        if sites:
            members["site_write"] = Out(SiteWrite(codes=codes))
        for item in REGISTERS:
            if item.name in self._shown:
                flow = Out if item.access in ("rw", "wo") else In
                members[item.name.lower()] = flow(register_signature(item.name))
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        awake = Signal()
        m.d.sync += awake.eq(1)
        address, data, strobes, write = self._taken(m, awake)
        axi = self.axi
        site = wire(m, "site_known", _in_site(address) & ~address[:2].any())
        if self._sites:
            m.d.comb += [
                self.site_write.enable.eq(write & site & strobes.all()),
                self.site_write.output.eq(_in_window(address, OUTPUT_SITE)),
                self.site_write.index.eq(address[4:_WINDOW_BITS]),
                self.site_write.word.eq(address[2:4]),
                self.site_write.data.eq(data),
            ]
        known: Value = site
        read_data = Signal(32)
        read_known = Signal()
        m.d.comb += read_known.eq(_in_site(axi.araddr))
        values: dict[str, Value] = {}
        for item in REGISTERS:
            here = wire(m, f"write_{item.name.lower()}", address == item.offset)
            known = known | here
            value = values[item.name] = self._field_values(m, item, write & here, data, strobes)
            with m.If(axi.araddr == item.offset):
                m.d.comb += [read_known.eq(1), read_data.eq(value)]
        m.d.comb += self.irq.eq((values["EVENTS"] & values["INTERRUPT_ENABLE"]).any())
        with m.If(write):
            m.d.sync += [axi.bvalid.eq(1), axi.bresp.eq(Mux(known, OKAY, SLVERR))]
        with m.Elif(axi.bready):
            m.d.sync += axi.bvalid.eq(0)
        m.d.comb += axi.arready.eq(awake & ~axi.rvalid)
        with m.If(axi.arvalid & axi.arready):
            m.d.sync += [
                axi.rvalid.eq(1),
                axi.rdata.eq(Mux(axi.araddr[:2].any(), 0, read_data)),
                axi.rresp.eq(Mux(read_known & ~axi.araddr[:2].any(), OKAY, SLVERR)),
            ]
        with m.Elif(axi.rready):
            m.d.sync += axi.rvalid.eq(0)
        return m

    def _taken(self, m: Module, awake: Value) -> tuple[Value, Value, Value, Value]:
        """Address, data and strobes (a bit for each of data) of a write, and whether it is done in this cycle.

        Address and data are taken in either order, each into a register of its own, so that no output depends on an
        input in the same cycle (IHI 0022); the write is done when both are there and no answer is waiting.
        """
        axi = self.axi
        address = Signal(ADDRESS_BITS, reset_less=True)
        address_there = Signal()
        data = Signal(32, reset_less=True)
        strobe = Signal(4, reset_less=True)
        data_there = Signal()
        m.d.comb += [axi.awready.eq(awake & ~address_there), axi.wready.eq(awake & ~data_there)]
        with m.If(axi.awvalid & axi.awready):
            m.d.sync += [address.eq(axi.awaddr), address_there.eq(1)]
        with m.If(axi.wvalid & axi.wready):
            m.d.sync += [data.eq(axi.wdata), strobe.eq(axi.wstrb), data_there.eq(1)]
        write = wire(m, "write", address_there & data_there & ~axi.bvalid)
        with m.If(write):
            m.d.sync += [address_there.eq(0), data_there.eq(0)]
        return address, data, wire(m, "strobes", Cat(strobe[i].replicate(8) for i in range(4))), write

    def _field_values(self, m: Module, item: Register, write: Value, word: Value, strobes: Value) -> Value:
        """Give the register's fields their behaviour; returns what a read gives."""
        parts: list[Value] = []
        position = 0
        shown = getattr(self, item.name.lower()) if item.name in self._shown else None
        for field in item.fields:
            port = getattr(shown, field.name) if shown else Signal(field.bits, name=f"{item.name.lower()}_{field.name}")
            bits = slice(field.low, field.low + field.bits)
            data, mask = word[bits], strobes[bits]
            held: Value = port
            if item.access == "rw":
                with m.If(write):
                    m.d.sync += port.eq((port & ~mask) | (data & mask))
            elif item.access == "wo":
                m.d.comb += port.eq(Mux(write, data & mask, 0))
                held = Const(0, field.bits)
            elif item.access == "w1c":
                held = Signal(field.bits, name=f"held_{field.name}")
                m.d.sync += held.eq(port | (held & ~Mux(write, data & mask, 0)))
            parts += [Const(0, field.low - position), held]
            position = field.low + field.bits
        return Cat(parts)


def _in_site(address: Value) -> Value:
    return _in_window(address, INPUT_SITE) | _in_window(address, OUTPUT_SITE)


def _in_window(address: Value, base: int) -> Value:
    """Whether `address` lies in the 64 KB that begin at `base`."""
    return address[_WINDOW_BITS:] == base >> _WINDOW_BITS
