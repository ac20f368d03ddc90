#!/bin/sh
# Assembles the programs beside this file into ../../hart-programs.ts. Needs binutils-riscv64-unknown-elf.
set -e
cd "$(dirname "$0")"
out=../../hart-programs.ts
{
  echo "/** Guest programs for the tests, loaded at 0x80000000. Made by __fixtures__/programs/assemble.sh from the sources there. */"
  echo "export const PROGRAMS = {"
  for source in *.S; do
    name=${source%.S}
    riscv64-unknown-elf-as -march=rv64imafdc_zicsr_zifencei -o /tmp/$$.o "$source"
    riscv64-unknown-elf-ld -Ttext=0x80000000 -e 0x80000000 --no-warn-rwx-segments -o /tmp/$$.elf /tmp/$$.o 2>/dev/null ||
      riscv64-unknown-elf-ld -Ttext=0x80000000 -e 0x80000000 -o /tmp/$$.elf /tmp/$$.o
    riscv64-unknown-elf-objcopy -O binary /tmp/$$.elf /tmp/$$.bin
    echo "  $name: ["
    od -An -v -tx4 -w40 /tmp/$$.bin | sed 's/ *\([0-9a-f]\{8\}\)/ 0x\1,/g; s/^/   /'
    echo "  ],"
  done
  echo "} as const"
} > "$out"
rm -f /tmp/$$.o /tmp/$$.elf /tmp/$$.bin
