import type { QEMUFileReader, QEMUFileWriter } from '../qemufile/qemufile.ts'
import { describeTable } from './describe.ts'
import type { DescribeOptions, VmstateDescription } from './description.ts'
import { canGenerate, type EmittedVmstateModule, emittedTable, generatedTable } from './generated-codec.ts'
import { interpret } from './interpreter.ts'
import { locateInSection } from './locate.ts'
import type { Vmstate } from './table.ts'
import type { TableCodec } from './table-codec.ts'
import { vmstateTraced } from './vmstate-trace.ts'

/**
 * Both engines come from the same table and produce the same bytes; the compliance kit checks it. A page or worker
 * whose policy forbids eval silently gets 'interpreted', or imports the module that emitVmstateModule wrote.
 */
export interface VmstateCodec<S> {
  readonly engine: 'generated' | 'interpreted' | 'emitted'
  /** Generates the code now. Else that happens at first use, and a migrating guest stands still meanwhile. */
  prepare(): void
  /** Always synchronous: a section is appended to a growing buffer, flushing is the stream's business. */
  save(state: S, out: QEMUFileWriter): void
  /**
   * A coroutine: yields how many bytes must be available to go on (see `drive`). The stream has no section lengths, so
   * a purely synchronous reader cannot know how long to wait, and `await` per field costs 10x.
   * When it throws, rows before the one that failed have been changed.
   * @param version the sender's version_id, from the section header
   * @throws VmstateError naming the row and the stream offset
   */
  load(state: S, input: QEMUFileReader, version: number): Generator<number, void>
  /** What `save` would write now (with its hooks), as the stream's trailing JSON describes it. */
  describe(state: S, options?: DescribeOptions): VmstateDescription
}

export interface CompileOptions {
  /** Default `auto`: generated code where eval is allowed, else interpreted. */
  engine?: 'auto' | 'interpreted'
  /** What `emitVmstateModule` wrote for this table, imported. */
  module?: EmittedVmstateModule
}

/**
 * The codec of a table; cheap to call again. Code is generated when it is first used.
 * @throws VmstateDefinitionError `module` belongs to another table
 */
export function compileVmstate<S>(vmstate: Vmstate<S>, o: CompileOptions = {}): VmstateCodec<S> {
  if (o.module) {
    const table = emittedTable(vmstate, o.module)
    return codecOf(vmstate, 'emitted', () => table)
  }
  if (o.engine !== 'interpreted' && canGenerate()) return codecOf(vmstate, 'generated', () => generatedTable(vmstate))
  return codecOf(vmstate, 'interpreted', () => interpret(vmstate))
}

function codecOf<S>(vmstate: Vmstate<S>, engine: VmstateCodec<S>['engine'], make: () => TableCodec): VmstateCodec<S> {
  let made: TableCodec | undefined
  const table = (): TableCodec => (vmstateTraced() ? interpret(vmstate) : (made ??= make()))
  return {
    engine,
    prepare: () => void table(),
    save(state, out) {
      try {
        table().save(state, out, vmstate.version)
      } catch (error) {
        throw locateInSection(error, vmstate.name)
      }
    },
    *load(state, input, version) {
      try {
        yield* table().load(state, input, version)
      } catch (error) {
        throw locateInSection(error, vmstate.name)
      }
    },
    describe(state, options) {
      try {
        return describeTable(interpret(vmstate), state, options)
      } catch (error) {
        throw locateInSection(error, vmstate.name)
      }
    },
  }
}
