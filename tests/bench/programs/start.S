/* Hart 0, M-mode, no paging. Spec: RISC-V Privileged ISA, "Machine-Level ISA". */
  .section .text.start, "ax"
  .globl _start
_start:
  csrr t0, mhartid
1:
  bnez t0, 1b
  la sp, _stack
  la t0, trapped
  csrw mtvec, t0
  li t0, 1 << 13               /* mstatus.FS: the F and D registers may be used */
  csrs mstatus, t0
  la t0, _bss
  la t1, _bss_end
2:
  bgeu t0, t1, 3f
  sd zero, 0(t0)
  addi t0, t0, 8
  j 2b
3:
  call main
  .balign 4
trapped:
  csrr a0, mcause
  csrr a1, mepc
  call report_trap
4:
  wfi
  j 4b
