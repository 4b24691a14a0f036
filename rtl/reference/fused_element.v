// Four multiply-accumulate elements, two rows by two columns, or with `wide` one of their numbers joined: by the
// operator *. Registers wrap or saturate. Operands leave one cycle later. Written by hand, not generated.
module reference_fused_element #(
    parameter EA = 1, EB = 1, // widths of the ports of the exponents
    parameter NEA = 0, NEB = 0, WEA = 0, WEB = 0, // bits of an exponent, narrow and wide; 0 for none
    parameter SA = 4, SB = 4, // bits of a narrow significand
    parameter NBITS = 32, NSATURATE = 0, WBITS = 32, WSATURATE = 0,
    parameter R = NBITS > WBITS ? NBITS : WBITS
) (
    input clk,
    input clear,
    input valid,
    input wide,
    input [EA-1:0] exponent_a,
    input [EB-1:0] exponent_b,
    input signed [2*SA-1:0] significand_a,
    input signed [2*SB-1:0] significand_b,
    output reg [EA-1:0] exponent_a_out,
    output reg [EB-1:0] exponent_b_out,
    output reg [2*SA-1:0] significand_a_out,
    output reg [2*SB-1:0] significand_b_out,
    output reg signed [R-1:0] sum0,
    output reg signed [NBITS-1:0] sum1,
    output reg signed [NBITS-1:0] sum2,
    output reg signed [NBITS-1:0] sum3
);
    initial begin
        {sum0, sum1, sum2, sum3} = 0;
        {exponent_a_out, exponent_b_out, significand_a_out, significand_b_out} = 0;
    end

    localparam [EA-1:0] NMA = (1 << NEA) - 1, WMA = (1 << WEA) - 1;
    localparam [EB-1:0] NMB = (1 << NEB) - 1, WMB = (1 << WEB) - 1;
    localparam E = (EA > EB ? EA : EB) + 1;
    wire signed [SA-1:0] a0 = significand_a[SA-1:0], a1 = significand_a[2*SA-1:SA];
    wire signed [SB-1:0] b0 = significand_b[SB-1:0], b1 = significand_b[2*SB-1:SB];
    wire [EA-1:0] ea0 = exponent_a & NMA, ea1 = (exponent_a >> NEA) & NMA, ea = exponent_a & WMA;
    wire [EB-1:0] eb0 = exponent_b & NMB, eb1 = (exponent_b >> NEB) & NMB, eb = exponent_b & WMB;
    wire [E-1:0] e = ea + eb, e0 = ea0 + eb0, e1 = ea0 + eb1, e2 = ea1 + eb0, e3 = ea1 + eb1;
    wire signed [2*SA+2*SB-1:0] whole = significand_a * significand_b;
    wire signed [SA+SB-1:0] p0 = a0 * b0, p1 = a0 * b1, p2 = a1 * b0, p3 = a1 * b1;

    // Exact sums have a bit more than the first register.
    wire signed [R:0] x = whole, x0 = p0, x1 = p1, x2 = p2, x3 = p3;
    wire signed [R:0] addend0 = wide ? x <<< e : x0 <<< e0;
    wire signed [R:0] addend1 = x1 <<< e1, addend2 = x2 <<< e2, addend3 = x3 <<< e3;
    wire signed [R:0] old0 = sum0, old1 = sum1, old2 = sum2, old3 = sum3;
    wire signed [R:0] total0 = (clear ? 0 : old0) + addend0;
    wire signed [R:0] total1 = (clear ? 0 : old1) + addend1;
    wire signed [R:0] total2 = (clear ? 0 : old2) + addend2;
    wire signed [R:0] total3 = (clear ? 0 : old3) + addend3;

    function signed [R:0] kept(input signed [R:0] total, input integer bits, input saturate);
        reg signed [R:0] most;
        begin
            most = ({{R{1'b0}}, 1'b1} <<< (bits - 1)) - 1;
            if (saturate) kept = total > most ? most : total < ~most ? ~most : total;
            else kept = (total <<< (R + 1 - bits)) >>> (R + 1 - bits);
        end
    endfunction

    always @(posedge clk) begin
        exponent_a_out <= exponent_a;
        exponent_b_out <= exponent_b;
        significand_a_out <= significand_a;
        significand_b_out <= significand_b;
        if (valid) sum0 <= wide ? kept(total0, WBITS, WSATURATE) : kept(total0, NBITS, NSATURATE);
        if (valid && !wide) begin
            sum1 <= kept(total1, NBITS, NSATURATE);
            sum2 <= kept(total2, NBITS, NSATURATE);
            sum3 <= kept(total3, NBITS, NSATURATE);
        end
    end
endmodule
