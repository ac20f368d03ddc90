/* The kernel leaves argc, argv and the environment on the stack. */
  .text
  .globl _start
_start:
  ld a0, 0(sp)
  addi a1, sp, 8
  andi sp, sp, -16
  call main
