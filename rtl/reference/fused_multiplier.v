// One product of two numbers of 2 * HALF bits, or the sum of the products of their halves: by the operator *.
module reference_fused_multiplier #(
    parameter HALF = 4
) (
    input signed [2*HALF-1:0] a,
    input signed [2*HALF-1:0] b,
    input wide,
    output signed [4*HALF-1:0] product
);
    wire signed [HALF-1:0] a0 = a[HALF-1:0], a1 = a[2*HALF-1:HALF];
    wire signed [HALF-1:0] b0 = b[HALF-1:0], b1 = b[2*HALF-1:HALF];
    wire signed [4*HALF-1:0] whole = a * b;
    wire signed [4*HALF-1:0] both = a0 * b0 + a1 * b1;
    assign product = wide ? whole : both;
endmodule
