import { LAYOUT } from '../hart/layout.ts'
import type { HartProfile } from '../hart/profile.ts'
import { fpu } from '../softfloat/fpu.ts'
import type { HartImports, Interpreter, InterpreterExports, InterpreterOptions } from './contract.ts'
import { SlotDecoder } from './decoder.ts'
import { fusesMultiplyAdd } from './fused-multiply-add.ts'
import { createInterpreterModule, HART } from './module.ts'

/** Extensions that not every hart has. */
const OPTIONAL = ['zicbom', 'zicboz', 'zawrs', 'zfa', 'svinval'] as const
const isOptional = (extension: string): extension is (typeof OPTIONAL)[number] =>
  (OPTIONAL as readonly string[]).includes(extension)

/** Does an extension decode on a hart of that profile? */
export const hasExtension =
  (profile: HartProfile) =>
  (extension: string): boolean =>
    !isOptional(extension) || profile[extension]

/** Builds and instantiates the interpreter of one hart. Synchronous: meant for the hart's own thread. */
export function makeInterpreter({ memory, hartBase, profile, imports, compiled }: InterpreterOptions): Interpreter {
  const has = hasExtension(profile)
  const decoder = new SlotDecoder(memory, hartBase, has)
  const fflags = new Int32Array(memory.buffer, hartBase + LAYOUT.fflags32, 1)
  const environment = { rm: 0, flags: 0 }
  const hart: HartImports = {
    ...imports,
    decode: (slot) => decoder.decode(slot >>> 0),
    straddle(slot) {
      const high = imports.straddledHalf()
      return high < 0 ? -1 : decoder.decodeStraddling(slot >>> 0, high)
    },
    fpu(op, a, b, c, rm) {
      environment.rm = rm
      environment.flags = 0
      const result = fpu(environment, op, a, b, c)
      fflags[0] |= environment.flags
      return result
    },
  }
  const code = createInterpreterModule(hartBase, fusesMultiplyAdd(), compiled?.threshold)
  const regions = compiled?.table ?? new WebAssembly.Table({ initial: 0, element: 'anyfunc' })
  const instance = new WebAssembly.Instance(new WebAssembly.Module(code), { [HART]: { memory, regions, ...hart } })
  return { code: decoder, exports: instance.exports as unknown as InterpreterExports }
}
