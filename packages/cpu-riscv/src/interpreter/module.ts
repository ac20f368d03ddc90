import { FETCH_TLB_ENTRIES, HART_AREA, LAYOUT, SLOT_BYTES, SLOTS_PER_PAGE, TLB_ENTRY_BYTES } from '../hart/layout.ts'
import { callIndirectResult, callResult, getGlobal, i32, i64 } from '../wasm/expr.ts'
import type { FunctionBody, I32, I64, Label, Local } from '../wasm/function-body.ts'
import { ModuleBuilder } from '../wasm/module-builder.ts'
import { Exit } from './contract.ts'
import { GO_ON, type HandlerEnvironment, InterpreterEmit, type InterpreterLoop } from './interpreter-emit.ts'
import { HANDLERS, type Handler, SLOT, SPECIAL_HANDLER, SPECIAL_HANDLERS } from './slots.ts'
import { slotPc, state, wantsOut } from './state-code.ts'

/** Tables: imported and own. */
const REGION_TABLE = 0
const HANDLER_TABLE = 1

/** Import namespace. */
export const HART = 'hart'

/** Why the loop was left. */
const Left = { poll: 0, slow: 1, jump: 2, hot: 3 } as const

/**
 * Generates the interpreter of one hart: a loop around a switch over the handler numbers of slots, and a function per
 * handler for when its piece of the loop gives up. `budget` is how many instructions are left to do.
 *
 * Why not handlers that tail-call each other: V8 takes the instance pointer from the table entry on every indirect call,
 * which puts four dependent loads between two instructions; the switch measures 2 to 3 times as fast.
 *
 * @param hartBase memory offset that LAYOUT counts from; becomes a constant of the code
 * @param fusesMultiplyAdd what {@link fusesMultiplyAdd} found out
 * @param threshold jumps to an instruction that make it hot; undefined: nothing ever is
 */
