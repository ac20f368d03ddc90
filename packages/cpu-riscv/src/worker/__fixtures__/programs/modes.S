# M sets up PMP, delegation and Sv39; S takes an ecall and a page fault from U; S then asks M for a breakpoint.
# Log: cause, tval pairs as S sees them; then M's.
        .equ    LOG, 0x10000000
        la      t0, m_trap
        csrw    mtvec, t0
        li      t0, -1
        csrw    pmpaddr0, t0
        li      t0, 0x1f
        csrw    pmpcfg0, t0
        li      t0, 0xb100
        csrw    medeleg, t0
        # root table: VA 0..1G and 2G..3G map to themselves for S; 1G..2G maps to 2G for U
        li      t1, 0x80002000
        li      t0, 0xcf
        sd      t0, 0(t1)
        li      t0, (0x80000000 >> 2) | 0xcf
        sd      t0, 16(t1)
        li      t0, (0x80000000 >> 2) | 0xdf
        sd      t0, 8(t1)
        srli    t1, t1, 12
        li      t0, 8 << 60
        or      t1, t1, t0
        csrw    satp, t1
        sfence.vma
        la      t0, s_start
        csrw    mepc, t0
        li      t0, 0x800
        csrs    mstatus, t0
        mret
s_start:
        la      t0, s_trap
        csrw    stvec, t0
        la      t0, u_start
        li      t1, 0x40000000
        sub     t0, t0, t1
        csrw    sepc, t0
        sret
u_start:
        li      a0, 42
        ecall
        li      t0, 0xc0000010
        ld      a1, 0(t0)
        sd      a1, 0(t0)
        csrr    a1, sstatus             # illegal in U: not delegated, M gets it
        ecall
        j       .
        .align 2
s_trap:
        li      t5, LOG
        csrr    t6, scause
        sd      t6, 0(t5)
        csrr    t6, stval
        sd      t6, 0(t5)
        csrr    t6, sepc
        addi    t6, t6, 4
        csrw    sepc, t6
        li      t6, 8
        csrr    t5, scause
        bne     t5, t6, 1f
        addi    s2, s2, 1
        li      t6, 2
        bne     s2, t6, 1f
        ebreak                          # from S: M gets it, and ends the test
1:      sret
        .align 2
m_trap:
        li      t5, LOG
        csrr    t6, mcause
        sd      t6, 0(t5)
        csrr    t6, mtval
        sd      t6, 0(t5)
        csrr    t6, mcause
        li      t5, 2
        bne     t6, t5, 2f
        csrr    t6, mepc
        addi    t6, t6, 4
        csrw    mepc, t6
        mret
2:      li      t5, 0x100000
        sw      t6, 0(t5)
3:      wfi
        j       3b
