#!/bin/sh
# Builds the programs as a multiboot image for a 32-bit PC: build.sh TARGET. Needs a gcc for x86.
set -eu
target=$(realpath "$1")
cd "$(dirname "$0")/.."
${X86_CC:-gcc} -m32 -march=pentium4 -mfpmath=sse -O2 -g0 -std=gnu11 -ffreestanding -nostdlib -fno-builtin -fno-math-errno -fno-pic \
  -no-pie -fno-common -fno-stack-protector -fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns -ffp-contract=off -fno-tree-vectorize \
  -fcf-protection=none -static -Wall -Wno-main -Wno-parentheses -Wno-int-to-pointer-cast -Werror -DUNFUSED \
  -Wl,--build-id=none -Wl,-z,noexecstack -Wl,--no-warn-rwx-segments -Wl,-T,x86/x86.ld \
  x86/start.S x86/main.c integer.c lists.c memory.c mix.c text.c nbody.c -o "$target"
