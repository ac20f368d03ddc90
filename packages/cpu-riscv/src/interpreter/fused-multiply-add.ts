import { f32, f64, v128 } from '../wasm/expr.ts'
import { ModuleBuilder } from '../wasm/module-builder.ts'

let known: boolean | undefined

/**
 * Does this engine's relaxed multiply-add round once, on this processor? WebAssembly leaves that open, and older engines do
 * not have the instruction at all.
 */
export function fusesMultiplyAdd(): boolean {
  known ??= probe()
  return known
}

function probe(): boolean {
  const module = new ModuleBuilder()
  // (1 + e)^2 - 1 - 2e = e^2, which is lost when the product is rounded first.
  const double = module.add(module.type([], ['f64']), (body) => {
    const a = v128.splat_f64(f64.const(1 + 2 ** -30))
    v128.lane0_f64(v128.relaxed_madd_f64(a, a, v128.splat_f64(f64.const(-1 - 2 ** -29))))(body)
  })
  const single = module.add(module.type([], ['f32']), (body) => {
    const a = v128.splat_f32(f32.const(1 + 2 ** -13))
    v128.lane0_f32(v128.relaxed_madd_f32(a, a, v128.splat_f32(f32.const(-1 - 2 ** -12))))(body)
  })
  module.export('double', 'function', double)
  module.export('single', 'function', single)
  const bytes = module.finish()
  if (!WebAssembly.validate(bytes)) return false
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(bytes))
  const functions = exports as { double(): number; single(): number }
  return functions.double() === 2 ** -60 && functions.single() === 2 ** -26
}
