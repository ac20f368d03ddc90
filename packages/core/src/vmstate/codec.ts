import type { QEMUFileReader, QEMUFileWriter } from '../qemufile/qemufile.ts'
import { describeTable } from './describe.ts'
import type { DescribeOptions, VmstateDescription } from './description.ts'
import { interpret } from './interpreter.ts'
import { locateInSection } from './locate.ts'
import type { Vmstate } from './table.ts'

/**
 * Both engines come from the same table and produce the same bytes; the compliance kit checks it. A page or worker
 * whose policy forbids eval silently gets 'interpreted', or imports the module that emitVmstateModule wrote.
 */
export interface VmstateCodec<S> {
  readonly engine: 'generated' | 'interpreted' | 'emitted'
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
  engine?: 'auto' | 'interpreted'
}

/** The codec of a table; cheap to call again. */
export function compileVmstate<S>(vmstate: Vmstate<S>, _o: CompileOptions = {}): VmstateCodec<S> {
  return interpretedCodec(vmstate)
}

function interpretedCodec<S>(vmstate: Vmstate<S>): VmstateCodec<S> {
  const table = interpret(vmstate)
  return {
    engine: 'interpreted',
    save(state, out) {
      try {
        table.save(state, out, vmstate.version)
      } catch (error) {
        throw locateInSection(error, vmstate.name)
      }
    },
    *load(state, input, version) {
      try {
        yield* table.load(state, input, version)
      } catch (error) {
        throw locateInSection(error, vmstate.name)
      }
    },
    describe(state, options) {
      try {
        return describeTable(table, state, options)
      } catch (error) {
        throw locateInSection(error, vmstate.name)
      }
    },
  }
}
