import { CSR_RULES, HYPERVISOR_CSR_RULES } from './csrs.ts'
import { PROFILES } from '@ferryvm/cpu-riscv'
import { decode } from '../../packages/cpu-riscv/src/isa/table.ts'
import { compareLogs, compareMemory, instructionCount, report } from './compare.ts'
import { runInFerry } from './ferry.ts'
import { COMPARED_MEMORY, LOG, RAM_BYTES } from './layout.ts'
import { generateProgram } from './program.ts'
import { findQemu72, findQemu100, runInQemu } from './qemu.ts'
const profile = (process.env.P ?? 'qemu-7.2') as any
import { instructionTable } from './table.ts'
const table = instructionTable(PROFILES[profile as 'qemu-7.2'])
const p = generateProgram({ seed: Number(process.argv[2] ?? 1), blocks: Number(process.argv[3] ?? 1000), passes: 8, table, csrs: [...CSR_RULES, ...CSR_RULES, ...HYPERVISOR_CSR_RULES] })
const ranges = [{ address: LOG, bytes: p.logBytes }, ...COMPARED_MEMORY]
const q = profile === 'qemu-7.2' ? findQemu72()! : findQemu100()!
let t = performance.now()
const a = await runInQemu(q, p.image, RAM_BYTES, ranges, 60000)
q.dispose()
console.log('qemu', (performance.now() - t).toFixed(), instructionCount(p)); t = performance.now()
const b = await runInFerry(profile, p.image, RAM_BYTES, ranges, Number(process.env.T ?? 20000))
console.log('ours', (performance.now() - t).toFixed(), b.instructions)
const m = compareLogs(p, a[0]!, b.dumps[0]!, 1000)
console.log('mismatches', m.length)
const seen = new Set()
let shown = 0
const dis = (bits: number) => decode(bits)?.row.name + ' ' + Object.entries(decode(bits)?.operands ?? {}).map(([k,v])=>k[0]+k.slice(-1)+(k==='imm'||k==='rm'?'=':'')+v).join(' ')
for (const x of m) { if (seen.has(x.block)) continue; seen.add(x.block); if (shown++ < Number(process.argv[4] ?? 3)) console.log(report(p, x, process.env.D ? undefined : dis)) }
console.log('blocks', seen.size)
if (!m.length) console.log(compareMemory(COMPARED_MEMORY, a.slice(1), b.dumps.slice(1)))
process.exit(0)
