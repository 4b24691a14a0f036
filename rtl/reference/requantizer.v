// sum * multiplier / 2**shift, the magnitude rounded (ROUND 0: to nearest even, 1: ties away from zero, 2: toward
// zero), saturated to OUT bits.
module reference_requantizer #(
    parameter SUM = 32, MULTIPLIER = 16, SHIFT = 5, OUT = 8, ROUND = 0
) (
    input signed [SUM-1:0] sum,
    input [MULTIPLIER-1:0] multiplier,
    input [SHIFT-1:0] shift,
    output signed [OUT-1:0] code
);
    localparam W = SUM + MULTIPLIER;
    wire [SUM-1:0] magnitude = sum < 0 ? -sum : sum;
    wire [W-1:0] product = magnitude * multiplier;
    wire [W:0] one = 1;
    wire [W-1:0] floor = product >> shift;
    wire [W-1:0] rest = product & ((one << shift) - one);
    // Twice the rest against the divisor: below, at or above one half.
    wire [W:0] twice = {rest, 1'b0};
    wire [W:0] divisor = one << shift;
    wire tie = twice == divisor;
    wire above = twice > divisor;
    wire up = ROUND == 0 ? above | (tie & floor[0]) : ROUND == 1 ? above | tie : 1'b0;
    wire [W:0] rounded = floor + {{W{1'b0}}, up};
    wire [W:0] largest = (one << (OUT - 1)) - one;
    wire [OUT-1:0] small = rounded[OUT-1:0];
    assign code = sum < 0 ? (rounded > largest + one ? ~largest[OUT-1:0] : -small)
                          : (rounded > largest ? largest[OUT-1:0] : small);
endmodule
