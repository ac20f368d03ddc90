/**
 * A workload for Linux guests that checks itself while the machine is moved about, and the host's side of the check.
 *
 * Each round writes a slot of the raw disk (contents made from the round's number), reads back an older slot past the page
 * cache and compares it, sums up a file in memory, computes with integers and floating point against the first round's
 * results, and prints
 *
 *     W <round> lcg <x> chain <16 hex> ok
 *
 * A round that finds damage says what instead of `ok`. `q` and Enter on the console end it: every slot is read back once
 * more, and `VERDICT ok rounds=..` or `VERDICT FAIL <what> rounds=..` is the last line.
 */
import { createHash } from 'node:crypto'

export interface LinuxWorkloadOptions {
  /** The disk, used raw from its start. `/dev/vda` when there is one; 'none' for a guest without a disk. */
  disk?: string
  /** Slots on the disk. [16] */
  slots?: number
  /** Size of a slot in KiB. [64] */
  slotKib?: number
  /** Size of the file in memory in KiB, summed up each round and partly rewritten. [512] */
  memoryKib?: number
  /** Steps of the integer and floating-point loops per round. [200] */
  steps?: number
}

/** The shell text; runs under busybox as {@link InitramfsOptions.initScript}. */
export function linuxWorkload(options: LinuxWorkloadOptions = {}): string {
  const { disk = '/dev/vda', slots = 16, slotKib = 64, memoryKib = 512, steps = 200 } = options
  return `
disk=${disk} slots=${slots} kib=${slotKib} memory=${memoryKib} steps=${steps}
[ -b $disk ] || disk=none
stty -echo 2>/dev/null
( read command </dev/console; echo "$command" >/tmp/command ) &

fill() { yes "slot $1 round $2 of the workload" | head -c $((kib * 1024)); }
write_slot() {
  [ $disk = none ] && return
  fill $1 $2 | dd of=$disk bs=\${kib}k seek=$1 count=1 iflag=fullblock oflag=direct status=none || fail "write $1"
  eval round_$1=$2
}
check_slot() {
  [ $disk = none ] && return
  eval expected=\\$round_$1
  dd if=$disk bs=\${kib}k skip=$1 count=1 iflag=direct status=none >/tmp/slot || fail "read $1"
  fill $1 $expected | cmp -s - /tmp/slot || fail "slot $1 of round $expected"
}
fail() { bad="$*"; verdict="\${verdict:-$*}"; echo "E $n $*"; }
floats() { awk "BEGIN { x = 0.3; for (i = 1; i <= $steps; i++) { x = 3.99 * x * (1 - x); s += i / (x + 1) } printf \\"%.17g\\", s }"; }
sum_of() { sha256sum "$1" | cut -c1-16; }

n=0 lcg=1 chain=0000000000000000 verdict= slot=0
while [ $slot -lt $slots ]; do write_slot $slot 0; slot=$((slot + 1)); done
head -c $((memory * 1024)) /dev/urandom >/tmp/memory
memory_sum=$(sum_of /tmp/memory)
float=$(floats)
[ -n "$float" ] || fail awk
numbers=$(seq 1 2000 | sha256sum)
echo "workload: disk $disk slots $slots kib $kib memory $memory steps $steps float $float"
while [ ! -s /tmp/command ]; do
  n=$((n + 1)) bad=ok
  write_slot $((n % slots)) $n
  check_slot $((n * 7 % slots))
  [ "$(sum_of /tmp/memory)" = "$memory_sum" ] || fail memory
  if [ $((n % 4)) = 0 ]; then
    dd if=/dev/urandom of=/tmp/memory bs=4k count=16 seek=$((n * 5 % (memory / 4 - 16))) conv=notrunc status=none
    memory_sum=$(sum_of /tmp/memory)
  fi
  [ "$(floats)" = "$float" ] || fail floating point
  [ "$(seq 1 2000 | sha256sum)" = "$numbers" ] || fail checksum
  i=0
  while [ $i -lt $steps ]; do lcg=$(((lcg * 1103515245 + 12345) & 0x7fffffff)) i=$((i + 1)); done
  chain=$(echo "$chain $n $lcg" | sha256sum | cut -c1-16)
  echo "W $n lcg $lcg chain $chain $bad"
done
slot=0
while [ $slot -lt $slots ]; do check_slot $slot; slot=$((slot + 1)); done
[ "$(sum_of /tmp/memory)" = "$memory_sum" ] || fail memory
if [ -z "$verdict" ]; then echo "VERDICT ok rounds=$n"; else echo "VERDICT FAIL $verdict rounds=$n"; fi
`
}

