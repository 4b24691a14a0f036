// Rounding by the definition of IEEE 754: magnitude * 2**UNIT to a code of sign, E exponent and T mantissa bits.
// ROUND 0: to nearest, ties to even; 1: to nearest, ties away from zero; 2: toward zero; 3: to odd. What exceeds the
// largest finite value is infinite, or with SATURATE that value.
module reference_rounding #(
    parameter W = 24, UNIT = 0, E = 8, T = 23, ROUND = 0, SATURATE = 0
) (
    input negative,
    input [W-1:0] magnitude,
    output reg [E+T:0] code
);
    // The exponent of the smallest subnormal.
    localparam LEAST = 2 - (1 << (E - 1)) - T;
    // At the unit of the smallest subnormal a shift to the left may be needed first.
    localparam UP = UNIT > LEAST ? UNIT - LEAST : 0;
    localparam DOWN = LEAST > UNIT ? LEAST - UNIT : 0;
    localparam N = W + UP;
    localparam [E-1:0] TOP = {E{1'b1}};
    integer i, shift;
    reg [N-1:0] steps, kept, rest, half;
    reg up;
    reg [31:0] field;
    always @* begin
        steps = magnitude;
        steps = steps << UP;
        // The unit in the last place: T bits follow the leading one, but none lies below the smallest subnormal.
        shift = DOWN;
        for (i = 0; i < N; i = i + 1) if (steps[i] && i - T > DOWN) shift = i - T;
        kept = steps >> shift;
        rest = steps & ~({N{1'b1}} << shift);
        half = shift > 0 ? {{(N-1){1'b0}}, 1'b1} << (shift - 1) : 0;
        case (ROUND)
            0: up = shift > 0 && (rest > half || (rest == half && kept[0]));
            1: up = shift > 0 && rest >= half;
            3: up = rest != 0 && !kept[0];
            default: up = 0;
        endcase
        kept = kept + up;
        // A carry out of the significand is a power of two of the next binade.
        field = (kept >> T) == 0 ? 0 : shift - DOWN + (kept >> T);
        if (field >= TOP) code = SATURATE ? {negative, TOP - 1'b1, {T{1'b1}}} : {negative, TOP, {T{1'b0}}};
        else code = {negative, field[E-1:0], kept[T-1:0]};
    end
endmodule

// The magnitude of a finite code, in units of the smallest subnormal, and what else the code is.
module reference_value #(
    parameter E = 8, T = 23
) (
    input [E+T:0] code,
    output negative, nan, infinite,
    output [(1 << E)+T-2:0] magnitude
);
    wire [E-1:0] field = code[E+T-1:T];
    wire [T-1:0] fraction = code[T-1:0];
    wire [(1 << E)+T-2:0] significand = {field != 0, fraction};
    assign negative = code[E+T];
    assign nan = &field && fraction != 0;
    assign infinite = &field && fraction == 0;
    assign magnitude = field == 0 ? significand : significand << (field - 1'b1);
endmodule

// The sum of two floats: exact, as an integer in units of the smallest subnormal, then rounded once. There is one NaN.
module reference_adder #(
    parameter E = 8, T = 23, ROUND = 0, SATURATE = 0
) (
    input [E+T:0] a,
    input [E+T:0] b,
    output [E+T:0] y
);
    localparam W = (1 << E) + T - 1;
    wire na, nb, nan_a, nan_b, inf_a, inf_b;
    wire [W-1:0] ma, mb;
    reference_value #(.E(E), .T(T)) value_a(.code(a), .negative(na), .nan(nan_a), .infinite(inf_a), .magnitude(ma));
    reference_value #(.E(E), .T(T)) value_b(.code(b), .negative(nb), .nan(nan_b), .infinite(inf_b), .magnitude(mb));
    wire signed [W+1:0] sa = na ? -$signed({2'b0, ma}) : {2'b0, ma};
    wire signed [W+1:0] sb = nb ? -$signed({2'b0, mb}) : {2'b0, mb};
    wire signed [W+1:0] sum = sa + sb;
    wire [W:0] magnitude = sum < 0 ? -sum : sum;
    // Zero is negative only as the sum of two negative zeros.
    wire negative = sum == 0 ? na & nb : sum < 0;
    wire [E+T:0] finite;
    reference_rounding #(.W(W + 1), .UNIT(2 - (1 << (E - 1)) - T), .E(E), .T(T), .ROUND(ROUND), .SATURATE(SATURATE))
        rounding(.negative(negative), .magnitude(magnitude), .code(finite));
    assign y = nan_a | nan_b | (inf_a & inf_b & (na ^ nb)) ? {1'b0, {(E + T){1'b1}}}
             : inf_a ? a : inf_b ? b : finite;
endmodule

// What an exact register leaves through: sum * 2**UNIT, rounded once.
module reference_rounder #(
    parameter BITS = 24, UNIT = 0, E = 8, T = 23
) (
    input signed [BITS-1:0] sum,
    output [E+T:0] y
);
    wire [BITS-1:0] magnitude = sum < 0 ? -sum : sum;
    reference_rounding #(.W(BITS), .UNIT(UNIT), .E(E), .T(T)) rounding(.negative(sum < 0), .magnitude(magnitude), .code(y));
endmodule

// The same sum as adders of floats are built (Muller et al., Handbook of Floating-Point Arithmetic, 2nd ed., 7.3): the
// smaller operand is shifted right by the difference of the exponents, with guard, round and sticky bits.
module reference_aligned_adder #(
    parameter E = 8, T = 23, ROUND = 0, SATURATE = 0
) (
    input [E+T:0] a,
    input [E+T:0] b,
    output reg [E+T:0] y
);
    localparam [E-1:0] TOP = {E{1'b1}};
    localparam W = T + 4;
    // Leading one, T bits of fraction, guard, round, sticky; with a bit above for the carry.
    reg [E+T:0] large, little;
    reg [E-1:0] field_large, field_little, exponent, distance, zeros;
    reg [W-1:0] whole, part, moved;
    reg [W:0] sum;
    reg subtract, sticky, up;
    reg [E+T:0] magnitude;
    integer i;
    always @* begin
        large = a[E+T-1:0] >= b[E+T-1:0] ? a : b;
        little = a[E+T-1:0] >= b[E+T-1:0] ? b : a;
        subtract = a[E+T] != b[E+T];
        field_large = large[E+T-1:T];
        field_little = little[E+T-1:T];
        whole = {field_large != 0, large[T-1:0], 3'b000};
        part = {field_little != 0, little[T-1:0], 3'b000};
        // Subnormals have the exponent of the smallest normal numbers.
        exponent = field_large == 0 ? 1 : field_large;
        distance = exponent - (field_little == 0 ? 1 : field_little);
        moved = part >> distance;
        sticky = (moved << distance) != part;
        if (distance >= W) sticky = part != 0;
        moved[0] = moved[0] | sticky;
        sum = subtract ? {1'b0, whole} - {1'b0, moved} : {1'b0, whole} + {1'b0, moved};
        if (sum[W]) begin
            // One place to the right; the sticky bit keeps what is lost.
            sum = {1'b0, sum[W:2], sum[1] | sum[0]};
            exponent = exponent + 1;
        end else begin
            // To the left until the leading one is in its place, but not below the smallest exponent.
            zeros = W;
            for (i = 0; i < W; i = i + 1) if (sum[i]) zeros = W - 1 - i;
            if (zeros >= exponent) zeros = exponent - 1;
            sum = sum << zeros;
            exponent = exponent - zeros;
        end
        case (ROUND)
            0: up = sum[2] && (sum[1] || sum[0] || sum[3]);
            1: up = sum[2];
            3: up = (sum[2] || sum[1] || sum[0]) && !sum[3];
            default: up = 0;
        endcase
        // The hidden bit of a normal number is one more in the exponent's field; so is a carry.
        magnitude = {1'b0, exponent - 1'b1, {T{1'b0}}} + sum[W-1:3] + up;
        if (magnitude >= {1'b0, TOP, {T{1'b0}}}) magnitude = SATURATE ? {1'b0, TOP, {T{1'b0}}} - 1'b1 : {1'b0, TOP, {T{1'b0}}};
        y = {large[E+T], magnitude[E+T-1:0]};
        if (sum == 0) y = {a[E+T] & b[E+T], {(E + T){1'b0}}};
        if (field_large == TOP) y = large[T-1:0] != 0 || (field_little == TOP && subtract) ? {1'b0, {(E + T){1'b1}}} : large;
    end
endmodule
