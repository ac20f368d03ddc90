# Counts in memory for ever: one counter per page, 64 pages in turn.
        li      s0, 0x80010000
        li      s1, 0
1:      li      s2, 64
        mv      s3, s0
2:      ld      t0, 0(s3)
        addi    t0, t0, 1
        sd      t0, 0(s3)
        li      t1, 4096
        add     s3, s3, t1
        addi    s2, s2, -1
        bnez    s2, 2b
        j       1b
