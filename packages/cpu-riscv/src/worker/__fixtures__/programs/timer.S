# S-mode timer interrupts through stimecmp, five of them 200 us apart, each waited for in WFI. Log: time differences.
        li      t0, -1
        csrw    pmpaddr0, t0
        li      t0, 0x1f
        csrw    pmpcfg0, t0
        li      t0, 1 << 63
        csrw    menvcfg, t0
        li      t0, 7
        csrw    mcounteren, t0
        li      t0, 0x222
        csrw    mideleg, t0
        la      t0, s_start
        csrw    mepc, t0
        li      t0, 0x800
        csrs    mstatus, t0
        mret
s_start:
        la      t0, s_trap
        csrw    stvec, t0
        li      t0, 0x20
        csrw    sie, t0
        csrsi   sstatus, 2
        li      s0, 0x10000000
        li      s2, 5
1:      csrr    s3, time
        addi    t0, s3, 1000
        addi    t0, t0, 1000
        csrw    0x14d, t0
        li      s4, 0
2:      wfi
        beqz    s4, 2b
        csrr    t0, time
        sub     t0, t0, s3
        sd      t0, 0(s0)
        addi    s2, s2, -1
        bnez    s2, 1b
        li      t1, 0x100000
        sw      zero, 0(t1)
3:      wfi
        j       3b
        .align 2
s_trap: csrr    s4, scause
        li      t0, -1
        csrw    0x14d, t0
        sret
