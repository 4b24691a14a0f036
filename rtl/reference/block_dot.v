// A step of the MXFP4 dot unit (OCP Microscaling Formats v1.0): N products of E2M1 codes are added exactly, multiplied by
// two E8M0 scales in float32, rounded to a float register of E = 8 and added to it. Scales are not NaN (255).
module reference_block_dot #(
    parameter N = 2, T = 7
) (
    input [4*N-1:0] a,
    input [4*N-1:0] b,
    input [7:0] scale_a,
    input [7:0] scale_b,
    input [8+T:0] total,
    output [8+T:0] next
);
    // E2M1 in halves: 0, 1, then 2 and 3 times powers of two.
    function signed [5:0] halves(input [3:0] code);
        begin
            halves = code[2:1] == 0 ? code[0] : {4'b0001, code[0]} << (code[2:1] - 2'd1);
            if (code[3]) halves = -halves;
        end
    endfunction
    integer i;
    reg signed [15:0] sum;
    reg [15:0] magnitude;
    reg [4:0] lead;
    reg signed [11:0] first, field;
    reg [24:0] significand, kept;
    reg [11:0] distance;
    reg [31:0] single;
    reg half, rest;
    reg [8+T:0] term;
    always @* begin
        sum = 0;
        for (i = 0; i < N; i = i + 1) sum = sum + halves(a[4*i +: 4]) * halves(b[4*i +: 4]);
        magnitude = sum < 0 ? -sum : sum;
        lead = 0;
        for (i = 0; i < 16; i = i + 1) if (magnitude[i]) lead = i;
        // The sum is in quarters. Times A's scale it has at most 13 bits above the smallest subnormal: nothing is lost.
        first = $signed({7'b0, lead}) - 2 + $signed({4'b0, scale_a});
        field = first + $signed({4'b0, scale_b}) - 127;
        significand = magnitude << (23 - lead);
        // Below the normal numbers of float32: to the nearest multiple of 2**-149, ties to even.
        distance = field < 1 ? 1 - field : 0;
        kept = significand >> distance;
        half = distance > 0 && distance < 26 ? significand >> (distance - 1) : 0;
        rest = distance > 1 && (distance < 26 ? significand != (significand >> (distance - 1)) << (distance - 1) : 1);
        kept = kept + (half && (rest || kept[0]));
        single = field < 1 ? kept : {field[8:0], 23'b0} + significand[22:0];
        if (first > 254 || field > 254) single = 32'h7F800000;
        // To the register's mantissa, ties to even; a carry moves into the exponent.
        term = single >> (23 - T);
        if (T < 23) begin
            half = single[22 - T];
            rest = (single & ((1 << (22 - T)) - 1)) != 0;
            term = term + (half && (rest || term[0]));
        end
        if (magnitude == 0) term = 0;
        term[8+T] = sum < 0;
    end
    reference_aligned_adder #(.E(8), .T(T)) adder(.a(total), .b(term), .y(next));
endmodule
