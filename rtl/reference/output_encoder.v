// An integer sum to the code of the next operand: bias (saturating), an integer scale of 31 bits with a shift from -31
// to 30, a rounding, a zero point and a range, as 64-bit integer arithmetic says it.
// SCHEME 0: gemmlowp's SaturatingRoundingDoublingHighMul and RoundingDivideByPOT; 1: one rounding, ties toward plus
// infinity; 2: one rounding, ties to even; 3: toward minus infinity.
module reference_output_encoder #(
    parameter SUM = 32, OUT = 8, SCHEME = 0, ZERO = 0, LEAST = -127, MOST = 127
) (
    input signed [SUM-1:0] sum,
    input [30:0] multiplier,
    input signed [5:0] shift,
    input signed [31:0] bias,
    output [OUT-1:0] code
);
    function signed [31:0] saturated(input signed [95:0] value);
        saturated = value > 96'sd2147483647 ? 32'sh7fffffff : value < -96'sd2147483648 ? 32'sh80000000 : value[31:0];
    endfunction

    wire signed [95:0] wide_sum = sum, wide_bias = bias;
    wire signed [31:0] x = saturated(wide_sum + wide_bias);
    wire [4:0] left = shift < 0 ? 5'd0 : shift[4:0];
    wire [5:0] right = shift < 0 ? -shift : 6'd0;

    // gemmlowp, fixedpoint/fixedpoint.h: (a b + nudge) / 2**31 by C's division, then a division by 2**right.
    wire signed [95:0] wide_x = x;
    wire signed [31:0] raised = saturated(wide_x <<< left);
    wire [63:0] m = multiplier;
    wire signed [63:0] ab = {{32{raised[31]}}, raised} * m;
    wire signed [63:0] nudged = ab + (ab >= 0 ? 64'sd1073741824 : -64'sd1073741823);
    wire signed [63:0] high = nudged >= 0 ? nudged >>> 31 : -((-nudged) >>> 31);
    wire signed [63:0] mask = (64'sd1 <<< right) - 64'sd1;
    wire signed [63:0] remainder = high & mask;
    wire signed [63:0] threshold = (mask >>> 1) + (high < 0 ? 64'sd1 : 64'sd0);
    wire signed [63:0] doubled = (high >>> right) + (remainder > threshold ? 64'sd1 : 64'sd0);

    // The product divided by 2**(31 - shift) at once; a shift of 30 leaves one bit to divide by.
    wire signed [63:0] product = {{32{x[31]}}, x} * m;
    wire [5:0] places = 6'd31 - shift;
    wire signed [63:0] floor = product >>> places;
    wire [63:0] rest = product & ((64'd1 << places) - 64'd1);
    wire [63:0] half = 64'd1 << (places - 6'd1);
    wire up = SCHEME == 1 ? rest >= half : SCHEME == 2 ? rest > half || (rest == half && floor[0]) : 1'b0;
    wire signed [63:0] single = floor + (up ? 64'sd1 : 64'sd0);

    wire signed [64:0] scaled = SCHEME == 0 ? doubled : single;
    wire signed [64:0] moved = scaled + ZERO;
    wire signed [64:0] held = moved < LEAST ? LEAST : moved > MOST ? MOST : moved;
    assign code = held[OUT-1:0];
endmodule
