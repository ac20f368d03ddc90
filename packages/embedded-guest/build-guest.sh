#!/bin/sh
# Builds guest/ into a flat image and writes it as src/image-data.ts. Needs gcc-riscv64-unknown-elf (Debian 12: gcc 12.2.0).
# With an argument the TypeScript file goes there instead: that is how the test compares a rebuild with what is committed.
set -eu
cd "$(dirname "$0")"
cc=${CC:-riscv64-unknown-elf-gcc}
objcopy=${OBJCOPY:-riscv64-unknown-elf-objcopy}
target=${1:-src/image-data.ts}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
flags="-march=rv64imac_zicsr_zifencei -mabi=lp64 -mcmodel=medany -mno-relax -O2 -g0 -std=gnu11 -ffreestanding -nostdlib
  -fno-pic -fno-common -fno-stack-protector -fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns
  -fno-ident -ffile-prefix-map=$PWD=. -Wall -Wextra -Wno-unused-value -Wno-main -Werror"
objects=
for source in guest/start.S guest/*.c; do
  object="$work/$(basename "$source").o"
  "$cc" $flags -c "$source" -o "$object"
  objects="$objects $object"
done
"$cc" $flags -Wl,--build-id=none -Wl,--no-warn-rwx-segments -Wl,-T,guest/guest.ld $objects -o "$work/guest.elf"
"$objcopy" -O binary "$work/guest.elf" "$work/guest.bin"
[ -z "${KEEP:-}" ] || cp "$work/guest.elf" "$work/guest.bin" "$KEEP"
{
  printf '// Built by build-guest.sh from guest/; do not edit. %s bytes.\n' "$(wc -c <"$work/guest.bin")"
  printf '// biome-ignore-all format: generated\n'
  printf 'export const imageBase64 = `\n'
  base64 -w 116 "$work/guest.bin"
  printf '`\n'
} >"$work/image.ts"
cp "$work/image.ts" "$target"
