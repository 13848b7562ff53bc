// A board's top level that needs nothing but a clock and three LEDs: runs one layer from ROM on the engine and compares
// its results. The ROMs and the sizes in selftest_sizes.vh are written by selftest.py.
`include "selftest_sizes.vh"

module selftest (
  input clk,
  input start_n,       // a button: low holds everything in reset
  output reg led_busy,
  output reg led_pass,
  output reg led_fail
);
  // Reset for some cycles after configuration and while the button is pressed.
  reg [3:0] awake = 4'd0;
  wire aresetn = awake == 4'd15;
  always @(posedge clk)
    if (!start_n) awake <= 4'd0;
    else if (!aresetn) awake <= awake + 4'd1;

  reg [47:0] writes [0:`WRITES-1];
  reg [144:0] weights [0:`WEIGHTS-1];
  reg [144:0] activations [0:`ACTIVATIONS-1];
  reg [144:0] results [0:`RESULTS-1];
  initial begin
    $readmemh("writes.hex", writes);
    $readmemh("weights.hex", weights);
    $readmemh("activations.hex", activations);
    $readmemh("results.hex", results);
  end

  // Registers, one write after the other; the last is START.
  reg [15:0] write_index;
  reg write_valid;
  reg [47:0] write_now;
  wire awready, wready, bvalid;
  always @(posedge clk)
    if (!aresetn) begin
      write_index <= 16'd0;
      write_valid <= 1'b0;
    end else if (!write_valid) begin
      if (write_index != `WRITES && !bvalid) begin
        write_now <= writes[write_index];
        write_index <= write_index + 16'd1;
        write_valid <= 1'b1;
      end
    end else if (awready && wready) write_valid <= 1'b0;

  // Two streams out of ROM.
  wire weights_ready, activations_ready;
  reg weights_valid, activations_valid;
  reg [144:0] weight_beat, activation_beat;
  reg [15:0] weight_index, activation_index;
  always @(posedge clk)
    if (!aresetn) begin
      weight_index <= 16'd0;
      weights_valid <= 1'b0;
    end else if (!weights_valid || weights_ready) begin
      weight_beat <= weights[weight_index == `WEIGHTS ? 16'd0 : weight_index];
      weights_valid <= weight_index != `WEIGHTS;
      if (weight_index != `WEIGHTS) weight_index <= weight_index + 16'd1;
    end
  always @(posedge clk)
    if (!aresetn) begin
      activation_index <= 16'd0;
      activations_valid <= 1'b0;
    end else if (!activations_valid || activations_ready) begin
      activation_beat <= activations[activation_index == `ACTIVATIONS ? 16'd0 : activation_index];
      activations_valid <= activation_index != `ACTIVATIONS;
      if (activation_index != `ACTIVATIONS) activation_index <= activation_index + 16'd1;
    end

  // Results against ROM.
  wire [127:0] result_data;
  wire [15:0] result_keep;
  wire result_last, result_valid;
  reg [15:0] result_index;
  reg [144:0] expected;
  reg compare, wrong;
  reg [144:0] got;
  always @(posedge clk)
    if (!aresetn) begin
      result_index <= 16'd0;
      compare <= 1'b0;
      wrong <= 1'b0;
      led_busy <= 1'b1;
      led_pass <= 1'b0;
      led_fail <= 1'b0;
    end else begin
      compare <= result_valid;
      if (result_valid) begin
        got <= {result_last, result_keep, result_data};
        expected <= results[result_index == `RESULTS ? 16'd0 : result_index];
        result_index <= result_index + 16'd1;
      end
      if (compare) begin
        if (got != expected) wrong <= 1'b1;
        if (got[144]) begin
          led_busy <= 1'b0;
          led_pass <= !wrong && got == expected && result_index == `RESULTS;
          led_fail <= wrong || got != expected || result_index != `RESULTS;
        end
      end
    end

  engine_4 engine (
    .aclk(clk), .aresetn(aresetn), .irq(),
    .s_axi_awaddr({2'b00, write_now[47:32]}), .s_axi_awvalid(write_valid), .s_axi_awready(awready),
    .s_axi_wdata(write_now[31:0]), .s_axi_wstrb(4'hf), .s_axi_wvalid(write_valid), .s_axi_wready(wready),
    .s_axi_bresp(), .s_axi_bvalid(bvalid), .s_axi_bready(1'b1),
    .s_axi_araddr(18'h0), .s_axi_arvalid(1'b0), .s_axi_arready(),
    .s_axi_rdata(), .s_axi_rresp(), .s_axi_rvalid(), .s_axi_rready(1'b1),
    .s_axis_weights_tdata(weight_beat[127:0]), .s_axis_weights_tkeep(weight_beat[143:128]),
    .s_axis_weights_tlast(weight_beat[144]), .s_axis_weights_tvalid(weights_valid), .s_axis_weights_tready(weights_ready),
    .s_axis_activations_tdata(activation_beat[127:0]), .s_axis_activations_tkeep(activation_beat[143:128]),
    .s_axis_activations_tlast(activation_beat[144]), .s_axis_activations_tvalid(activations_valid),
    .s_axis_activations_tready(activations_ready),
    .m_axis_results_tdata(result_data), .m_axis_results_tkeep(result_keep), .m_axis_results_tlast(result_last),
    .m_axis_results_tvalid(result_valid), .m_axis_results_tready(1'b1)
  );
endmodule
