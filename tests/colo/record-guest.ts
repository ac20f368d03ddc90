/**
 * Linux under load, which writes numbered records with fsync and prints each number when the write is over, and the host's
 * side of the check: whatever was printed is on the disk; nothing was printed twice.
 *
 * Record n is sector n of the disk, and one more of a file in memory; both say `record <n> <lcg>`, where each lcg follows from
 * the one before. The guest compares memory with the disk every 20 records, and all of it on `q`.
 */
import { closeSync, openSync, readFileSync, readSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { buildLinuxInitramfs, type LinuxGuest } from '../../tooling/guest/linux-guest.ts'
import { createDisk } from '../harness/vm.ts'

const MiB = 2 ** 20
const DISK_BYTES = 64 * MiB
/** Where the load writes; records end before it. */
const LOAD_AT_MIB = 56
const MAX_RECORD = (LOAD_AT_MIB * MiB) / 512 - 1

const script = `
stty -echo 2>/dev/null
( read command </dev/console; echo "$command" >/tmp/command ) &
head -c 262144 /dev/urandom >/tmp/load
( while :; do
    sha256sum /tmp/load >/dev/null
    dd if=/dev/urandom of=/tmp/load bs=4k count=16 conv=notrunc status=none
    dd if=/tmp/load of=/dev/vda bs=64k seek=${LOAD_AT_MIB * 16} count=1 oflag=direct status=none || echo "E $n load"
    usleep 10000
  done ) &

fail() { verdict="\${verdict:-$*}"; echo "E $n $*"; }
n=0 lcg=1 verdict=
echo "records: begin"
while [ ! -s /tmp/command ]; do
  n=$((n + 1)) lcg=$(((lcg * 1103515245 + 12345 + n) & 0x7fffffff))
  printf '%-511s\\n' "record $n $lcg" >/tmp/record
  dd if=/tmp/record of=/dev/vda bs=512 seek=$n conv=fsync,notrunc status=none || fail "write"
  cat /tmp/record >>/tmp/records
  if [ $((n % 20)) = 0 ]; then
    tail -c 10240 /tmp/records >/tmp/recent
    dd if=/dev/vda bs=512 skip=$((n - 19)) count=20 iflag=direct status=none | cmp -s - /tmp/recent || fail "the disk differs from memory"
  fi
  echo "R $n $lcg"
done
echo 3 >/proc/sys/vm/drop_caches
dd if=/dev/vda bs=512 skip=1 count=$n status=none | cmp -s - /tmp/records || fail "at the end the disk differs from memory"
if [ -z "$verdict" ]; then echo "VERDICT ok records=$n"; else echo "VERDICT FAIL $verdict records=$n"; fi
`

/** What the kernel says when something is lost or stuck. */
const complaints = /\b(BUG:|Oops|Kernel panic|I\/O error|detected stall|soft lockup|blocked for more than|WARNING:)/

/** A guest that strikes are made at: prints numbers, and knows what has to be on its disk by then. */
export interface StruckGuest {
  /** Of `emu run`. */
  readonly args: readonly string[]
  /** Of the last line that was printed. */
  readonly last: number
  readonly printed: number
  /** Numbers that were never let out: held by a machine when it died. */
  readonly unseen: number
  readonly text: string
  /** What it said when it was told to end. */
  readonly verdict: { readonly ok: boolean; readonly text: string; readonly records: number } | undefined
  /** To be typed to make it end. */
  readonly quit: string
  /** Takes what a machine printed, cut anywhere; machines come in the order in which they ran. */
  push(text: string): void
  /** One more row may be torn. */
  machineDied(): void
  /** @throws whatever is wrong by now */
  check(): void
  /** After the verdict. @throws */
  checkAll(): void
  /** Resolves as soon as `condition` holds, looked at after each piece of output. @throws after `timeoutMs` */
  until(condition: () => boolean, timeoutMs: number): Promise<void>
}

export class RecordGuest implements StruckGuest {
  readonly quit = 'q\n'
  readonly args: readonly string[]
  readonly #disk: string
  /** By number: its lcg. */
  readonly #expected: number[] = [1]
  readonly #printed = new Set<number>()
  readonly #unchecked: number[] = []
  readonly #problems: string[] = []
  readonly #wakers = new Set<() => void>()
  #last = 0
  #text = ''
  #parsed = 0
  /** Rows that a kill cut: one per machine that died while it printed. */
  #torn = 0
  verdict: StruckGuest['verdict']

  constructor(guest: LinuxGuest, folder: string) {
    this.#disk = createDisk(join(folder, 'disk.img'), DISK_BYTES)
    const initrd = join(folder, 'initramfs.gz')
    writeFileSync(initrd, buildLinuxInitramfs(guest, { initScript: script }))
    this.args = [
      ...['-m', '128M', '-bios', guest.opensbi!, '-kernel', guest.kernel, '-initrd', initrd],
      ...['-append', 'console=ttyS0 quiet'],
      ...['-drive', `file=${this.#disk},format=raw,if=none,id=hd`, '-device', 'virtio-blk-pci,drive=hd'],
    ]
  }

  get last(): number {
    return this.#last
  }

  get printed(): number {
    return this.#printed.size
  }

  get unseen(): number {
    return this.#last - this.#printed.size
  }

  get text(): string {
    return this.#text
  }

  push(text: string): void {
    this.#text += text
    for (let end = this.#text.indexOf('\n', this.#parsed); end >= 0; end = this.#text.indexOf('\n', this.#parsed)) {
      this.#take(this.#text.slice(this.#parsed, end).replace(/\r+$/, ''))
      this.#parsed = end + 1
    }
    for (const wake of this.#wakers) wake()
  }

  machineDied(): void {
    this.#torn++
  }

  /** @throws whatever is wrong by now: a record printed and not on the disk, printed twice, the guest's own complaints */
  check(): void {
    const file = openSync(this.#disk, 'r')
    try {
      const sector = Buffer.alloc(512)
      for (const n of this.#unchecked.splice(0)) {
        readSync(file, sector, 0, 512, n * 512)
        const wanted = `record ${n} ${this.#lcg(n)}`.padEnd(511)
        if (sector.toString('latin1') !== `${wanted}\n`) {
          this.#problems.push(
            `record ${n} was printed and is not on the disk: ${JSON.stringify(sector.toString('latin1', 0, 40))}`,
          )
        }
      }
    } finally {
      closeSync(file)
    }
    if (this.#problems.length > 0) throw new Error(this.#problems.join(' | '))
  }

  /** Every record there ever was, printed or not, as the guest left them. */
  checkAll(): void {
    const disk = readFileSync(this.#disk)
    for (let n = 1; n <= this.#last; n++) {
      const found = disk.toString('latin1', n * 512, n * 512 + 511).trimEnd()
      if (found !== `record ${n} ${this.#lcg(n)}`)
        this.#problems.push(`record ${n} on the disk: ${JSON.stringify(found.slice(0, 40))}`)
    }
    this.check()
  }

  until(condition: () => boolean, timeoutMs: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const wake = () => {
        if (!condition()) return
        clearTimeout(timer)
        this.#wakers.delete(wake)
        resolve()
      }
      const timer = setTimeout(() => {
        this.#wakers.delete(wake)
        reject(new Error(`the guest is silent for ${timeoutMs} ms; last output:\n${this.#text.slice(-600)}`))
      }, timeoutMs)
      this.#wakers.add(wake)
      wake()
    })
  }

  #take(row: string): void {
    const record = /^R (\d+) (\d+)$/.exec(row)
    const end = /^VERDICT (ok|FAIL .+) records=(\d+)$/.exec(row)
    if (record) this.#takeRecord(Number(record[1]), Number(record[2]))
    else if (end) this.verdict = { ok: end[1] === 'ok', text: row, records: Number(end[2]) }
    else if (complaints.test(row) || /^E \d/.test(row)) this.#problems.push(row)
    else if (this.#last > 0 && row !== '' && --this.#torn < 0)
      this.#problems.push(`garbled: ${JSON.stringify(row.slice(0, 80))}`)
  }

  #takeRecord(n: number, lcg: number): void {
    if (this.#printed.has(n)) this.#problems.push(`record ${n} was printed twice`)
    if (n < this.#last) this.#problems.push(`record ${n} came after ${this.#last}`)
    if (n > MAX_RECORD) this.#problems.push(`record ${n}: the disk is full`)
    else if (lcg !== this.#lcg(n)) this.#problems.push(`record ${n}: ${lcg} does not follow from the one before`)
    this.#printed.add(n)
    this.#unchecked.push(n)
    this.#last = Math.max(this.#last, n)
  }

  #lcg(n: number): number {
    const known = this.#expected
    for (let i = known.length; i <= n; i++) {
      known[i] = Number((BigInt(known[i - 1]!) * 1103515245n + 12345n + BigInt(i)) & 0x7fff_ffffn)
    }
    return known[n]!
  }
}
