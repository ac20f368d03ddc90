/**
 * Runs stock QEMU (the real one) as a peer for tests: console on stdio, QMP and a GDB stub on unix sockets.
 *
 * Tests that need it say so with {@link stockQemuMissing}: where CI or FERRY_REQUIRE_QEMU is set it must be there, elsewhere
 * the test is skipped with the reason.
 */
import { type ChildProcess, type ChildProcessWithoutNullStreams, execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

import type { StockQemuBinary } from './stock-10.ts'

export const stockQemuCommand = 'qemu-system-riscv64'

/** Why stock QEMU cannot be used here, or undefined when it can (or must). */
export function stockQemuMissing(): string | undefined {
  try {
    execFileSync(stockQemuCommand, ['--version'], { stdio: 'ignore' })
    return undefined
  } catch {
    const required = process.env.CI || process.env.FERRY_REQUIRE_QEMU
    return required ? undefined : `${stockQemuCommand} is not installed`
  }
}

/** A folder for one test's images and sockets; `remove` deletes it. */
export function scratchFolder(): { path: string; remove: () => void } {
  const path = mkdtempSync(join(tmpdir(), 'ferry-qemu-'))
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) }
}

export interface StockQemu {
  /** Sends to the guest's console. */
  type(text: string): void
  /** One QMP command; its `return`. @throws Error with the `desc` of the error reply */
  qmp(execute: string, parameters?: Record<string, unknown>): Promise<any>
  /** `migrate` to an address, said to `monitor`, and wait until it is completed. @throws Error when it ends in another way */
  migrate(uri: string, options?: { timeoutMs?: number; monitor?: StockQemu['qmp'] }): Promise<void>
  /** The path of a second QMP monitor, for a client of another kind. */
  readonly qmpPath: string
  /** Writes guest-physical memory behind the guest's back, through the GDB stub; the machine runs on after it. */
  poke(address: number, bytes: Uint8Array): Promise<void>
  /** Exit status, or the name of the signal that ended it. */
  readonly exited: Promise<number | string>
  /** What it wrote to stderr so far. */
  readonly stderr: string
  kill(): Promise<void>
}

let started = 0

/** A QMP event: its name, and when it happened, ms since 1970 with fractions. */
export interface QmpEvent {
  readonly name: string
  readonly atMs: number
}

export interface StockQemuOptions {
  /** Descriptors of this process; it gets them as 3, 4 and so on. */
  readonly inherit?: readonly number[]
  onEvent?(event: QmpEvent): void
}

/** Starts it and waits for QMP. @param onConsole gets what the guest writes to its console */
export async function startStockQemu(
  folder: string,
  args: string[],
  onConsole: (chunk: Buffer) => void,
  binary: StockQemuBinary = { command: stockQemuCommand, args: [], env: {} },
  { inherit = [], onEvent }: StockQemuOptions = {},
): Promise<StockQemu> {
  const id = ++started
  const qmpPath = join(folder, `qmp-${id}.sock`)
  const gdbPath = join(folder, `gdb-${id}.sock`)
  const common = ['-display', 'none', '-monitor', 'none', '-serial', 'stdio', '-nodefaults']
  const child = spawn(
    binary.command,
    [
      ...binary.args,
      ...common,
      '-qmp',
      `unix:${qmpPath},server=on,wait=off`,
      '-qmp',
      `unix:${qmpPath}-2,server=on,wait=off`,
      '-gdb',
      `unix:${gdbPath},server=on,wait=off`,
      ...args,
    ],
    { stdio: ['pipe', 'pipe', 'pipe', ...inherit], env: { ...process.env, ...binary.env } },
  ) as ChildProcessWithoutNullStreams
  let stderr = ''
  child.stderr.on('data', (chunk) => {
    stderr += chunk
  })
  child.stdout.on('data', onConsole)
  child.stdin.on('error', () => {})
  const exited = new Promise<number | string>((resolve) => {
    child.on('error', (e) => resolve(String(e)))
    child.on('close', (code, signal) => resolve(code ?? signal ?? 'unknown'))
  })
  const socket = await dial(qmpPath, child, () => stderr)
  const qmp = speakQmp(socket, onEvent)
  await qmp('qmp_capabilities')
  return {
    type: (text) => void child.stdin.write(text),
    qmp,
    qmpPath: `${qmpPath}-2`,
    async migrate(uri, { timeoutMs = 60_000, monitor = qmp } = {}) {
      await monitor('migrate', { uri })
      const limit = Date.now() + timeoutMs
      for (;;) {
        const { status, 'error-desc': reason } = await qmp('query-migrate')
        if (status === 'completed') return
        if (status === 'failed' || status === 'cancelled')
          throw new Error(`migration ${status}: ${reason ?? ''} ${stderr}`)
        if (Date.now() > limit) throw new Error(`migration still ${status} after ${timeoutMs} ms`)
        await sleep(20)
      }
    },
    poke: (address, bytes) => pokeWithGdb(gdbPath, address, bytes),
    exited,
    get stderr() {
      return stderr
    },
    async kill() {
      child.kill('SIGKILL')
      await exited
    },
  }
}

