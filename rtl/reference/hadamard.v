// Sylvester's Hadamard matrix times a vector, row by row: y[i] = sum over j of (-1)**(number of ones of i & j) x[j].
module reference_hadamard #(
    parameter LOG = 2, WIDTH = 8
) (
    input [(WIDTH << LOG)-1:0] x,
    output reg [((WIDTH + LOG) << LOG)-1:0] y
);
    integer i, j;
    reg signed [WIDTH-1:0] value;
    reg signed [WIDTH+LOG-1:0] sum;
    always @* begin
        y = 0;
        for (i = 0; i < (1 << LOG); i = i + 1) begin
            sum = 0;
            for (j = 0; j < (1 << LOG); j = j + 1) begin
                value = x[j*WIDTH +: WIDTH];
                sum = ^(i & j) ? sum - value : sum + value;
            end
            y[i*(WIDTH+LOG) +: WIDTH+LOG] = sum;
        end
    end
endmodule
