import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** Why qemu-img cannot be used here; undefined when it can, or must. */
export function qemuImgMissing(): string | undefined {
  try {
    execFileSync('qemu-img', ['--version'], { stdio: 'ignore' })
    return undefined
  } catch {
    return process.env.CI || process.env.FERRY_REQUIRE_QEMU ? undefined : 'qemu-img is not installed (qemu-utils)'
  }
}

/** @throws Error with what it printed */
export function qemuImg(...args: string[]): string {
  const { status, stdout, stderr, error } = spawnSync('qemu-img', args, { encoding: 'utf8' })
  if (error) throw error
  if (status !== 0) throw new Error(`qemu-img ${args.join(' ')}: exit status ${status}\n${stdout}${stderr}`)
  return stdout
}

/** Requests of `qemu-io`: `write -P 7 0 64k` and the like. */
export function qemuIo(image: string, ...commands: string[]): void {
  execFileSync('qemu-io', ['-f', 'qcow2', ...commands.flatMap((c) => ['-c', c]), image], { stdio: 'pipe' })
}

/** A folder for one test's images. */
export function imageFolder(): { path(name: string): string; [Symbol.dispose](): void } {
  const folder = mkdtempSync(join(tmpdir(), 'ferry-block-'))
  return {
    path: (name) => join(folder, name),
    [Symbol.dispose]: () => rmSync(folder, { recursive: true, force: true }),
  }
}

/** The same numbers for the same seed: xorshift32. */
export function randomNumbers(seed: number): (below: number) => number {
  let state = seed || 1
  return (below) => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) % below
  }
}