async function dial(path: string, child: ChildProcess, stderr: () => string): Promise<Socket> {
  for (let attempt = 0; attempt < 500; attempt++) {
    if (child.exitCode !== null) break
    if (existsSync(path)) {
      const socket = connect(path)
      const ok = await new Promise<boolean>((resolve) => {
        socket.once('connect', () => resolve(true))
        socket.once('error', () => resolve(false))
      })
      if (ok) return socket
    }
    await sleep(20)
  }
  throw new Error(`stock QEMU did not open ${path}: ${stderr()}`)
}

/** Commands and their answers. The first command has to be `qmp_capabilities`. */
export function speakQmp(socket: Socket, onEvent?: (event: QmpEvent) => void): StockQemu['qmp'] {
  const pending: { resolve: (value: any) => void; reject: (e: Error) => void }[] = []
  let text = ''
  socket.setEncoding('utf8')
  socket.on('data', (chunk: string) => {
    text += chunk
    for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
      const message = JSON.parse(text.slice(0, end))
      text = text.slice(end + 1)
      if ('return' in message) pending.shift()?.resolve(message.return)
      else if ('error' in message) pending.shift()?.reject(new Error(message.error.desc))
      else if ('event' in message) {
        const { seconds, microseconds } = message.timestamp
        onEvent?.({ name: message.event, atMs: seconds * 1000 + microseconds / 1000 })
      }
    }
  })
  socket.on('error', () => {})
  socket.on('close', () => {
    for (const { reject } of pending.splice(0)) reject(new Error('QMP connection closed'))
  })
  return (execute, parameters = {}) =>
    new Promise((resolve, reject) => {
      pending.push({ resolve, reject })
      socket.write(`${JSON.stringify({ execute, arguments: parameters })}\n`)
    })
}

/** Spec: GDB manual, "Remote Serial Protocol": packets `$data#checksum`, `+` acknowledges. */
async function pokeWithGdb(path: string, address: number, bytes: Uint8Array): Promise<void> {
  const socket = connect(path)
  let text = ''
  let wake = () => {}
  socket.setEncoding('latin1')
  socket.on('data', (chunk: string) => {
    text += chunk
    wake()
  })
  const ask = async (packet: string) => {
    text = ''
    const sum = [...packet].reduce((total, c) => (total + c.charCodeAt(0)) & 0xff, 0)
    socket.write(`+$${packet}#${sum.toString(16).padStart(2, '0')}`)
    while (!/\$[^#]*#../.test(text)) {
      await new Promise<void>((resolve) => {
        wake = resolve
      })
    }
    return /\$([^#]*)#/.exec(text)![1]
  }
  try {
    await ask('?')
    await ask('Qqemu.PhyMemMode:1')
    const answer = await ask(
      `M${address.toString(16)},${bytes.length.toString(16)}:${Buffer.from(bytes).toString('hex')}`,
    )
    await ask('D')
    if (answer !== 'OK') throw new Error(`GDB stub refused to write at ${address.toString(16)}: ${answer}`)
  } finally {
    socket.destroy()
  }
}
