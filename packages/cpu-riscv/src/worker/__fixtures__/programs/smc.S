# Patches an instruction on its own page and calls it, 1000 times, with other stores to the page in between.
# Log: the sum of what the calls returned.
        la      s0, patch
        la      s1, template
        la      s3, data
        li      s2, 0
        li      s4, 1000
        li      s5, 0
1:      lw      t0, 0(s1)
        slli    t1, s5, 20
        andi    t2, s5, 7
        slli    t1, t2, 20
        add     t0, t0, t1
        sw      t0, 0(s0)
        fence.i
        sd      s5, 0(s3)
        call    patch
        add     s2, s2, a0
        addi    s5, s5, 1
        bne     s5, s4, 1b
        li      t0, 0x10000000
        sd      s2, 0(t0)
        li      t1, 0x100000
        sw      zero, 0(t1)
2:      wfi
        j       2b
        .align 3
data:   .dword  0
        .option push
        .option norvc
template: li    a0, 100
patch:  li      a0, 0
        ret
        .option pop
