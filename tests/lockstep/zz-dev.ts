import { generateProgram } from '/work/main/tests/lockstep/program.ts'
import { CSR_RULES } from '/work/main/tests/lockstep/csrs.ts'
import { findQemu72, findQemu100, runInQemu } from '/work/main/tests/lockstep/qemu.ts'
import { compareLogs, instructionCount, report } from '/work/main/tests/lockstep/compare.ts'
import { LOG, RAM_BYTES, RECORD_BYTES, RECORD } from '/work/main/tests/lockstep/layout.ts'
import { instructionTable } from "/work/main/tests/lockstep/table.ts"; import { PROFILES } from "@ferryvm/cpu-riscv"; import { HYPERVISOR_CSR_RULES } from "/work/main/tests/lockstep/csrs.ts"
import { COMPRESSED, INSTRUCTIONS } from '../../packages/cpu-riscv/src/isa/table.ts'
import { NOT_ILLEGAL } from './rows.ts'
for (const m of [7,0x27,0x43,0x47,0x4b,0x4f,0x53]) if (!INSTRUCTIONS.some(r=>r.name==='fld')) (NOT_ILLEGAL as any).push({match:m,mask:0x7f})
const rows = INSTRUCTIONS.map(r=>({...r, syntax:r.format.syntax})), bn = new Map(rows.map(r=>[r.name,r])), fake={name:'fld',syntax:'D,o(s)',match:0,mask:0,extension:'d'}
const table = { rows, compressed: COMPRESSED.map(r=>({...r, expandsTo: bn.get(r.expandsTo)??{...fake,name:r.expandsTo}, valid:r.valid??(()=>true)})), has:(e)=> (PROFILES["qemu-7.2"] as any)[e]!==false }
let t = performance.now()
const p = generateProgram({ seed: Number(process.argv[2] ?? 1), blocks: Number(process.argv[3] ?? 1000), passes: 8, table, csrs: [...CSR_RULES, ...CSR_RULES, ...HYPERVISOR_CSR_RULES] })
console.log('generated', performance.now() - t, instructionCount(p), p.records)
const q7 = findQemu72()!, q10 = findQemu100()!
t = performance.now()
const [a] = await runInQemu(q7, p.image, RAM_BYTES, [{ address: LOG, bytes: p.logBytes }], 60000)
console.log('7.2', performance.now() - t); t = performance.now()
const [b] = await runInQemu(q7, p.image, RAM_BYTES, [{ address: LOG, bytes: p.logBytes }], 60000)
console.log('7.2', performance.now() - t); t = performance.now()
const [c] = await runInQemu(q10, p.image, RAM_BYTES, [{ address: LOG, bytes: p.logBytes }], 60000)
console.log('10.0', performance.now() - t)
q10.dispose()
const v = new BigUint64Array(a!.buffer, a!.byteOffset, p.logBytes / 8)
let traps = new Map<string, number>(); let n = 0n
for (let r = 0; r < p.records; r++) { const o = r * RECORD.words; n += v[o + RECORD.trapCount]!; for (let k = 0; k < Math.min(8, Number(v[o + RECORD.trapCount])); k++) { const key = 'cause ' + v[o + RECORD.traps + 4 * k]; traps.set(key, (traps.get(key) ?? 0) + 1) } }
console.log('traps', n, Object.fromEntries(traps))
console.log('7.2 twice:', compareLogs(p, a!, b!).length)
const m = compareLogs(p, a!, c!, 10000)
console.log('7.2/10:', m.length)
for (const x of m.slice(0, Number(process.argv[4] ?? 3))) console.log(report(p, x))
process.exit(0)
