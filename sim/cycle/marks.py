"""What a mark does to the element that it reaches; marks travel beside the operand they belong to."""

FIT = 1  # the register's width applies to the sum
SCALE = 2  # the sum of a segment is scaled and added to the running sum; the register begins anew
HAND_OVER = 4  # output stationary: the sum leaves the register; weight stationary: the running sum begins here
HAZARD = -1  # in place of a number of cycles: a register was reused before its content had left
