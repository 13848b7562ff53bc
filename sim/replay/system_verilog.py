"""The SystemVerilog bench of a recording: a template and the ports of the unit."""

from pathlib import Path

from ...hdl.design import Design
from .recording import OPERATIONS, Recording, Stream

__all__ = ["bench_text"]

_TEMPLATE = Path(__file__).with_name("bench.sv")

_SOURCE = """\
  // Stream {name}: valid waits for nothing, and what is not valid is noise.
  reg [{width}-1:0] {name}_beats [0:{size}-1];
  initial $readmemh("{name}.hex", {name}_beats);
  reg [31:0] {name}_chance = 32'd{seed};
  reg {name}_offered = 0;
  integer {name}_next = 0, {name}_end = 0;
  always @(negedge clk) begin
    {name}_chance = {{{name}_chance[30:0],
      {name}_chance[31] ^ {name}_chance[21] ^ {name}_chance[1] ^ {name}_chance[0]}};
    if (!{name}_offered && {name}_next < {name}_end && {name}_chance[7:0] >= STALL) {name}_offered = 1;
    {valid} = {name}_offered || in_reset;  // during reset too, which must not be heard
    {{{payload}}} = {name}_offered ? {name}_beats[{name}_next] : {{{copies}{{{name}_chance}}}};
  end
  always @(posedge clk) if ({valid} && {ready} && !in_reset) begin
    {name}_next = {name}_next + 1;
    {name}_offered = 0;
    quiet = 0;
  end
"""

_REGISTERS = """\
  task write_register(input [31:0] address, input [31:0] value);
    reg address_taken, data_taken;
    begin
      @(negedge clk);
      s_axi_awaddr = address; s_axi_awvalid = 1; s_axi_wdata = value; s_axi_wstrb = 15; s_axi_wvalid = 1;
      s_axi_bready = 1;
      while (s_axi_awvalid || s_axi_wvalid) begin
        @(posedge clk);
        address_taken = s_axi_awvalid && s_axi_awready;
        data_taken = s_axi_wvalid && s_axi_wready;
        @(negedge clk);
        if (address_taken) s_axi_awvalid = 0;
        if (data_taken) s_axi_wvalid = 0;
      end
      @(posedge clk);
      while (!s_axi_bvalid) @(posedge clk);
      if (s_axi_bresp !== 0) fail("refused write of", address);
      quiet = 0;
      @(negedge clk);
      s_axi_bready = 0;
    end
  endtask

  task read_register(input [31:0] address, input [31:0] value);
    begin
      @(negedge clk);
      s_axi_araddr = address; s_axi_arvalid = 1; s_axi_rready = 1;
      @(posedge clk);
      while (!s_axi_arready) @(posedge clk);
      @(negedge clk);
      s_axi_arvalid = 0;
      @(posedge clk);
      while (!s_axi_rvalid) @(posedge clk);
      if (s_axi_rresp !== 0 || s_axi_rdata !== value) begin
        fail("register", address);
        $display("  expected %h\\n  found    %h", value, s_axi_rdata);
      end
      quiet = 0;
      @(negedge clk);
      s_axi_rready = 0;
    end
  endtask
"""


def bench_text(design: Design, recording: Recording) -> str:
    """The bench, which is called `replay_NAME`. It reads its hex files from the folder in which it runs."""
    engine = any(port.name == "aclk" for port in design.ports)
    clock, reset = ("aclk", "aresetn") if engine else ("clk", "rst")
    results = recording.results
    parts = {
        "NAME": design.name,
        "STEPS": str(len(recording.steps)),
        "PORTS": _ports(design, clock, reset, engine),
        "STREAMS": "\n".join(_source(stream, index) for index, stream in enumerate(recording.sources)),
        "WIDTH": str(results.width),
        "EXPECTED": str(len(results.beats)),
        "RESULTS": results.name,
        "ANSWER": f"{{{', '.join(results.payload)}}}",
        "VALID": results.valid,
        "READY": results.ready,
        "TASKS": _REGISTERS if engine else "",
        "RESET": _reset(design, engine),
        "CASES": _cases(recording, engine),
    }
    text = _TEMPLATE.read_text()
    for name, value in parts.items():
        text = text.replace(f"@{name}@", value)
    return text


def _ports(design: Design, clock: str, reset: str, engine: bool) -> str:
    lines = []
    for port in design.ports:
        if port.name in (clock, reset):
            continue
        kind = "reg" if port.direction == "input" else "wire"
        lines.append(f"  {kind} {f'[{port.width - 1}:0] ' if port.width > 1 else ''}{port.name};")
    connected = [f".{clock}(clk)", f".{reset}({'~' if engine else ''}in_reset)"]
    connected += [f".{port.name}({port.name})" for port in design.ports if port.name not in (clock, reset)]
    joined = ",\n    ".join(connected)
    return "\n".join([*lines, f"  {design.name} unit (\n    {joined}\n  );", ""])


def _source(stream: Stream, index: int) -> str:
    return _SOURCE.format(
        name=stream.name,
        width=stream.width,
        size=max(len(stream.beats), 1),
        seed=index * 7919 + 12345,
        valid=stream.valid,
        ready=stream.ready,
        payload=", ".join(stream.payload),
        copies=-(-stream.width // 32),
    )


def _reset(design: Design, engine: bool) -> str:
    streams = ("s_axis_", "i_")
    quiet = [p.name for p in design.ports if p.direction == "input" and p.name not in ("clk", "rst", "aclk", "aresetn")]
    lines = [f"{name} = 0;" for name in quiet if not name.startswith(streams) and not name.endswith("ready")]
    lines += [f"{name} = 0;" for name in quiet if engine and name in ("s_axi_bready", "s_axi_rready")]
    return "\n    ".join([*lines, "repeat (3) @(negedge clk);", "in_reset = 0;", "@(negedge clk);"])


def _cases(recording: Recording, engine: bool) -> str:
    def number(operation: str) -> int:
        return OPERATIONS.index(operation)

    value, index = "script[step][31:0]", "script[step][55:32]"
    cases = [f"        {number('expect')}: expect_beats({value});"]
    sends = " ".join(
        f"{i}: {stream.name}_end = {stream.name}_end + {value};" for i, stream in enumerate(recording.sources)
    )
    cases.append(f"        {number('send')}: begin @(negedge clk); case ({index}) {sends} default: ; endcase end")
    if engine:
        cases.append(f"        {number('write')}: write_register({index}, {value});")
        cases.append(f"        {number('read')}: read_register({index}, {value});")
        cases.append(f"        {number('wait')}: while (!irq) @(negedge clk);")
    else:
        sets = " ".join(f"{i}: {name} = {value};" for i, name in enumerate(recording.settings))
        checks = " ".join(
            f'{i}: if ({name} !== {value}) fail("flag {name}", {value});' for i, name in enumerate(recording.flags)
        )
        cases.append(f"        {number('set')}: begin @(negedge clk); case ({index}) {sets} default: ; endcase end")
        cases.append(f"        {number('check')}: case ({index}) {checks} default: ; endcase")
        clear = "begin @(negedge clk); clear_flags = 1; @(negedge clk); clear_flags = 0; end"
        cases.append(f"        {number('clear')}: {clear}")
    return "\n".join(cases)
