// Replays recorded streams through @NAME@ and compares every beat that it answers with. Needs no library: any simulator
// that reads SystemVerilog. `STALL` of 256 cycles, on average, each stream pauses.
`timescale 1ns/1ns
/* verilator lint_off WIDTH */
/* verilator lint_off BLKSEQ */
module replay_@NAME@;
  parameter STALL = 64;
  localparam PATIENCE = 20000;  // cycles without any movement before it gives up

  reg clk = 0;
  reg in_reset = 1;
  always #5 clk = ~clk;

  integer errors = 0, compared = 0, quiet = 0, step = 0;
  reg [63:0] script [0:@STEPS@-1];
  reg [31:0] chance = 32'd1;
  initial $readmemh("script.hex", script);

  task fail(input [8*40-1:0] what, input [31:0] where);
    begin
      errors = errors + 1;
      if (errors <= 10) $display("FAIL: %0s %0d, step %0d", what, where, step);
      if (errors > 1000) $fatal(1);  // a stream that never ends is one that moves
    end
  endtask

  always @(posedge clk) begin
    quiet = quiet + 1;
    if (quiet > PATIENCE) begin
      $display("FAIL: nothing moved for %0d cycles, step %0d", PATIENCE, step);
      $fatal(1);
    end
  end

@PORTS@
@STREAMS@
  // The result stream: compared as it comes; what waits must not change.
  reg [@WIDTH@-1:0] expected [0:@EXPECTED@-1];
  initial $readmemh("@RESULTS@.hex", expected);
  wire [@WIDTH@-1:0] answer = @ANSWER@;
  reg [@WIDTH@-1:0] held;
  reg waiting = 0;
  integer answered = 0, due = 0;
  always @(negedge clk) begin
    chance = {chance[30:0], chance[31] ^ chance[21] ^ chance[1] ^ chance[0]};
    @READY@ = !in_reset && chance[7:0] >= STALL;
  end
  always @(posedge clk) begin
    if (waiting && (!@VALID@ || answer !== held)) fail("waiting beat changed:", answered);
    waiting = @VALID@ && !@READY@ && !in_reset;
    held = answer;
    if (@VALID@ && @READY@) begin
      quiet = 0;
      compared = compared + 1;
      if (answered >= due) fail("surplus beat", answered);
      else if (answer !== expected[answered]) begin
        fail("different beat", answered);
        if (errors <= 10) $display("  expected %h\n  found    %h", expected[answered], answer);
      end
      answered = answered + 1;
    end
  end

@TASKS@
  task expect_beats(input [31:0] count);
    begin
      due = due + count;
      while (answered < due) @(negedge clk);
      repeat (64) @(negedge clk);  // whatever comes too many comes now
    end
  endtask

  initial begin
    @RESET@
    while (script[step][63:56] != 0) begin
      case (script[step][63:56])
@CASES@
        default: fail("unknown operation", script[step][63:56]);
      endcase
      step = step + 1;
    end
    if (errors == 0 && compared == @EXPECTED@) begin
      $display("PASS: %0d beats compared, none differs", compared);
      $finish;
    end else begin  // a simulator may go on behind $finish
      $display("FAIL: %0d of %0d beats compared, %0d differences", compared, @EXPECTED@, errors);
      $fatal(1);
    end
  end
endmodule
