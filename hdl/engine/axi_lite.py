"""The AXI4-Lite slave: register file made from the register map, and the write ports of the site memories."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..pipeline import wire
from .registers import EVENTS, INPUT_SITE, OUTPUT_SITE, REGISTERS, Register

__all__ = ["ADDRESS_BITS", "RegisterFile", "register_file_ports"]

ADDRESS_BITS = 18
_WINDOW_BITS = 16
_OKAY, _SLVERR = 0, 2


def _port(item: Register, field: str) -> str:
    return f"{item.name.lower()}_{field}"


def register_file_ports() -> dict[str, wiring.Member]:
    """Ports of the register file: AXI4-Lite without its prefix, and the registers' fields."""
    members = {
        "awaddr": In(ADDRESS_BITS),
        "awvalid": In(1),
        "awready": Out(1),
        "wdata": In(32),
        "wstrb": In(4),
        "wvalid": In(1),
        "wready": Out(1),
        "bresp": Out(2),
        "bvalid": Out(1),
        "bready": In(1),
        "araddr": In(ADDRESS_BITS),
        "arvalid": In(1),
        "arready": Out(1),
        "rdata": Out(32),
        "rresp": Out(2),
        "rvalid": Out(1),
        "rready": In(1),
        "irq": Out(1),
        "site_write": Out(1),
        "site_output": Out(1),
        "site_index": Out(12),
        "site_word": Out(2),
        "site_data": Out(32),
    }
    for item in REGISTERS:
        for field in item.fields:
            flow = Out if item.access in ("rw", "wo") else In
            members[_port(item, field.name)] = flow(field.bits)
    return members


class RegisterFile(wiring.Component):
    """Ports named REGISTER_field: outputs for what software writes, inputs for what it reads.

    Fields of "wo" registers are high for the cycle of the write; "w1c" ones take events as inputs. Writes to read-only
    registers are ignored; an address without a register, or not a multiple of 4, answers SLVERR. `site_*` write the
    site memories: `site_output` says which, `site_word` the word of the entry.
    """

    def __init__(self) -> None:
        super().__init__(register_file_ports())

    def elaborate(self, platform: object) -> Module:
        m = Module()
        awake = Signal()
        m.d.sync += awake.eq(1)

        # Address and data are taken in either order, each into a register of its own, so that no output depends on an
        # input in the same cycle (IHI 0022); the write is done when both are there and no answer is waiting.
        address, address_there = Signal(ADDRESS_BITS, reset_less=True), Signal()
        data, strobe, data_there = Signal(32, reset_less=True), Signal(4, reset_less=True), Signal()
        m.d.comb += [self.awready.eq(awake & ~address_there), self.wready.eq(awake & ~data_there)]
        with m.If(self.awvalid & self.awready):
            m.d.sync += [address.eq(self.awaddr), address_there.eq(1)]
        with m.If(self.wvalid & self.wready):
            m.d.sync += [data.eq(self.wdata), strobe.eq(self.wstrb), data_there.eq(1)]
        write = wire(m, "write", address_there & data_there & ~self.bvalid)
        with m.If(write):
            m.d.sync += [address_there.eq(0), data_there.eq(0)]
        strobes = wire(m, "strobes", Cat(strobe[i].replicate(8) for i in range(4)))
        input_site, output_site = (_in_window(address, base) for base in (INPUT_SITE, OUTPUT_SITE))
        site = wire(m, "site", (input_site | output_site) & ~address[:2].any())
        m.d.comb += [
            self.site_write.eq(write & site & strobe.all()),
            self.site_output.eq(output_site),
            self.site_index.eq(address[4:_WINDOW_BITS]),
            self.site_word.eq(address[2:4]),
            self.site_data.eq(data),
        ]
        known: Value = site
        read_data = Signal(32)
        read_known = Signal()
        m.d.comb += read_known.eq(_in_window(self.araddr, INPUT_SITE) | _in_window(self.araddr, OUTPUT_SITE))
        for item in REGISTERS:
            here = wire(m, f"write_{item.name.lower()}", address == item.offset)
            known = known | here
            value = self._field_values(m, item, write & here, data, strobes)
            with m.If(self.araddr == item.offset):
                m.d.comb += [read_known.eq(1), read_data.eq(value)]
        with m.If(write):
            m.d.sync += [self.bvalid.eq(1), self.bresp.eq(Mux(known, _OKAY, _SLVERR))]
        with m.Elif(self.bready):
            m.d.sync += self.bvalid.eq(0)
        m.d.comb += self.arready.eq(awake & ~self.rvalid)
        with m.If(self.arvalid & self.arready):
            m.d.sync += [
                self.rvalid.eq(1),
                self.rdata.eq(Mux(self.araddr[:2].any(), 0, read_data)),
                self.rresp.eq(Mux(read_known & ~self.araddr[:2].any(), _OKAY, _SLVERR)),
            ]
        with m.Elif(self.rready):
            m.d.sync += self.rvalid.eq(0)
        return m

    def _field_values(self, m: Module, item: Register, write: Value, word: Value, strobes: Value) -> Value:
        """Give the register's fields their behaviour; returns what a read gives."""
        parts: list[Value] = []
        position = 0
        for field in item.fields:
            port: Signal = getattr(self, _port(item, field.name))
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
        value = Cat(parts)
        if item.name == "EVENTS":
            enabled = Cat(getattr(self, f"interrupt_enable_{name}") for name, _ in EVENTS)
            m.d.comb += self.irq.eq((value & enabled).any())
        return value


def _in_window(address: Value, base: int) -> Value:
    """Whether `address` lies in the 64 KB that begin at `base`."""
    return address[_WINDOW_BITS:] == base >> _WINDOW_BITS
