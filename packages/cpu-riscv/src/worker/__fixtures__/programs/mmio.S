# Writes 0..99 to the log and reads each back with +1 from the same place; then says done.
        li      s0, 0x10000000
        li      s1, 0x100000
        li      t0, 0
1:      sd      t0, 0(s0)
        ld      t1, 0(s0)
        addi    t0, t0, 1
        bne     t0, t1, fail
        li      t2, 100
        bne     t0, t2, 1b
        lw      t3, 16(s0)      # nothing there: access fault, see below
fail:   sw      t0, 0(s1)
2:      wfi
        j       2b
