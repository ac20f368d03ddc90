/** tooling/guest without a machine: the archive writer and the workload's parser. */
import { createHash } from 'node:crypto'
import { gunzipSync } from 'node:zlib'
import { describe, expect, it } from 'vitest'
import { buildInitramfs, cpioNewc } from '../tooling/guest/initramfs.ts'
import { createLinuxWorkloadMonitor, linuxWorkload } from '../tooling/guest/linux-workload.ts'
import { debianMirror } from '../tooling/private-apt.ts'

/** Reads an archive back: name, mode, rdev, data. */
function members(archive: Uint8Array) {
  const found: { name: string; mode: number; rdev: number[]; data: string }[] = []
  const ascii = (from: number, to: number) => Buffer.from(archive.subarray(from, to)).toString('latin1')
  for (let at = 0; ; ) {
    expect(ascii(at, at + 6)).toBe('070701')
    const field = (index: number) => Number.parseInt(ascii(at + 6 + 8 * index, at + 14 + 8 * index), 16)
    const [mode, size, nameSize, rdev] = [field(1), field(6), field(11), [field(9), field(10)]]
    const name = ascii(at + 110, at + 110 + nameSize - 1)
    const data = (at + 110 + nameSize + 3) & ~3
    if (name === 'TRAILER!!!') return found
    found.push({ name, mode, rdev, data: ascii(data, data + size) })
    at = (data + size + 3) & ~3
  }
}

describe('cpioNewc', () => {
  it('writes headers, padding and a trailer', () => {
    const archive = cpioNewc([
      { path: 'dev', type: 'folder' },
      { path: 'dev/console', type: 'character device', major: 5, minor: 1 },
      { path: 'odd', type: 'file', data: 'x'.repeat(5) },
      { path: 'run', type: 'file', data: '#!', executable: true },
      { path: 'link', type: 'link', target: 'odd' },
    ])
    expect(archive.length % 4).toBe(0)
    expect(members(archive)).toEqual([
      { name: 'dev', mode: 0o040755, rdev: [0, 0], data: '' },
      { name: 'dev/console', mode: 0o020600, rdev: [5, 1], data: '' },
      { name: 'odd', mode: 0o100644, rdev: [0, 0], data: 'xxxxx' },
      { name: 'run', mode: 0o100755, rdev: [0, 0], data: '#!' },
      { name: 'link', mode: 0o120777, rdev: [0, 0], data: 'odd' },
    ])
  })
})

describe('buildInitramfs', () => {
  it('holds busybox, modules in load order, a console and the script', () => {
    const busybox = new Uint8Array([1, 2, 3])
    const modules = ['b.ko', 'a.ko.xz'].map((name) => ({ name, data: new Uint8Array(1) }))
    const found = members(
      gunzipSync(buildInitramfs({ busybox, modules, initScript: 'echo hi', files: { '/etc/x/y': 'z' } })),
    )
    const byName = new Map(found.map((member) => [member.name, member]))
    expect(byName.get('workload')?.data).toBe('echo hi')
    expect(byName.get('etc/x/y')?.data).toBe('z')
    expect(byName.get('dev/console')?.rdev).toEqual([5, 1])
    expect(byName.get('init')?.data).toMatch(/insmod \/lib\/modules\/b\.ko\ninsmod \/lib\/modules\/a\.ko\.xz\n/)
    const names = found.map((member) => member.name)
    expect(names.indexOf('etc')).toBeLessThan(names.indexOf('etc/x/y'))
  })
})

describe('createLinuxWorkloadMonitor', () => {
  const rows: string[] = []
  let lcg = 1n
  let chain = '0'.repeat(16)
  for (let n = 1; n <= 4; n++) {
    for (let i = 0; i < 200; i++) lcg = (lcg * 1103515245n + 12345n) & 0x7fff_ffffn
    chain = createHash('sha256').update(`${chain} ${n} ${lcg}\n`).digest('hex').slice(0, 16)
    rows.push(`W ${n} lcg ${lcg} chain ${chain} ok\r\n`)
  }
  const start = 'workload: disk none slots 16 kib 64 memory 512 steps 200 float 26052.19\r\n'
  const problemsOf = (...texts: string[]) => {
    const monitor = createLinuxWorkloadMonitor()
    for (const text of texts) monitor.push(text)
    return monitor.problems
  }

  it('accepts rounds that follow from each other', () => {
    expect(problemsOf(start, ...rows).filter((problem) => !problem.startsWith('floating'))).toEqual([])
    expect(problemsOf(start)[0]).toMatch(/^floating point: 26052.19 instead of/)
  })
  it('names lost and repeated rounds, wrong results and kernel complaints', () => {
    expect(problemsOf(rows[0], rows[2])).toEqual(['lost: round(s) 2 to 2'])
    expect(problemsOf(rows[0], rows[0])).toEqual(['repeated: round 1 came again after 1'])
    expect(problemsOf(start, rows[0], rows[1].replace(/lcg \d/, 'lcg 1')).at(-1)).toMatch(/does not follow/)
    expect(problemsOf(rows[0].replace(' ok', ' slot 3 of round 1'))).toEqual(['round 1: slot 3 of round 1'])
    expect(problemsOf('[ 1.0] Buffer I/O error on dev vda\n')).toHaveLength(1)
    expect(problemsOf('VERDICT FAIL memory rounds=3\n')).toEqual(['VERDICT FAIL memory rounds=3'])
  })
  it('puts its parameters into the shell text', () => {
    expect(linuxWorkload({ disk: 'none', slots: 3 })).toMatch(/^disk=none slots=3 kib=64 /m)
  })
})

describe('debianMirror', () => {
  it('is what the machine’s apt uses, and not its security or third-party archives', () => {
    const targets = [
      'http://packages.example/editor/\tEditor',
      'http://mirror.example/debian-security/\tDebian-Security',
      'http://mirror.example/deb/\tDebian',
    ]
    expect(debianMirror(targets.join('\n'))).toBe('http://mirror.example/deb')
  })

  it('is found before package lists were ever fetched', () => {
    expect(debianMirror('http://mirror.example/debian-security/\t\nhttp://mirror.example/debian/\t\n')).toBe(
      'http://mirror.example/debian',
    )
    expect(debianMirror('http://mirror.example/ubuntu/\t\n')).toBeUndefined()
  })
})
