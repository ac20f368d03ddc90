/** Runs an image in stock QEMU and brings back a piece of its memory. */
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

export interface StockQemu {
  readonly command: string
  readonly args: readonly string[]
  readonly version: string
  /** Removes what was unpacked for it. */
  dispose(): void
}

export const qemuIsRequired = (): boolean => Boolean(process.env.CI || process.env.FERRY_REQUIRE_QEMU)

function probe(command: string, args: readonly string[], dispose = () => {}): StockQemu | undefined {
  const answer = spawnSync(command, [...args, '--version'], { encoding: 'utf8' })
  const version = /version (\d+\.\d+)/.exec(answer.stdout ?? '')?.[1]
  if (version) return { command, args, version, dispose }
  dispose()
  return undefined
}

/** What is installed (or FERRY_QEMU names), if it is release 7.2. */
export function findQemu72(): StockQemu | undefined {
  const qemu = probe(process.env.FERRY_QEMU ?? 'qemu-system-riscv64', [])
  return qemu?.version === '7.2' ? qemu : undefined
}

/** FERRY_QEMU_10, or the packages beside the repository, unpacked into a temporary folder. */
export function findQemu100(): StockQemu | undefined {
  if (process.env.FERRY_QEMU_10) return probe(process.env.FERRY_QEMU_10, [])
  const packages = new URL('../../../shared/qemu-10.0/', import.meta.url).pathname
  if (!existsSync(packages)) return undefined
  const folder = mkdtempSync(join(tmpdir(), 'ferry-qemu-'))
  for (const name of readdirSync(packages)) {
    if (/x86/.test(name)) continue
    if (spawnSync('dpkg', ['-x', join(packages, name), folder]).status !== 0) return undefined
  }
  const command = join(folder, 'usr/bin/qemu-system-riscv64')
  hideModulesOfOthers(command)
  const data = ['-L', join(folder, 'usr/share/qemu'), '-L', '/usr/share/qemu']
  return probe(command, data, () => rmSync(folder, { recursive: true, force: true }))
}

/**
 * The binary looks for its modules where another release may be installed, whose modules make it abort. The unpacked copy
 * gets a folder that does not exist instead; nothing of a bare `virt` board is a module.
 */
function hideModulesOfOthers(command: string): void {
  const binary = readFileSync(command)
  const folder = '/usr/lib/x86_64-linux-gnu/qemu\0'
  const at = binary.indexOf(folder)
  if (at >= 0) writeFileSync(command, binary.fill('/nonexistent\0'.padEnd(folder.length, '\0'), at, at + folder.length))
}

export interface MemoryRange {
  readonly address: number
  readonly bytes: number
}

/**
 * Boots `image` at the start of RAM with nothing below it, waits until the guest asks the test finisher for a reset
 * (which -no-reboot makes a halt) and reads memory of the machine that then stands still.
 *
 * With a second hart (which the image parks) atomics are really atomic. Alone, a hart of release 7.2 does them as a load
 * and a store, and reports what goes wrong as a load's fault.
 * @throws Error with QEMU's own words when it ends early or the guest does not finish in time
 */
export async function runInQemu(
  qemu: StockQemu,
  image: Uint8Array,
  ramBytes: number,
  ranges: readonly MemoryRange[],
  timeoutMs: number,
): Promise<Buffer[]> {
  const folder = mkdtempSync(join(tmpdir(), 'ferry-lockstep-'))
  const file = join(folder, 'image.bin')
  writeFileSync(file, image)
  const machine = ['-M', 'virt', '-smp', '2', '-accel', 'tcg,thread=multi', '-m', `${ramBytes >> 20}M`]
  const firmware = ['-bios', 'none', '-kernel', file, '-no-reboot', '-no-shutdown']
  const consoles = ['-display', 'none', '-serial', 'null', '-monitor', 'none', '-qmp', 'stdio']
  const child = spawn(qemu.command, [...qemu.args, ...machine, ...firmware, ...consoles], {
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  let stderr = ''
  child.stderr.on('data', (chunk) => {
    stderr += chunk
  })
  const timer = setTimeout(() => child.kill('SIGKILL'), timeoutMs)
  try {
    return await new Promise<Buffer[]>((resolve, reject) => {
      const send = (execute: string, args?: object): void => {
        child.stdin.write(`${JSON.stringify({ execute, ...(args && { arguments: args }) })}\n`)
      }
      const dump = (n: number): string => join(folder, `dump${n}.bin`)
      let answers = 0
      let finished = false
      createInterface({ input: child.stdout }).on('line', (line) => {
        const message = JSON.parse(line)
        if (message.QMP) send('qmp_capabilities')
        else if (message.event === 'SHUTDOWN' && !finished) {
          finished = true
          for (const [n, { address, bytes }] of ranges.entries())
            send('pmemsave', { val: address, size: bytes, filename: dump(n) })
        } else if (message.error) reject(new Error(`QEMU: ${message.error.desc}`))
        else if ('return' in message && finished && ++answers === ranges.length) {
          const dumps = ranges.map((_, n) => readFileSync(dump(n)))
          send('quit')
          resolve(dumps)
        }
      })
      child.on('error', reject)
      child.on('exit', (code, signal) =>
        reject(new Error(`QEMU ended with ${signal ?? code} before the guest did: ${stderr}`)),
      )
    })
  } finally {
    clearTimeout(timer)
    child.kill('SIGKILL')
    rmSync(folder, { recursive: true, force: true })
  }
}
