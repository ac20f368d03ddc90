import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { buildLinuxInitramfs, findLinuxGuest } from '../../tooling/guest/linux-guest.ts'
import { createVm } from '../harness/vm.ts'
import { scratchFolder, startStockQemu, stockQemuMissing } from '../stock-qemu/stock-qemu.ts'

const RAM_MIB = 128
const APPEND = 'console=ttyS0 quiet'
const PROMPT = /[#$] $/

/** Seconds from power-on to the shell's prompt: OpenSBI and Debian's kernel, both machines with the same files. */
export default async function linuxBoot(report: (line: string) => void): Promise<void> {
  const guest = findLinuxGuest()
  if (!guest?.opensbi) return report('no Linux guest here: pnpm guest:fetch')
  const initrd = buildLinuxInitramfs(guest)
  const missing = stockQemuMissing()
  const files = { bios: guest.opensbi, kernel: guest.kernel, initrd }
  const stock = missing ? undefined : Math.min(await bootStock(files), await bootStock(files))
  const { seconds, instructions } = await bootOurs(files)
  report(
    `ours ${seconds.toFixed(1)} s (${(instructions / 1e6).toFixed(0)} million instructions, ` +
      `${(instructions / seconds / 1e6).toFixed(0)} MIPS over all)` +
      (stock ? `; stock QEMU ${stock.toFixed(1)} s; ratio ${(stock / seconds).toFixed(3)}` : `; ${missing}`),
  )
}

interface Files {
  readonly bios: string
  readonly kernel: string
  readonly initrd: Uint8Array
}

async function bootOurs(files: Files): Promise<{ seconds: number; instructions: number }> {
  const prompt = expectPrompt()
  await using vm = await createVm({
    bios: readFileSync(files.bios),
    kernel: readFileSync(files.kernel),
    initrd: files.initrd,
    append: APPEND,
    ramBytes: RAM_MIB * 2 ** 20,
    onOutput: prompt.push,
  })
  const began = performance.now()
  vm.machine.start()
  await prompt.seen
  const seconds = (performance.now() - began) / 1000
  return { seconds, instructions: Number(vm.machine.cpu.instructionsRetired) }
}

async function bootStock(files: Files): Promise<number> {
  const folder = scratchFolder()
  const initrd = join(folder.path, 'initrd.gz')
  writeFileSync(initrd, files.initrd)
  const prompt = expectPrompt()
  const boot = ['-bios', files.bios, '-kernel', files.kernel, '-initrd', initrd, '-append', APPEND]
  const began = performance.now()
  const qemu = await startStockQemu(folder.path, ['-M', 'virt', '-m', `${RAM_MIB}M`, ...boot], (chunk) =>
    prompt.push(String(chunk)),
  )
  try {
    await prompt.seen
    return (performance.now() - began) / 1000
  } finally {
    await qemu.kill()
    folder.remove()
  }
}

function expectPrompt(timeoutMs = 60_000): { push(text: string): void; seen: Promise<void> } {
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  let text = ''
  const timer = setTimeout(
    () => reject(new Error(`no prompt within ${timeoutMs / 1000} s: ${text.slice(-800)}`)),
    timeoutMs,
  )
  return {
    push(more) {
      text += more
      if (!PROMPT.test(text)) return
      clearTimeout(timer)
      resolve()
    },
    seen: promise,
  }
}
