/**
 * Builds an initramfs: a cpio archive in "newc" form with busybox, kernel modules and an /init script, compressed with gzip.
 * Spec: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
 */
import { gzipSync } from 'node:zlib'

/** One archive member. Paths are relative, parents first. */
export type CpioEntry =
  | { path: string; type: 'folder' }
  | { path: string; type: 'file'; data: Uint8Array | string; executable?: boolean }
  | { path: string; type: 'link'; target: string }
  | { path: string; type: 'character device'; major: number; minor: number }

const modes = { folder: 0o040755, file: 0o100644, link: 0o120777, 'character device': 0o020600 }

/**
 * A cpio archive in newc form: per member a header of 110 ASCII bytes, the name and the data, each padded to 4 bytes. Owner
 * is root, times are 0, so equal members give equal bytes.
 */
export function cpioNewc(entries: readonly CpioEntry[]): Uint8Array {
  const encoder = new TextEncoder()
  const parts: Uint8Array[] = []
  let at = 0
  const append = (bytes: Uint8Array) => {
    const padding = new Uint8Array(-bytes.length & 3)
    parts.push(bytes, padding)
    at += bytes.length + padding.length
  }
  const member = (
    inode: number,
    mode: number,
    path: string,
    data: Uint8Array,
    links: number,
    rdev: [number, number],
  ) => {
    const name = encoder.encode(`${path}\0`)
    const fields = [inode, mode, 0, 0, links, 0, data.length, 0, 0, ...rdev, name.length, 0]
    const header = encoder.encode(`070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`)
    const whole = new Uint8Array(header.length + name.length)
    whole.set(header)
    whole.set(name, header.length)
    append(whole)
    append(data)
  }
  for (const [index, entry] of entries.entries()) {
    const mode = entry.type === 'file' && entry.executable ? 0o100755 : modes[entry.type]
    const content = entry.type === 'file' ? entry.data : entry.type === 'link' ? entry.target : ''
    const data = typeof content === 'string' ? encoder.encode(content) : content
    const rdev: [number, number] = entry.type === 'character device' ? [entry.major, entry.minor] : [0, 0]
    member(index + 1, mode, entry.path, data, entry.type === 'folder' ? 2 : 1, rdev)
  }
  member(0, 0, 'TRAILER!!!', new Uint8Array(0), 1, [0, 0])
  const archive = new Uint8Array(at)
  let to = 0
  for (const part of parts) {
    archive.set(part, to)
    to += part.length
  }
  return archive
}

export interface KernelModule {
  /** File name, `virtio_blk.ko` or `virtio_blk.ko.xz`; busybox and the kernel load both. */
  name: string
  data: Uint8Array
}

export interface InitramfsOptions {
  /** A static busybox for the guest's architecture. */
  busybox: Uint8Array
  /** Loaded in this order. */
  modules?: readonly KernelModule[]
  /**
   * Shell text that runs on the console when the system is up; the machine is powered off after it. Without it there is an
   * interactive shell, and `exit` powers off.
   */
  initScript?: string
  /** More files, by absolute path. Their folders are made. */
  files?: Readonly<Record<string, string | Uint8Array>>
}

const prologue = `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/ TERM=\${TERM:-vt100}
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev || mdev -s
mkdir -p /dev/pts /tmp
mount -t tmpfs tmpfs /tmp
`

/** The archive for the kernel's `-initrd`. */
export function buildInitramfs(options: InitramfsOptions): Uint8Array {
  const modules = options.modules ?? []
  const load = modules.map(({ name }) => `insmod /lib/modules/${name}\n`).join('')
  const run =
    options.initScript === undefined
      ? 'echo "ferryvm: shell ready"\nsetsid cttyhack sh\n'
      : 'sh /workload </dev/console >/dev/console 2>&1\n'
  const folders = new Set(['bin', 'dev', 'lib', 'lib/modules', 'proc', 'sys', 'tmp'])
  const files: CpioEntry[] = []
  for (const [path, data] of Object.entries(options.files ?? {})) {
    const relative = path.replace(/^\/+/, '')
    const steps = relative.split('/').slice(0, -1)
    for (let depth = 1; depth <= steps.length; depth++) folders.add(steps.slice(0, depth).join('/'))
    files.push({ path: relative, type: 'file', data, executable: true })
  }
  if (options.initScript !== undefined) files.push({ path: 'workload', type: 'file', data: options.initScript })
  return gzipSync(
    cpioNewc([
      ...Array.from(folders, (path): CpioEntry => ({ path, type: 'folder' })),
      { path: 'dev/console', type: 'character device', major: 5, minor: 1 },
      { path: 'bin/busybox', type: 'file', data: options.busybox, executable: true },
      ...modules.map(({ name, data }): CpioEntry => ({ path: `lib/modules/${name}`, type: 'file', data })),
      ...files,
      { path: 'init', type: 'file', data: `${prologue}${load}${run}poweroff -f\n`, executable: true },
    ]),
    { level: 6 },
  )
}
