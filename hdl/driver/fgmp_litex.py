"""The engine as a LiteX peripheral: control on the SoC's bus, a DMA for each stream, the interrupt.

    fgmp verilog engine -o out
    fgmp driver --litex -o sw
    python sw/fgmp_litex.py out/engine.v    # elaborates a small SoC with it, writes out/litex/soc.v

In a SoC of yours: `soc.engine = FGMPEngine(soc, "out/engine.v")`, then memory as usual. The name `engine` is what
fgmp_litex.c expects. Written for LiteX 2024.12 and Migen 0.10.
"""

import re
import sys
from pathlib import Path
from typing import Any

from litex.build.generic_platform import Pins
from litex.build.io import CRG
from litex.build.sim import SimPlatform
from litex.gen import LiteXModule
from litex.soc.cores.dma import WishboneDMAReader, WishboneDMAWriter
from litex.soc.integration.soc import SoCRegion
from litex.soc.integration.soc_core import SoCMini
from litex.soc.interconnect import axi, stream, wishbone
from litex.soc.interconnect.csr import CSRStorage
from litex.soc.interconnect.csr_eventmanager import EventManager, EventSourceLevel
from migen import Case, ClockSignal, If, Instance, ResetInserter, ResetSignal, Signal

__all__ = ["FGMPEngine"]

_BYTES = 16
_AS_IT_IS = "big"
"""LiteX's DMAs swap the bytes of a word by default, which they call little-endian."""


class FGMPEngine(LiteXModule):
    """`soc` gets the registers at `origin`, and a DMA master for each stream that the Verilog has."""

    def __init__(self, soc: Any, verilog: str, origin: int = 0x9000_0000) -> None:
        names = re.findall(r"^  input \[127:0\] s_axis_(\w+)_tdata", Path(verilog).read_text(), re.MULTILINE)
        if not names:
            raise ValueError(f"{verilog}: no streams, expected the Verilog of an engine")
        if soc.bus.data_width != 32:
            raise ValueError(f"bus of {soc.bus.data_width} bits, expected 32: the registers are 32 bits wide")
        self.bus = control = axi.AXILiteInterface(data_width=32, address_width=32)
        soc.bus.add_slave("engine_registers", control, SoCRegion(origin=origin, size=0x40000, cached=False))
        soc.add_constant("FGMP_WORD_BYTES", soc.bus.data_width // 8)
        self.ev = EventManager()
        self.ev.done = EventSourceLevel()
        self.ev.finalize()

        ports = {
            "i_aclk": ClockSignal("sys"),
            "i_aresetn": ~ResetSignal("sys"),
            "o_irq": self.ev.done.trigger,
            "i_s_axi_awaddr": control.aw.addr[:18],
            "i_s_axi_awvalid": control.aw.valid,
            "o_s_axi_awready": control.aw.ready,
            "i_s_axi_wdata": control.w.data,
            "i_s_axi_wstrb": control.w.strb,
            "i_s_axi_wvalid": control.w.valid,
            "o_s_axi_wready": control.w.ready,
            "o_s_axi_bresp": control.b.resp,
            "o_s_axi_bvalid": control.b.valid,
            "i_s_axi_bready": control.b.ready,
            "i_s_axi_araddr": control.ar.addr[:18],
            "i_s_axi_arvalid": control.ar.valid,
            "o_s_axi_arready": control.ar.ready,
            "o_s_axi_rdata": control.r.data,
            "o_s_axi_rresp": control.r.resp,
            "o_s_axi_rvalid": control.r.valid,
            "i_s_axi_rready": control.r.ready,
        }
        for name in names:
            ports |= self._sender(soc, name)
        ports |= self._receiver(soc)
        self.specials += Instance(Path(verilog).stem, **ports)
        for wrapper in ("fgmp_ram_1r1w.v", "fgmp_clock_gate.v"):
            if (path := Path(verilog).with_name(wrapper)).is_file():
                soc.platform.add_source(str(path))
        soc.platform.add_source(verilog)

    def _sender(self, soc: Any, name: str) -> dict[str, Any]:
        """From memory to a stream of the engine: DMA, width, and how many bytes the last beat has."""
        master = wishbone.Interface(data_width=soc.bus.data_width)
        reader = WishboneDMAReader(master, endianness=_AS_IT_IS, with_csr=True)
        widen = ResetInserter()(stream.Converter(soc.bus.data_width, 8 * _BYTES))
        tail = CSRStorage(
            5, name=f"{name}_tail", reset=_BYTES, description=f"bytes in the last beat of {name}, 1 to 16"
        )
        setattr(self, f"{name}_dma", reader)
        setattr(self, f"{name}_widen", widen)
        setattr(self, f"{name}_tail", tail)
        soc.bus.add_master(f"engine_{name}", master)
        keep, full = Signal(_BYTES), (1 << _BYTES) - 1
        self.comb += [
            # What a DMA that is stopped has fetched is dropped: the next packet must not begin with it.
            reader.source.connect(widen.sink, omit={"valid", "ready"}),
            widen.sink.valid.eq(reader.source.valid & reader.enable),
            reader.source.ready.eq(widen.sink.ready | ~reader.enable),
            widen.reset.eq(~reader.enable),
            keep.eq(full),
            If(widen.source.last, Case(tail.storage, {i: keep.eq((1 << i) - 1) for i in range(1, _BYTES + 1)})),
        ]
        return {
            f"i_s_axis_{name}_tdata": widen.source.data,
            f"i_s_axis_{name}_tkeep": keep,
            f"i_s_axis_{name}_tlast": widen.source.last,
            f"i_s_axis_{name}_tvalid": widen.source.valid,
            f"o_s_axis_{name}_tready": widen.source.ready,
        }

    def _receiver(self, soc: Any) -> dict[str, Any]:
        """From the engine's results to memory, in whole beats."""
        master = wishbone.Interface(data_width=soc.bus.data_width)
        self.results_dma = writer = WishboneDMAWriter(master, endianness=_AS_IT_IS, with_csr=True)
        self.results_narrow = narrow = stream.Converter(8 * _BYTES, soc.bus.data_width)
        soc.bus.add_master("engine_results", master)
        self.comb += narrow.source.connect(writer.sink)
        return {
            "o_m_axis_results_tdata": narrow.sink.data,
            "o_m_axis_results_tkeep": Signal(_BYTES),
            "o_m_axis_results_tlast": narrow.sink.last,
            "o_m_axis_results_tvalid": narrow.sink.valid,
            "i_m_axis_results_tready": narrow.sink.ready,
        }


def main() -> int:
    """Elaborate a SoC with the engine and nothing else."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_file():
        print(f"usage: {sys.argv[0]} VERILOG, the file of an engine", file=sys.stderr)
        return 2
    platform = SimPlatform("SIM", [("sys_clk", 0, Pins(1))])
    soc = SoCMini(platform, clk_freq=int(50e6))
    soc.crg = CRG(platform.request("sys_clk"))
    soc.engine = FGMPEngine(soc, str(Path(sys.argv[1]).absolute()))
    soc.finalize()
    Path("out/litex").mkdir(parents=True, exist_ok=True)
    platform.get_verilog(soc).write("out/litex/soc.v")
    print("out/litex/soc.v")
    return 0


if __name__ == "__main__":
    sys.exit(main())
