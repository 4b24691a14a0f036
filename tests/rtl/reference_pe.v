// Written by hand, not generated: what the generated processing elements are proven equal to.
module reference_pe #(
    parameter EA = 1, SA = 4, EB = 1, SB = 4, BITS = 32, SATURATE = 0
) (
    input clk,
    input clear,
    input [EA-1:0] exponent_a,
    input [EB-1:0] exponent_b,
    input signed [SA-1:0] significand_a,
    input signed [SB-1:0] significand_b,
    input valid,
    output reg [EA-1:0] exponent_a_out,
    output reg [EB-1:0] exponent_b_out,
    output reg [SA-1:0] significand_a_out,
    output reg [SB-1:0] significand_b_out,
    output reg signed [BITS-1:0] sum
);
    initial begin
        sum = 0;
        exponent_a_out = 0;
        exponent_b_out = 0;
        significand_a_out = 0;
        significand_b_out = 0;
    end

    wire signed [BITS:0] product = (significand_a * significand_b) <<< (exponent_a + exponent_b + {BITS{1'b0}});
    wire signed [BITS:0] total = product + (clear ? 64'sd0 : sum);
    localparam signed [BITS:0] TOP = (64'sd1 <<< (BITS - 1)) - 1;
    localparam signed [BITS:0] BOTTOM = -TOP - 1;

    always @(posedge clk) begin
        exponent_a_out <= exponent_a;
        exponent_b_out <= exponent_b;
        significand_a_out <= significand_a;
        significand_b_out <= significand_b;
        if (valid) begin
            if (SATURATE && total > TOP) sum <= TOP[BITS-1:0];
            else if (SATURATE && total < BOTTOM) sum <= BOTTOM[BITS-1:0];
            else sum <= total[BITS-1:0];
        end
    end
endmodule
