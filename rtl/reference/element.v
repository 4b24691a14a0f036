// Multiply-accumulate element: sum + significand_a * significand_b * 2**(exponent_a + exponent_b), in a register that
// wraps or saturates. Operands leave one cycle later. Written by hand from the definition, not generated.
module reference_element #(
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

    localparam E = (EA > EB ? EA : EB) + 1;
    wire signed [SA+SB-1:0] significand = significand_a * significand_b;
    wire [E-1:0] exponent = exponent_a + exponent_b;
    wire signed [BITS:0] wide = significand;
    wire signed [BITS:0] product = wide <<< exponent;
    wire signed [BITS:0] before = clear ? {(BITS + 1){1'b0}} : {sum[BITS-1], sum};
    wire signed [BITS:0] total = product + before;
    wire overflow = total[BITS] != total[BITS-1];

    always @(posedge clk) begin
        exponent_a_out <= exponent_a;
        exponent_b_out <= exponent_b;
        significand_a_out <= significand_a;
        significand_b_out <= significand_b;
        if (valid) begin
            if (SATURATE != 0 && overflow) sum <= {total[BITS], {(BITS - 1){~total[BITS]}}};
            else sum <= total[BITS-1:0];
        end
    end
endmodule
