#!/bin/sh
# Builds the programs as a Linux command: build.sh TARGET. With COREMARK=DIR also CoreMark, as TARGET-coremark.
# Needs gcc-riscv64-unknown-elf.
set -eu
target=$(realpath "$1")
coremark=${COREMARK:+$(realpath "$COREMARK")}
cd "$(dirname "$0")/.."
cc=${CC:-riscv64-unknown-elf-gcc}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
flags="@flags.txt -ffunction-sections"
objects=
compile() {
  object="$work/$1.o"
  source=$2
  shift 2
  "$cc" $flags "$@" -c "$source" -o "$object"
  objects="$objects $object"
}
link() { "$cc" $flags -Wl,--build-id=none -Wl,--gc-sections -Wl,-T,linux/linux.ld $objects -o "$1"; }
for name in integer lists memory mix text; do compile $name $name.c; done
compile nbody nbody.c -ffp-contract=fast
compile nbody-unfused nbody.c -ffp-contract=off -DUNFUSED
compile system linux/system.c
compile main linux/main.c
compile runtime linux/runtime.c
compile start linux/start.S
link "$target"
[ -z "$coremark" ] || {
  objects="$work/memory.o $work/runtime.o $work/start.o"
  for name in core_list_join core_main core_matrix core_state core_util; do
    compile $name "$coremark/$name.c" -Ilinux/coremark -I"$coremark" -include linux/coremark/core_portme.h -w
  done
  compile core_portme linux/coremark/core_portme.c -Ilinux/coremark -I"$coremark"
  link "$target-coremark"
}
