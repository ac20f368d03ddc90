# Two harts: each adds 20000 by amoadd and 20000 by lr/sc; then hart 0 writes code that hart 1 runs after fence.i.
# Log by hart 1: the sum, then what the new code returned, ten times.
        csrr    a0, mhartid
        li      s0, 0x80002000
        li      s1, 20000
1:      li      t0, 1
        amoadd.d x0, t0, (s0)
2:      lr.d    t0, (s0)
        addi    t0, t0, 1
        sc.d    t1, t0, (s0)
        bnez    t1, 2b
        addi    s1, s1, -1
        bnez    s1, 1b
        li      s2, 0x80002008
        li      t0, 1
        amoadd.w x0, t0, (s2)
3:      lw      t0, 0(s2)
        li      t1, 2
        bne     t0, t1, 3b
        li      s3, 0x80002010
        li      s4, 0x80003000
        la      s5, template
        li      s6, 0
        bnez    a0, hart1
hart0:  lw      t0, 0(s5)               # write `li a0, s6` into code, then give hart 1 its turn
        slli    t1, s6, 20
        add     t0, t0, t1
        sw      t0, 0(s4)
        lw      t0, 4(s5)
        sw      t0, 4(s4)
        fence   rw, rw
        addi    t2, s6, 1
        sw      t2, 0(s3)
4:      lw      t0, 0(s3)
        bnez    t0, 4b
        addi    s6, s6, 1
        li      t0, 10
        bne     s6, t0, hart0
5:      wfi
        j       5b
hart1:  li      s7, 0x10000000
        ld      t0, 0(s0)
        sd      t0, 0(s7)
6:      lw      t0, 0(s3)
        beqz    t0, 6b
        fence   rw, rw
        fence.i
        jalr    s4
        sd      a0, 0(s7)
        fence   rw, rw
        sw      zero, 0(s3)
        addi    s6, s6, 1
        li      t0, 10
        bne     s6, t0, 6b
        li      t1, 0x100000
        sw      zero, 0(t1)
7:      wfi
        j       7b
        .option norvc
template: li    a0, 0
after:  ret
