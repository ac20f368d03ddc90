/**
 * Locks on image files as stock QEMU takes them: shared locks on single bytes, of which one group says what the holder does with
 * the image and another what it suffers from others. Linux only; elsewhere, and without perl, images are not locked.
 */
import { spawn } from 'node:child_process'
import { ImageLockedError } from '../errors.ts'

/** First byte of "I do this", and of "nobody else may do this"; the numbers behind them are those of the permissions. */
const DOES = 100
const FORBIDS = 200
const READS = 0
const WRITES = 1
const RESIZES = 3
const FORBIDDEN = [WRITES, RESIZES]

/**
 * Open-file-description locks stay with the descriptor that a process has given to another: perl takes them on ours and goes.
 * Prints the byte that somebody else holds.
 */
const PERL = `
my ($fd, $take, $test) = @ARGV;
open(my $f, "+<&=", $fd) or open($f, "<&=", $fd) or exit 2;
my $lock = sub { pack("s s x![q] q q i x![q]", $_[0], 0, $_[1], 1, 0) };
for (split /,/, $take) { fcntl($f, 37, $lock->(0, $_)) or do { print $_; exit 1 } }
for (split /,/, $test) {
  my $l = $lock->(1, $_);
  fcntl($f, 36, $l) or exit 2;
  if (unpack("s", $l) != 2) { print $_; exit 1 }
}
`

let unavailable = process.platform !== 'linux'

/**
 * Lasts until the descriptor is closed.
 * @throws ImageLockedError another process has it open in a way that does not go with this
 */
export async function lockImage(path: string, fd: number, writes: boolean): Promise<void> {
  if (unavailable) return
  const does = writes ? [READS, WRITES, RESIZES] : [READS]
  const take = [...does.map((p) => DOES + p), ...FORBIDDEN.map((p) => FORBIDS + p)]
  const test = [...does.map((p) => FORBIDS + p), ...FORBIDDEN.map((p) => DOES + p)]
  const child = spawn('perl', ['-e', PERL, '3', take.join(','), test.join(',')], {
    stdio: ['ignore', 'pipe', 'ignore', fd],
  })
  let held = ''
  child.stdout!.on('data', (chunk: Buffer) => {
    held += chunk.toString()
  })
  const status = await new Promise<number | null>((resolve) => {
    child.on('error', () => resolve(null))
    child.on('close', resolve)
  })
  if (status === null) unavailable = true
  if (status !== 1) return
  const byte = Number(held)
  throw new ImageLockedError(
    path,
    byte >= FORBIDS
      ? 'another process has it open and shares it with nobody who would write to it'
      : 'another process has it open for writing',
  )
}