export function createInterpreterModule(
  hartBase: number,
  fusesMultiplyAdd: boolean,
  threshold?: number,
): Uint8Array<ArrayBuffer> {
  const module = new ModuleBuilder()
  const { get, get32, set, set32 } = state(hartBase)

  module.importSharedMemory(HART, 'memory')
  module.importTable(HART, 'regions')
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
  const stepType = module.type(['i64', 'i32'], ['i64', 'i32'])
  const regionType = module.type(['i64', 'i32', 'i32'], ['i64', 'i32'])
  /** Budget when instret was last brought up to date. */
  const budgetBase = module.global('i32', 0)
  const exitInsn = module.global('i32', 0)
  const nextSlot = module.global('i32', 0)
  const nextBudget = module.global('i32', 0)
  const nextTarget = module.global('i64', 0)

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
  const exitHot = exit(Exit.hot)
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

  const goOnAt = (body: FunctionBody, slot: I32, budget: I32): void => {
    body.setGlobal(nextSlot, slot)
    body.setGlobal(nextBudget, budget)
    body.return(i32.const(GO_ON))
  }

  /** Looks pc up in the fetch TLB; a hit makes its page the one in force. */
  const probeFetch = (body: FunctionBody, pc: I64, hit: (slot: I32) => void): void => {
    const page = body.hold('i64', i64.and(pc, i64.const(-4096)))
    const index = i32.and(i32.shr_u(i32.wrap(pc), i32.const(8)), i32.const((FETCH_TLB_ENTRIES - 1) * TLB_ENTRY_BYTES))
    const entry = body.hold('i32', i32.add(index, get32(LAYOUT.fetchTlb32)))
    body.if(i64.eq(i64.load(entry), page), () => {
      const slots = body.hold('i32', i32.load(entry, 8))
      body.put(set(LAYOUT.pageVaddr, page))
      body.put(set32(LAYOUT.pageSlots32, slots))
      body.put(set32(LAYOUT.pageMem32, i32.load(entry, 12)))
      hit(i32.add(slots, i32.shl(i32.and(i32.wrap(pc), i32.const(0xffe)), i32.const(3))))
    })
  }

  /** Goes on at a pc, wherever that is: through the fetch TLB, or the import `fetch`. */
  const enter = module.add(jumpType, (body) => {
    const pc = body.parameter(0, 'i64').get
    const budget = body.parameter(1, 'i32').get
    probeFetch(body, pc, (slot) => goOnAt(body, slot, budget))
    body.put(set(LAYOUT.pc, pc))
    body.call(syncInstret, [budget])
    const slot = body.hold('i32', callResult<'i32'>(fetch, [pc]))
    body.if(i32.eqz(slot), () => body.return(i32.const(Exit.trap)))
    goOnAt(body, slot, budget)
    body.unreachable()
  })

  const jumpTo = module.add(jumpType, (body) => {
    const pc = body.parameter(0, 'i64').get
    const budget = body.parameter(1, 'i32').get
    body.if(wantsOut(hartBase, budget), () => {
      body.call(syncInstret, [budget])
      body.put(set(LAYOUT.pc, pc))
      body.return(i32.const(Exit.poll))
    })
    body.returnCall(enter, [pc, budget])
  })

  /** Counts a jump to `slot`, to which `hot` answers; the number of a region is left alone. */
  const warm = (body: FunctionBody, slot: I32, hot: () => void): void => {
    if (threshold === undefined) return
    const word = body.hold('i32', i32.load(slot))
    body.if(i32.ne(i32.and(word, i32.const(0xffff)), i32.const(SPECIAL_HANDLER.compiled)), () => {
      const heat = body.hold('i32', i32.add(i32.shr_u(word, i32.const(16)), i32.const(1)))
      body.put(i32.store16(slot, heat, SLOT.heat16))
      body.if(i32.eq(heat, i32.const(threshold)), hot)
    })
  }
  const trapTo = module.add(jumpType, (body) => {
    const result = body.local('i32')
    body.set(result, callResult<'i32'>(jumpTo, [body.parameter(0, 'i64').get, body.parameter(1, 'i32').get]))
    const next = [getGlobal<'i32'>(nextSlot), getGlobal<'i32'>(nextBudget)]
    body.if(i32.lt_s(result.get, i32.const(0)), () => warm(body, next[0], () => body.returnCall(exitHot, next)))
    result.get(body)
  })

  const env: HandlerEnvironment = {
    hartBase,
    fusesMultiplyAdd,
    imports,
    exitTrap,
    exitSystem,
    jumpTo,
    trapTo,
    syncInstret,
    nextSlot,
    nextBudget,
  }

  const slowDecode = module.add(handlerType, (body) => {
    const slot = body.parameter(0, 'i32').get
    body.call(decode, [slot])
    goOnAt(body, slot, body.parameter(1, 'i32').get)
    body.unreachable()
  })
  const slowPageEnd = module.add(handlerType, (body) => {
    const slot = body.parameter(0, 'i32').get
    body.returnCall(jumpTo, [slotPc(hartBase, slot), body.parameter(1, 'i32').get])
  })
  const slowStraddle = module.add(handlerType, (body) => {
    const here = [body.parameter(0, 'i32').get, body.parameter(1, 'i32').get]
    const handler = body.hold('i32', callResult<'i32'>(straddle, [here[0]]))
    body.if(i32.lt_s(handler, i32.const(0)), () => body.returnCall(exitTrap, here))
    body.returnCallIndirect(handlerType, here, handler, HANDLER_TABLE)
  })
  const slow = HANDLERS.map((handler) =>
    module.add(handlerType, (body) => {
      const emit = new InterpreterEmit(body, env, handler, undefined)
      handler.row.semantics(emit)
      emit.finish()
      body.unreachable()
    }),
  )

  /** The handler that runs the instruction at a slot by itself, even where a region begins. */
  const ownHandler =
    (slot: I32): I32 =>
    (body) => {
      const handler = body.local('i32')
      body.set(handler, i32.load16_u(slot))
      body.if(i32.eq(handler.get, i32.const(SPECIAL_HANDLER.compiled)), () => {
        const at = i32.shl(i32.load16_u(slot, SLOT.heat16), i32.const(1))
        body.set(handler, i32.load16_u(at, hartBase + HART_AREA.entryHandlers))
      })
      handler.get(body)
    }
  /** What `step` and regions leave behind when they return an odd pc that is not an instruction's: an Exit, plus one. */
  const steppedOut = module.global('i32', 0)

  const step = module.add(stepType, (body) => {
    const pc = body.parameter(0, 'i64').get
    const budget = body.parameter(1, 'i32').get
    const result = body.local('i32')
    const slot = body.local('i32')
    // Also what the fetch gives up counts: slots of another page may lie there then.
    const ended = body.hold('i32', get32(LAYOUT.regionsEnded32))
    body.block((found) => {
      probeFetch(body, pc, (hit) => {
        body.set(slot, hit)
        body.br(found)
      })
      // Not in the fetch TLB: goes through TypeScript.
      body.set(result, callResult<'i32'>(enter, [pc, budget]))
      body.if(i32.ge_s(result.get, i32.const(0)), () => {
        body.setGlobal(steppedOut, i32.add(result.get, i32.const(1)))
        i64.const(-1)(body)
        body.return(budget)
      })
      body.set(slot, getGlobal<'i32'>(nextSlot))
    })
    const handler = body.hold('i32', ownHandler(slot.get))
    body.set(result, callIndirectResult<'i32'>(handlerType, [slot.get, budget], handler, HANDLER_TABLE))
    body.if(i32.ge_s(result.get, i32.const(0)), () => {
      body.setGlobal(steppedOut, i32.add(result.get, i32.const(1)))
      i64.const(-1)(body)
      body.return(budget)
    })
    const next = body.hold('i64', slotPc(hartBase, getGlobal<'i32'>(nextSlot)))
    // The caller's own region may be among those that ended: go on from the outside.
    body.if(i32.ne(ended, get32(LAYOUT.regionsEnded32)), () => {
      body.call(syncInstret, [getGlobal<'i32'>(nextBudget)])
      body.put(set(LAYOUT.pc, next))
      body.setGlobal(steppedOut, i32.const(Exit.poll + 1))
      i64.const(-1)(body)
      body.return(budget)
    })
    next(body)
    getGlobal<'i32'>(nextBudget)(body)
  })

  /** Runs compiled code from a slot where a region begins, until the next instruction is one to interpret. */
  const slowCompiled = module.add(handlerType, (body) => {
    const slot = body.parameter(0, 'i32')
    const budget = body.parameter(1, 'i32')
    const pc = body.local('i64')
    body.set(pc, slotPc(hartBase, slot.get))
    body.loop((again) => {
      body.if(wantsOut(hartBase, budget.get), () => {
        body.call(syncInstret, [budget.get])
        body.put(set(LAYOUT.pc, pc.get))
        body.return(i32.const(Exit.poll))
      })
      const number = i32.load16_u(slot.get, SLOT.heat16)
      body.callIndirect(regionType, [pc.get, budget.get, i32.const(0)], number, REGION_TABLE)
      body.pop(budget)
      body.pop(pc)
      body.if(i32.and(i32.wrap(pc.get), i32.const(1)), () => {
        // An instruction that the region gave up on, or the end of all.
        body.block((instruction) => {
          body.brIf(instruction, i32.eqz(getGlobal<'i32'>(steppedOut)))
          const exit = body.hold('i32', i32.sub(getGlobal<'i32'>(steppedOut), i32.const(1)))
          body.setGlobal(steppedOut, i32.const(0))
          body.return(exit)
        })
        body.call(step, [i64.and(pc.get, i64.const(-2)), budget.get])
        body.pop(budget)
        body.pop(pc)
        body.if(getGlobal<'i32'>(steppedOut), () => {
          const exit = body.hold('i32', i32.sub(getGlobal<'i32'>(steppedOut), i32.const(1)))
          body.setGlobal(steppedOut, i32.const(0))
          body.return(exit)
        })
      })
      body.block((miss) => {
        body.block((interpret) => {
          probeFetch(body, pc.get, (hit) => {
            body.set(slot, hit)
            body.brIf(interpret, i32.ne(i32.load16_u(slot.get), i32.const(SPECIAL_HANDLER.compiled)))
            body.br(again)
          })
          body.br(miss)
        })
        warm(body, slot.get, () => body.returnCall(exitHot, [slot.get, budget.get]))
        goOnAt(body, slot.get, budget.get)
      })
      body.returnCall(enter, [pc.get, budget.get])
    })
    body.unreachable()
  })
  const special = [slowDecode, slowPageEnd, slowStraddle, exitSystem, slowCompiled]
  const handlerTable = module.table(handlerType, [...special, ...slow])
  if (handlerTable !== HANDLER_TABLE) throw new Error('the table of handlers is not where calls look for it')

  /** Runs until something is not its business. @returns one of {@link Left} */
  const fast = module.add(handlerType, (body) => {
    const slot = body.parameter(0, 'i32')
    const budget = body.parameter(1, 'i32')
    const target = body.local('i64')
    const leave = (why: number): void => {
      body.setGlobal(nextSlot, slot.get)
      body.setGlobal(nextBudget, budget.get)
      body.return(i32.const(why))
    }
    const special = (number: number, loop: InterpreterLoop): void => {
      if (number === SPECIAL_HANDLER.pageEnd) body.set(target, slotPc(hartBase, slot.get))
      body.br(number === SPECIAL_HANDLER.pageEnd ? loop.jump : loop.slow)
    }
    /** Nests a block per handler around the switch; what follows a block's end is its handler. */
    const handlers = (number: number, labels: readonly Label[], loop: InterpreterLoop): void => {
      if (number === SPECIAL_HANDLERS + HANDLERS.length) {
        body.brTable([...labels, labels[SPECIAL_HANDLER.illegal]], i32.load16_u(slot.get))
        return
      }
      body.block((label) => handlers(number + 1, [...labels, label], loop))
      if (number < SPECIAL_HANDLERS) special(number, loop)
      else handle(HANDLERS[number - SPECIAL_HANDLERS], loop)
    }
    const handle = (handler: Handler, loop: InterpreterLoop): void =>
      body.scope(() => {
        const emit = new InterpreterEmit(body, env, handler, loop)
        handler.row.semantics(emit)
        emit.finish()
      })
    const hot = (): void => leave(Left.hot)
    body.loop((next) => {
      body.block((poll) => {
        body.block((slow) => {
          body.block((jump) => {
            body.block((backward) => handlers(0, [], { slot, budget, target, next, slow, jump, poll, backward }))
            body.brIf(poll, wantsOut(hartBase, budget.get))
            warm(body, slot.get, hot)
            body.br(next)
          })
          body.if(i32.eqz(wantsOut(hartBase, budget.get)), () =>
            probeFetch(body, target.get, (found) => {
              body.set(slot, found)
              warm(body, slot.get, hot)
              body.br(next)
            }),
          )
          body.setGlobal(nextTarget, target.get)
          leave(Left.jump)
        })
        leave(Left.slow)
      })
      leave(Left.poll)
    })
    body.unreachable()
  })

  const run = module.add(module.type(['i32'], ['i32']), (body) => {
    const budget = body.parameter(0, 'i32').get
    const result = body.local('i32')
    const slot = getGlobal<'i32'>(nextSlot)
    const left = getGlobal<'i32'>(nextBudget)
    body.setGlobal(budgetBase, budget)
    body.set(result, callResult<'i32'>(enter, [get(LAYOUT.pc), budget]))
    // What system instructions and traps come back to is as good as the target of a jump.
    body.if(i32.lt_s(result.get, i32.const(0)), () => warm(body, slot, () => body.returnCall(exitHot, [slot, left])))
    body.loop((again) => {
      body.if(i32.ge_s(result.get, i32.const(0)), () => body.return(result.get))
      body.set(result, callResult<'i32'>(fast, [slot, left]))
      body.if(i32.eq(result.get, i32.const(Left.poll)), () => body.returnCall(exitPoll, [slot, left]))
      body.if(i32.eq(result.get, i32.const(Left.hot)), () => body.returnCall(exitHot, [slot, left]))
      const slow = callIndirectResult<'i32'>(handlerType, [slot, left], i32.load16_u(slot), HANDLER_TABLE)
      body.if(
        i32.eq(result.get, i32.const(Left.jump)),
        () => body.set(result, callResult<'i32'>(jumpTo, [getGlobal<'i64'>(nextTarget), left])),
        () => body.set(result, slow),
      )
      body.br(again)
    })
    body.unreachable()
  })
  module.export('run', 'function', run)
  module.export('exitInsn', 'global', exitInsn)
  module.export('table', 'table', handlerTable)
  module.export('step', 'function', step)
  return module.finish()
}
