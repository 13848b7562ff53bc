// Replays recorded inputs through @NAME@, cycle by cycle, and compares what it answers where there is an answer. Needs
// no library: any simulator that reads SystemVerilog.
`timescale 1ns/1ns
/* verilator lint_off WIDTH */
/* verilator lint_off BLKSEQ */
module replay_@NAME@;
  reg clk = 0;
  reg [@INPUT_BITS@-1:0] inputs [0:@CYCLES@-1];
  reg [@OUTPUT_BITS@-1:0] expected [0:@CYCLES@-1];
  reg [@OUTPUT_BITS@-1:0] checked [0:@CYCLES@-1];  // which bits of the answer are compared
  reg [@INPUT_BITS@-1:0] given = 0;
  wire [@OUTPUT_BITS@-1:0] answer;
  integer cycle, compared = 0, errors = 0;

  @NAME@ unit (
    @PORTS@
  );

  initial begin
    $readmemh("inputs.hex", inputs);
    $readmemh("expected.hex", expected);
    $readmemh("checked.hex", checked);
    for (cycle = 0; cycle < @CYCLES@; cycle = cycle + 1) begin
      given = inputs[cycle];
      #5;
      if (checked[cycle] != 0) begin
        compared = compared + 1;
        if (((answer ^ expected[cycle]) & checked[cycle]) !== 0) begin
          errors = errors + 1;
          if (errors <= 10) begin
            $display("FAIL: different beat %0d", cycle);
            $display("  expected %h\n  found    %h", expected[cycle] & checked[cycle], answer & checked[cycle]);
          end
        end
      end
      clk = 1;
      #5;
      clk = 0;
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