export interface LinuxWorkloadMonitor {
  /** Takes console output, cut anywhere, from the machines in the order in which they ran. */
  push(chunk: string | Uint8Array): void
  /** Rounds seen. */
  readonly rounds: number
  /** Number of the last round. */
  readonly last: number
  /** Lost or repeated rounds, wrong results, kernel complaints, what the guest found; empty when all is well. */
  readonly problems: readonly string[]
  readonly verdict: { ok: boolean; rounds: number; why: string } | undefined
  readonly text: string
  /** Resolves as soon as `condition` holds. @throws Error after `timeoutMs`, with the last output */
  until(condition: (monitor: LinuxWorkloadMonitor) => boolean, timeoutMs: number): Promise<void>
}

const roundPattern = /^W (\d+) lcg (\d+) chain ([0-9a-f]{16}) (.+)$/
const verdictPattern = /^VERDICT (ok|FAIL (.+)) rounds=(\d+)$/
/** What the kernel says when something is lost or stuck. */
const complaints =
  /\b(BUG:|Oops|Kernel panic|I\/O error|rcu_\w+ (?:self-)?detected stall|soft lockup|blocked for more than|WARNING:)/

/** What the guest's `floats` must print: IEEE double arithmetic is the same here and there. */
function floatSum(steps: number): number {
  let x = 0.3
  let sum = 0
  for (let i = 1; i <= steps; i++) {
    x = 3.99 * x * (1 - x)
    sum += i / (x + 1)
  }
  return sum
}

/** Listens to {@link linuxWorkload}, and computes its chain again. */
export function createLinuxWorkloadMonitor(): LinuxWorkloadMonitor {
  const problems: string[] = []
  const waiting = new Set<() => void>()
  const decoder = new TextDecoder('latin1')
  let text = ''
  let parsed = 0
  let rounds = 0
  let last = 0
  let steps = 0
  let lcg = 1n
  let chain = '0000000000000000'
  let verdict: LinuxWorkloadMonitor['verdict']

  function takeStart(row: string) {
    steps = Number(/ steps (\d+)/.exec(row)?.[1] ?? 0)
    const float = Number(/ float (\S+)/.exec(row)?.[1])
    if (float !== floatSum(steps)) problems.push(`floating point: ${float} instead of ${floatSum(steps)}`)
  }

  function takeRound(n: number, itsLcg: bigint, itsChain: string, result: string) {
    if (n > last + 1) problems.push(`lost: round(s) ${last + 1} to ${n - 1}`)
    else if (n <= last) problems.push(`repeated: round ${n} came again after ${last}`)
    else {
      for (let i = 0; i < steps; i++) lcg = (lcg * 1103515245n + 12345n) & 0x7fff_ffffn
      chain = createHash('sha256').update(`${chain} ${n} ${lcg}\n`).digest('hex').slice(0, 16)
      if (steps && (lcg !== itsLcg || chain !== itsChain))
        problems.push(`round ${n}: does not follow from round ${last}`)
    }
    if (result !== 'ok') problems.push(`round ${n}: ${result}`)
    lcg = itsLcg
    chain = itsChain
    last = n
    rounds++
  }

  function take(row: string) {
    const round = roundPattern.exec(row)
    const end = verdictPattern.exec(row)
    if (round) takeRound(Number(round[1]), BigInt(round[2]), round[3], round[4])
    else if (end) {
      verdict = { ok: end[1] === 'ok', rounds: Number(end[3]), why: end[2] ?? '' }
      if (!verdict.ok) problems.push(row)
    } else if (row.startsWith('workload: ')) takeStart(row)
    else if (complaints.test(row)) problems.push(row)
    else if (/^(W|E) \d/.test(row)) problems.push(`garbled: ${row}`)
  }

  const monitor: LinuxWorkloadMonitor = {
    push(chunk) {
      text += typeof chunk === 'string' ? chunk : decoder.decode(chunk)
      for (let end = text.indexOf('\n', parsed); end >= 0; end = text.indexOf('\n', parsed)) {
        take(text.slice(parsed, end).replace(/\r+$/, ''))
        parsed = end + 1
      }
      for (const wake of [...waiting]) wake()
    },
    get rounds() {
      return rounds
    },
    get last() {
      return last
    },
    problems,
    get verdict() {
      return verdict
    },
    get text() {
      return text
    },
    until(condition, timeoutMs) {
      return new Promise((resolve, reject) => {
        const stop = () => {
          clearTimeout(timer)
          waiting.delete(wake)
        }
        const wake = () => {
          if (!condition(monitor)) return
          stop()
          resolve()
        }
        const timer = setTimeout(() => {
          stop()
          reject(new Error(`Linux guest: nothing after ${timeoutMs} ms; last output:\n${text.slice(-600)}`))
        }, timeoutMs)
        waiting.add(wake)
        wake()
      })
    },
  }
  return monitor
}
