import { FETCH_TLB_ENTRIES, LAYOUT, SLOT_BYTES, SLOTS_PER_PAGE, TLB_ENTRY_BYTES } from '../hart/layout.ts'
import { callResult, getGlobal, i32, i64 } from '../wasm/expr.ts'
import type { FunctionBody, I32, Local } from '../wasm/function-body.ts'
import { ModuleBuilder } from '../wasm/module-builder.ts'
import { Exit } from './contract.ts'
import { type HandlerEnvironment, InterpreterEmit, slotPc, state } from './interpreter-emit.ts'
import { HANDLERS } from './slots.ts'

/** Import namespaces. */
export const HART = 'hart'

/**
 * Generates the interpreter of one hart: threaded code, one function per handler, each ending in a tail call of the next
 * instruction's. Every function is `(slot, budget) -> exit`; `budget` is how many instructions are left to do.
 *
 * @param hartBase memory offset that LAYOUT counts from; becomes a constant of the code
 * @param fusesMultiplyAdd what {@link fusesMultiplyAdd} found out
 */
export function createInterpreterModule(hartBase: number, fusesMultiplyAdd: boolean): Uint8Array<ArrayBuffer> {
  const module = new ModuleBuilder()
  const { get, get32, set, set32 } = state(hartBase)
  const none = i32.const(0)

  module.importSharedMemory(HART, 'memory')
  const imports = {
    load: module.importFunction(HART, 'load', ['i64', 'i32', 'i32'], ['i64']),
    store: module.importFunction(HART, 'store', ['i64', 'i64', 'i32', 'i32'], []),
    amoAddress: module.importFunction(HART, 'amoAddress', ['i64', 'i32', 'i32', 'i32'], ['i32']),
    cacheBlock: module.importFunction(HART, 'cacheBlock', ['i32', 'i64', 'i32'], []),
    csr: module.importFunction(HART, 'csr', ['i32', 'i32', 'i64', 'i32', 'i32'], ['i64']),
    fpu: module.importFunction(HART, 'fpu', ['i32', 'i64', 'i64', 'i64', 'i32'], ['i64']),
  }
  const fetch = module.importFunction(HART, 'fetch', ['i64'], ['i32'])
  const decode = module.importFunction(HART, 'decode', ['i32'], [])
  const straddle = module.importFunction(HART, 'straddle', ['i32'], ['i32'])

  const handlerType = module.type(['i32', 'i32'], ['i32'])
  const jumpType = module.type(['i64', 'i32'], ['i32'])
  /** Budget when instret was last brought up to date. */
  const budgetBase = module.global('i32', 0)
  const exitInsn = module.global('i32', 0)

  const syncInstret = module.add(module.type(['i32'], []), (body) => {
    const budget = body.parameter(0, 'i32')
    const done = i64.extend_s(i32.sub(getGlobal<'i32'>(budgetBase), budget.get))
    body.put(set(LAYOUT.instret, i64.add(get(LAYOUT.instret), done)))
    body.setGlobal(budgetBase, budget.get)
  })

  /** Leaves at an instruction. */
  const exit = (reason: number, before?: (body: FunctionBody, slot: Local<'i32'>) => void): number =>
    module.add(handlerType, (body) => {
      const slot = body.parameter(0, 'i32')
      body.call(syncInstret, [body.parameter(1, 'i32').get])
      body.put(set(LAYOUT.pc, slotPc(hartBase, slot.get)))
      before?.(body, slot)
      i32.const(reason)(body)
    })
  const exitPoll = exit(Exit.poll)
  const exitTrap = exit(Exit.trap)
  const exitSystem = exit(Exit.system, (body, slot) => {
    const offset = body.hold('i32', i32.sub(slot.get, get32(LAYOUT.pageSlots32)))
    const at = body.hold('i32', i32.add(get32(LAYOUT.pageMem32), i32.shr_u(offset, i32.const(3))))
    const low = body.hold('i32', i32.load16_u(at))
    body.setGlobal(exitInsn, low)
    body.if(i32.eq(i32.and(low, i32.const(3)), i32.const(3)), () => {
      const last = i32.eq(offset, i32.const((SLOTS_PER_PAGE - 1) * SLOT_BYTES))
      body.if(
        last,
        () => body.setGlobal(exitInsn, get32(LAYOUT.straddleInsn32)),
        () => body.setGlobal(exitInsn, i32.or(low, i32.shl(i32.load16_u(at, 2), i32.const(16)))),
      )
    })
  })

  const dispatch = (body: FunctionBody, slot: I32, budget: I32): void =>
    body.returnCallIndirect(handlerType, [slot, budget], i32.load(slot))

  /** Goes on at a pc, wherever that is: through the fetch TLB, or the import `fetch`. */
  const enter = module.add(jumpType, (body) => {
    const pc = body.parameter(0, 'i64')
    const budget = body.parameter(1, 'i32')
    const page = body.hold('i64', i64.and(pc.get, i64.const(-4096)))
    const index = i32.and(
      i32.shr_u(i32.wrap(pc.get), i32.const(8)),
      i32.const((FETCH_TLB_ENTRIES - 1) * TLB_ENTRY_BYTES),
    )
    const entry = body.hold('i32', i32.add(index, get32(LAYOUT.fetchTlb32)))
    const slot = body.local('i32')
    body.if(i64.eq(i64.load(entry), page), () => {
      const slots = body.hold('i32', i32.load(entry, 8))
      body.put(set(LAYOUT.pageVaddr, page))
      body.put(set32(LAYOUT.pageSlots32, slots))
      body.put(set32(LAYOUT.pageMem32, i32.load(entry, 12)))
      const offset = i32.shl(i32.and(i32.wrap(pc.get), i32.const(0xffe)), i32.const(3))
      body.set(slot, i32.add(slots, offset))
      dispatch(body, slot.get, budget.get)
    })
    body.put(set(LAYOUT.pc, pc.get))
    body.call(syncInstret, [budget.get])
    body.set(slot, callResult<'i32'>(fetch, [pc.get]))
    body.if(i32.eqz(slot.get), () => body.return(i32.const(Exit.trap)))
    dispatch(body, slot.get, budget.get)
  })

  const wantsOut = (budget: I32): I32 => i32.or(get32(LAYOUT.request32), i32.le_s(budget, none))
  const jumpTo = module.add(jumpType, (body) => {
    const pc = body.parameter(0, 'i64')
    const budget = body.parameter(1, 'i32')
    body.if(wantsOut(budget.get), () => {
      body.call(syncInstret, [budget.get])
      body.put(set(LAYOUT.pc, pc.get))
      body.return(i32.const(Exit.poll))
    })
    body.returnCall(enter, [pc.get, budget.get])
  })

  const env: HandlerEnvironment = {
    hartBase,
    handlerType,
    fusesMultiplyAdd,
    imports,
    exitPoll,
    exitTrap,
    exitSystem,
    jumpTo,
    syncInstret,
  }

  const decodeHandler = module.add(handlerType, (body) => {
    const slot = body.parameter(0, 'i32').get
    body.call(decode, [slot])
    dispatch(body, slot, body.parameter(1, 'i32').get)
  })
  const pageEnd = module.add(handlerType, (body) => {
    const slot = body.parameter(0, 'i32').get
    body.returnCall(jumpTo, [slotPc(hartBase, slot), body.parameter(1, 'i32').get])
  })
  const straddleHandler = module.add(handlerType, (body) => {
    const here = [body.parameter(0, 'i32').get, body.parameter(1, 'i32').get]
    const handler = body.hold('i32', callResult<'i32'>(straddle, [here[0]]))
    body.if(i32.lt_s(handler, none), () => body.returnCall(exitTrap, here))
    body.returnCallIndirect(handlerType, here, handler)
  })

  const entries = HANDLERS.map((handler) => {
    let slow: number | undefined
    const slowIndex = (): number => {
      slow ??= module.declare(handlerType)
      return slow
    }
    const write = (body: FunctionBody, giveUp: (() => number) | undefined): void => {
      const emit = new InterpreterEmit(body, env, handler, giveUp)
      handler.row.semantics(emit)
      emit.finish()
    }
    const fast = module.add(handlerType, (body) => write(body, slowIndex))
    if (slow !== undefined) module.define(slow, (body) => write(body, undefined))
    return fast
  })
  module.table(handlerType, [decodeHandler, pageEnd, straddleHandler, exitSystem, ...entries])

  const run = module.add(module.type(['i32'], ['i32']), (body) => {
    const budget = body.parameter(0, 'i32').get
    body.setGlobal(budgetBase, budget)
    callResult<'i32'>(enter, [get(LAYOUT.pc), budget])(body)
  })
  module.export('run', 'function', run)
  module.export('exitInsn', 'global', exitInsn)
  module.export('table', 'table', 0)
  return module.finish()
}
