import { describe, expect, it } from 'vitest'
import { ByteWriter } from './bytes.ts'
import { callIndirectResult, f64, i32, i64, select } from './expr.ts'
import { ModuleBuilder } from './module-builder.ts'

const written = (write: (out: ByteWriter) => void): number[] => {
  const out = new ByteWriter(1)
  write(out)
  return [...out.view()]
}

describe('ByteWriter', () => {
  it('writes LEB128 (WebAssembly Core, section 5.2.2)', () => {
    expect(written((out) => out.uleb(624485))).toEqual([0xe5, 0x8e, 0x26])
    expect(written((out) => out.uleb(0xffff_ffff))).toEqual([0xff, 0xff, 0xff, 0xff, 0x0f])
    expect(written((out) => out.sleb(-123456))).toEqual([0xc0, 0xbb, 0x78])
    expect(written((out) => out.sleb(64))).toEqual([0xc0, 0x00])
    expect(written((out) => out.sleb64(-1n))).toEqual([0x7f])
    expect(written((out) => out.sleb64(-(1n << 63n)))).toEqual([...Array(9).fill(0x80), 0x7f])
  })
})

describe('ModuleBuilder', () => {
  const instantiate = (module: ModuleBuilder, imports: WebAssembly.Imports = {}) =>
    new WebAssembly.Instance(new WebAssembly.Module(module.finish()), imports).exports as Record<
      string,
      (...operands: unknown[]) => unknown
    >

  it('builds loops, conditions, locals and scopes', () => {
    const module = new ModuleBuilder()
    const factorial = module.add(module.type(['i64'], ['i64']), (body) => {
      const n = body.parameter(0, 'i64')
      const result = body.local('i64')
      body.set(result, i64.const(1))
      body.block((done) => {
        body.loop((again) => {
          body.brIf(done, i64.eqz(n.get))
          body.scope(() => body.set(result, body.hold('i64', i64.mul(result.get, n.get))))
          body.scope(() => body.set(n, body.hold('i64', i64.sub(n.get, i64.const(1)))))
          body.br(again)
        })
      })
      result.get(body)
    })
    const sign = module.add(module.type(['f64'], ['i32']), (body) => {
      const a = body.parameter(0, 'f64')
      body.if(f64.lt(a.get, f64.const(0)), () => body.return(i32.const(-1)))
      select(i32.const(1), i32.const(0), f64.gt(a.get, f64.const(0)))(body)
    })
    module.export('factorial', 'function', factorial)
    module.export('sign', 'function', sign)
    const exports = instantiate(module)
    expect(exports.factorial(20n)).toBe(2432902008176640000n)
    expect([-2.5, 0, 7].map((value) => exports.sign(value))).toEqual([-1, 0, 1])
  })

  it('calls through its table, branches by table, and reads shared memory', () => {
    const module = new ModuleBuilder()
    module.importSharedMemory('env', 'memory')
    const twice = module.importFunction('env', 'twice', ['i32'], ['i32'])
    const type = module.type(['i32'], ['i32'])
    const load = module.add(type, (body) => i32.load(body.parameter(0, 'i32').get, 4)(body))
    const double = module.add(type, (body) => body.returnCall(twice, [body.parameter(0, 'i32').get]))
    module.table(type, [load, double])
    const call = module.add(module.type(['i32', 'i32'], ['i32']), (body) => {
      const [which, operand] = [body.parameter(0, 'i32').get, body.parameter(1, 'i32').get]
      body.block((other) => {
        body.block((table) => body.brTable([table, table, other], which))
        body.return(callIndirectResult<'i32'>(type, [operand], which))
      })
      i32.const(-1)(body)
    })
    module.export('call', 'function', call)
    const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true })
    new DataView(memory.buffer).setInt32(12, 99, true)
    const exports = instantiate(module, { env: { memory, twice: (a: number) => a * 2 } })
    expect([exports.call(0, 8), exports.call(1, 21), exports.call(2, 0)]).toEqual([99, 42, -1])
  })
})
