/* A multiboot header, and the SSE unit for doubles: CR0.EM off, MP on; CR4.OSFXSR and OSXMMEXCPT on. */
  .section .text.start, "ax"
  .balign 4
  .long 0x1badb002, 0, -0x1badb002
  .globl _start
_start:
  cli
  mov $_stack, %esp
  mov %cr0, %eax
  and $~4, %eax
  or $2, %eax
  mov %eax, %cr0
  mov %cr4, %eax
  or $0x600, %eax
  mov %eax, %cr4
  call main
