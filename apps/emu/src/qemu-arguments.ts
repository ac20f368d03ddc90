/**
 * QEMU spells long options with one dash (`-nographic`, `-kernel x`); option parsers want two. Single letters stay.
 * What follows `--` is left alone.
 */
export function normaliseDashes(argv: readonly string[]): string[] {
  const end = argv.indexOf('--')
  const ours = end < 0 ? argv : argv.slice(0, end)
  const rest = end < 0 ? [] : argv.slice(end)
  return [...ours.map((a) => (/^-[a-z][a-z-]+/i.test(a) && !a.startsWith('--') ? `-${a}` : a)), ...rest]
}
