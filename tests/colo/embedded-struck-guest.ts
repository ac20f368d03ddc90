import { join } from 'node:path'
import { createGuestMonitor } from '@ferryvm/embedded-guest'
import { createDisk } from '../harness/vm.ts'
import type { StruckGuest } from './record-guest.ts'

/**
 * The embedded guest: its sectors say at which line they were written, its memory knows the latest of each, and at the end it
 * compares all of them. Small and quick to move; the disk is behind the IOMMU.
 */
export function embeddedStruckGuest(folder: string): StruckGuest {
  const disk = createDisk(join(folder, 'disk.img'), 8 * 2 ** 20)
  let first = 0
  const guest = createGuestMonitor({ onLine: ({ n }) => void (first ||= n) })
  const numberOf = () => guest.last?.n ?? 0
  return {
    args: [
      ...['-m', '32M', '-guest', 'dirtyBytes=4M,dirtyBytesPerSecond=4M,linesPerSecond=50'],
      ...['-device', 'intel-iommu', '-drive', `file=${disk},if=none,id=hd`],
      ...['-device', 'virtio-blk-pci,drive=hd,disable-legacy=on,iommu_platform=on'],
    ],
    quit: 'q',
    get last() {
      return numberOf()
    },
    get printed() {
      return guest.lines
    },
    get unseen() {
      return numberOf() - (first - 1) - guest.lines
    },
    get text() {
      return guest.text
    },
    get verdict() {
      const [verdict] = guest.verdicts
      return verdict && { ok: verdict.ok, text: verdict.text, records: verdict.lines }
    },
    push: (text) => guest.push(text),
    machineDied() {},
    check() {
      // What a machine held when it died was seen by nobody, and the row that it died in is torn.
      const bad = guest.problems.filter((problem) => !/^(lost: |garbled)/.test(problem))
      if (bad.length > 0) throw new Error(bad.join(' | '))
    },
    checkAll() {
      this.check()
    },
    until: (condition, timeoutMs) => guest.until(() => condition(), timeoutMs),
  }
}
