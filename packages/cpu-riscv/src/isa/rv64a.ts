/**
 * Spec: RISC-V Unprivileged ISA, chapter "A". Every access is sequentially consistent, so aq and rl ask for nothing more.
 * A reservation is the address and the value that was loaded: SC succeeds when memory still holds that value (the state
 * that is migrated has no more than these two).
 */
import { i32, i64, select } from '../wasm/expr.ts'
import type { Expr, I32 } from '../wasm/function-body.ts'
import type { Emit } from './emit.ts'
import { extension, type RowDraft, row } from './row.ts'

const AMO = 0x2f
type Rmw = 'add' | 'and' | 'or' | 'xor' | 'xchg'

const amo = (funct5: number, bytes: 4 | 8, operation: Rmw): RowDraft =>
  row('amo', { opcode: AMO, funct3: bytes === 4 ? 2 : 3, funct7: funct5 << 2 }, (e) => {
    const at = e.atomicAddress(bytes, e.hold('i64', e.rs1()), true)
    if (bytes === 4) e.rd(i64.extend_s(i32.atomic[operation](at, e.rs2w())))
    else e.rd(i64.atomic[operation](at, e.rs2()))
  })

/** Retries a compare-and-exchange until no other hart came between. */
const exchangeLoop = <T extends 'i32' | 'i64'>(
  e: Emit,
  type: T,
  read: Expr<T>,
  exchange: (old: Expr<T>) => Expr<T>,
  equal: (a: Expr<T>, b: Expr<T>) => I32,
): Expr<T> => {
  const old = e.body.local(type)
  const seen = e.body.local(type)
  e.body.set(seen, read)
  e.body.loop((again) => {
    e.body.set(old, seen.get)
    e.body.set(seen, exchange(old.get))
    e.body.brIf(again, i32.eqz(equal(seen.get, old.get)))
  })
  return old.get
}

const amoCompare = (funct5: number, bytes: 4 | 8, compare: 'lt_s' | 'lt_u' | 'gt_s' | 'gt_u'): RowDraft =>
  row('amo', { opcode: AMO, funct3: bytes === 4 ? 2 : 3, funct7: funct5 << 2 }, (e) => {
    const at = e.atomicAddress(bytes, e.hold('i64', e.rs1()), true)
    if (bytes === 4) {
      const source = e.hold('i32', e.rs2w())
      const exchange = (old: Expr<'i32'>) => i32.atomic.cmpxchg(at, old, select(old, source, i32[compare](old, source)))
      e.rd(i64.extend_s(exchangeLoop(e, 'i32', i32.load(at), exchange, i32.eq)))
    } else {
      const source = e.hold('i64', e.rs2())
      const exchange = (old: Expr<'i64'>) => i64.atomic.cmpxchg(at, old, select(old, source, i64[compare](old, source)))
      e.rd(exchangeLoop(e, 'i64', i64.load(at), exchange, i64.eq))
    }
  })

const loadReserved = (bytes: 4 | 8): RowDraft =>
  row('lr', { opcode: AMO, funct3: bytes === 4 ? 2 : 3, funct7: 0x02 << 2 }, (e) => {
    const address = e.hold('i64', e.rs1())
    const at = e.atomicAddress(bytes, address, false)
    const value = e.hold('i64', bytes === 4 ? i64.load32_s(at) : i64.load(at))
    e.setReservation(address, value)
    e.rd(value)
  })

const storeConditional = (bytes: 4 | 8): RowDraft =>
  row('amo', { opcode: AMO, funct3: bytes === 4 ? 2 : 3, funct7: 0x03 << 2 }, (e) => {
    const address = e.hold('i64', e.rs1())
    const reserved = e.reservation()
    const failed = e.body.local('i64')
    e.body.if(
      i64.eq(address, reserved.address),
      () => {
        const at = e.atomicAddress(bytes, address, true)
        const stored =
          bytes === 4
            ? i32.ne(i32.atomic.cmpxchg(at, i32.wrap(reserved.value), e.rs2w()), i32.wrap(reserved.value))
            : i64.ne(i64.atomic.cmpxchg(at, reserved.value, e.rs2()), reserved.value)
        e.body.set(failed, i64.extend_u(stored))
      },
      () => e.body.set(failed, i64.const(1)),
    )
    e.setReservation(i64.const(-1))
    e.rd(failed.get)
  })

export const rv64a = extension('a', {
  'lr.w': loadReserved(4),
  'sc.w': storeConditional(4),
  'amoswap.w': amo(0x01, 4, 'xchg'),
  'amoadd.w': amo(0x00, 4, 'add'),
  'amoxor.w': amo(0x04, 4, 'xor'),
  'amoand.w': amo(0x0c, 4, 'and'),
  'amoor.w': amo(0x08, 4, 'or'),
  'amomin.w': amoCompare(0x10, 4, 'lt_s'),
  'amomax.w': amoCompare(0x14, 4, 'gt_s'),
  'amominu.w': amoCompare(0x18, 4, 'lt_u'),
  'amomaxu.w': amoCompare(0x1c, 4, 'gt_u'),
  'lr.d': loadReserved(8),
  'sc.d': storeConditional(8),
  'amoswap.d': amo(0x01, 8, 'xchg'),
  'amoadd.d': amo(0x00, 8, 'add'),
  'amoxor.d': amo(0x04, 8, 'xor'),
  'amoand.d': amo(0x0c, 8, 'and'),
  'amoor.d': amo(0x08, 8, 'or'),
  'amomin.d': amoCompare(0x10, 8, 'lt_s'),
  'amomax.d': amoCompare(0x14, 8, 'gt_s'),
  'amominu.d': amoCompare(0x18, 8, 'lt_u'),
  'amomaxu.d': amoCompare(0x1c, 8, 'gt_u'),
})
