import { CSR_RULES, HYPERVISOR_CSR_RULES } from './csrs.ts'
import { PROFILES } from '@ferryvm/cpu-riscv'
import { runInFerry } from './ferry.ts'
import { LOG, RAM_BYTES } from './layout.ts'
import { generateProgram } from './program.ts'
import { disassemble, instructionTable } from './table.ts'
const profile = (process.env.P ?? 'qemu-7.2') as 'qemu-7.2'
const p = generateProgram({ seed: Number(process.argv[2]), blocks: Number(process.argv[3]), passes: 8, table: instructionTable(PROFILES[profile]), csrs: [...CSR_RULES, ...CSR_RULES, ...HYPERVISOR_CSR_RULES] })
try { const r = await runInFerry(profile, p.image, RAM_BYTES, [{ address: LOG, bytes: p.logBytes }], 6000); console.log('finished', r.instructions) } catch (e) {
  const text = String((e as Error).message); console.log(text)
  const pc = Number.parseInt(/pc (\w+)/.exec(text)![1]!, 16)
  const b = p.blocks.find((b) => pc >= b.start && pc <= b.end + 4)
  if (b) { console.log(b.index, b.mode, b.satpMode, b.medeleg.toString(16), b.mstatus.toString(16)); for (const i of b.insns) console.log(i.address.toString(16), i.bits.toString(16), disassemble(i.bits, BigInt(i.address))) }
}
process.exit(0)
