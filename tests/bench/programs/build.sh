#!/bin/sh
# Builds the benchmark guest and writes it as image-data.ts. Needs gcc-riscv64-unknown-elf (Debian 12: gcc 12.2.0).
set -eu
cd "$(dirname "$0")"
cc=${CC:-riscv64-unknown-elf-gcc}
objcopy=${OBJCOPY:-riscv64-unknown-elf-objcopy}
target=${1:-image-data.ts}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
flags="@flags.txt -ffile-prefix-map=$PWD=."
objects=
compile() {
  object="$work/$1.o"
  source=$2
  shift 2
  "$cc" $flags "$@" -c "$source" -o "$object"
  objects="$objects $object"
}
for name in integer lists main memory mix mmio moving text; do compile $name $name.c; done
compile nbody nbody.c -ffp-contract=fast
compile nbody-unfused nbody.c -ffp-contract=off -DUNFUSED
compile start start.S
"$cc" $flags -Wl,--build-id=none -Wl,--no-warn-rwx-segments -Wl,-T,bench.ld $objects -o "$work/bench.elf"
"$objcopy" -O binary "$work/bench.elf" "$work/bench.bin"
[ -z "${KEEP:-}" ] || cp "$work/bench.elf" "$work/bench.bin" "$KEEP"
{
  printf '// Built by build.sh; do not edit. %s bytes.\n' "$(wc -c <"$work/bench.bin")"
  printf '// biome-ignore-all format: generated\n'
  printf 'export const imageBase64 = `\n'
  base64 -w 116 "$work/bench.bin"
  printf '`\n'
} >"$work/image.ts"
cp "$work/image.ts" "$target"
