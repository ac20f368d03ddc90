import type { AccessBytes, AccessName } from '../isa/emit.ts'
import { i64 } from '../wasm/expr.ts'
import type { FunctionBody, I32, I64 } from '../wasm/function-body.ts'

/** Bytes and sign of each kind of access: the load that does it. */
export const LOADS: Readonly<Record<AccessName, { bytes: AccessBytes; load: (address: I32, offset?: number) => I64 }>> =
  {
    i8: { bytes: 1, load: i64.load8_s },
    u8: { bytes: 1, load: i64.load8_u },
    i16: { bytes: 2, load: i64.load16_s },
    u16: { bytes: 2, load: i64.load16_u },
    i32: { bytes: 4, load: i64.load32_s },
    u32: { bytes: 4, load: i64.load32_u },
    i64: { bytes: 8, load: i64.load },
  }
export const STORES: Readonly<
  Record<AccessBytes, (address: I32, value: I64, offset?: number) => (body: FunctionBody) => void>
> = {
  1: i64.store8,
  2: i64.store16,
  4: i64.store32,
  8: i64.store,
}
export const PAGE_MASK = ~0xfff
