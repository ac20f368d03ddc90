import type { RamBlock, RamHookReceiver } from '@ferryvm/core'
import { RdmaProtocolError } from '../errors.ts'
import type { MemoryRegion, RdmaDevice } from '../verbs/verbs.ts'
import { CHUNK_BYTES, chunkCount, chunkEnd, chunkOf } from './chunks.ts'
import type { ControlConnection, ControlMessage } from './control-connection.ts'
import { ControlType, controlName, MAX_COMMANDS } from './control-message.ts'
import { trace } from './rdma-trace.ts'
import {
  compress,
  decodeRecords,
  destBlock,
  encodeRecords,
  type RecordCodec,
  recordOffset,
  register,
  registerResult,
} from './records.ts'
import { isZero } from './zero-memory.ts'

/** The destination's half: registers memory when it is asked, and lets the source write. Spec: protocol.md section 11. */
export class RamReceiver implements RamHookReceiver {
  readonly #device: RdmaDevice
  readonly #connection: ControlConnection
  readonly #pinAll: boolean
  #blocks: readonly RamBlock[] = []
  /** By block and first chunk; with pin-all one per block. */
  #regions: (MemoryRegion | undefined)[][] = []

  constructor(device: RdmaDevice, connection: ControlConnection, pinAll: boolean) {
    this.#device = device
    this.#connection = connection
    this.#pinAll = pinAll
  }

  async receive(blocks: readonly RamBlock[]): Promise<void> {
    for (;;) {
      trace.rdma_registration_handle_wait({})
      const message = await this.#connection.receive()
      try {
        if (message.type === ControlType.REGISTER_FINISHED) {
          trace.rdma_registration_handle_finished({})
          return
        }
        await this.#serve(message, blocks)
      } catch (error) {
        throw error instanceof RdmaProtocolError ? this.#connection.fail(error) : error
      } finally {
        message.release()
      }
    }
  }

  async #serve(message: ControlMessage, blocks: readonly RamBlock[]): Promise<void> {
    const { type, data, repeat } = message
    switch (type) {
      case ControlType.RAM_BLOCKS_REQUEST:
        return this.#tellBlocks(blocks)
      case ControlType.COMPRESS:
        for (const [i, record] of decodeRecords(compress, type, data, repeat).entries()) this.#fill(record, i)
        return
      case ControlType.REGISTER_REQUEST: {
        trace.rdma_registration_handle_register({ requests: repeat })
        const results = decodeRecords(register, type, data, repeat).map((record, i) => this.#register(record, i))
        return this.#connection.answer(ControlType.REGISTER_RESULT, [encodeRecords(registerResult, results)], repeat)
      }
      case ControlType.UNREGISTER_REQUEST:
        trace.rdma_registration_handle_unregister({ requests: repeat })
        for (const [i, record] of decodeRecords(register, type, data, repeat).entries()) this.#unregister(record, i)
        return this.#connection.answer(ControlType.UNREGISTER_FINISHED)
      default:
        throw new RdmaProtocolError(controlName(type), 'it arrived where memory is exchanged', 4)
    }
  }

  /** In the order of the stream's list, which is how later messages count them. */
  #tellBlocks(blocks: readonly RamBlock[]): Promise<void> {
    if (this.#blocks.length > 0) throw new RdmaProtocolError('RAM_BLOCKS_REQUEST', 'the blocks are known already', 4)
    if (blocks.length === 0 || blocks.length > MAX_COMMANDS) {
      const problem = `the stream has listed ${blocks.length} blocks; 1 to ${MAX_COMMANDS} can be named`
      throw new RdmaProtocolError('RAM_BLOCKS_REQUEST', problem, 4)
    }
    trace.rdma_registration_handle_ram_blocks({})
    this.#blocks = blocks
    for (const [index, { idstr: name, offset, sizeBytes: length }] of blocks.entries()) {
      trace.rdma_block_notification_handle({ name, index })
      const facts = { name, offset, length, local_host_addr: offset, src_index: index }
      trace.rdma_registration_handle_ram_blocks_loop(facts)
    }
    this.#regions = blocks.map(({ bytes }) => (this.#pinAll ? [this.#pin(bytes)] : []))
    const results = blocks.map((block, i) => ({
      remoteHostAddress: this.#device.addressOf(block.bytes),
      offset: BigInt(block.offset),
      length: BigInt(block.sizeBytes),
      rkey: this.#pinAll ? this.#regions[i]![0]!.rkey : 0,
    }))
    return this.#connection.answer(ControlType.RAM_BLOCKS_RESULT, [encodeRecords(destBlock, results)])
  }

  #fill(record: { value: number; block: number; offset: bigint; length: bigint }, i: number): void {
    const name = `COMPRESS[${i}]`
    const block = this.#block(record.block, name, recordOffset(compress, i, 4))
    // Older destinations fill with any byte, newer ones refuse all but zero; nobody sends another.
    if (record.value !== 0) {
      throw new RdmaProtocolError(
        `${name}.value`,
        `0x${record.value.toString(16)}; only 0 is sent`,
        recordOffset(compress, i),
      )
    }
    const at = this.#within(block, record.offset, `${name}.offset`, compress, i, 8)
    trace.rdma_registration_handle_compress({ length: record.length, index: record.block, offset: at })
    if (record.length === 0n || record.length > BigInt(block.sizeBytes - at)) {
      const problem = `${record.length} bytes from 0x${at.toString(16)} of ${block.idstr}, which has ${block.sizeBytes}`
      throw new RdmaProtocolError(`${name}.length`, problem, recordOffset(compress, i, 16))
    }
    // Memory that nobody has touched stays untouched: writing zeros would make the host find room for it.
    for (let from = at, end = at + Number(record.length); from < end; from += block.pageBytes) {
      const page = block.bytes.subarray(from, Math.min(from + block.pageBytes, end))
      if (!isZero(page)) page.fill(0)
    }
  }

  #register(
    record: { address: bigint; block: number; chunks: bigint },
    i: number,
  ): { rkey: number; hostAddress: bigint } {
    const name = `REGISTER_REQUEST[${i}]`
    const block = this.#block(record.block, name, recordOffset(register, i, 8))
    if (this.#pinAll) throw new RdmaProtocolError(name, 'all memory is registered already', recordOffset(register, i))
    const chunk = chunkOf(this.#within(block, record.address, `${name}.address`, register, i, 0))
    const chunks = chunkCount(block.sizeBytes)
    if (record.chunks >= BigInt(chunks - chunk)) {
      const problem = `${record.chunks} more behind chunk ${chunk} of ${block.idstr}, which has ${chunks}`
      throw new RdmaProtocolError(`${name}.chunks`, problem, recordOffset(register, i, 16))
    }
    const start = chunk * CHUNK_BYTES
    const end = chunkEnd(chunk + Number(record.chunks), block.sizeBytes)
    const regions = this.#regions[record.block]!
    regions[chunk] ??= this.#pin(block.bytes.subarray(start, end))
    if (regions[chunk].length < end - start) {
      throw new RdmaProtocolError(
        `${name}.chunks`,
        'it is registered already, with fewer',
        recordOffset(register, i, 16),
      )
    }
    const { block: index, address: addr } = record
    trace.rdma_registration_handle_register_loop({ req: i, index, addr, chunks: record.chunks })
    trace.rdma_registration_handle_register_rkey({ rkey: regions[chunk].rkey })
    return { rkey: regions[chunk].rkey, hostAddress: this.#device.addressOf(block.bytes) }
  }

  #unregister(record: { address: bigint; block: number }, i: number): void {
    const name = `UNREGISTER_REQUEST[${i}]`
    const block = this.#block(record.block, name, recordOffset(register, i, 8))
    const regions = this.#regions[record.block]!
    const region = record.address < BigInt(chunkCount(block.sizeBytes)) ? regions[Number(record.address)] : undefined
    if (!region || this.#pinAll) {
      const problem = `chunk ${record.address} of ${block.idstr} is not registered`
      throw new RdmaProtocolError(`${name}.chunk`, problem, recordOffset(register, i))
    }
    const { block: index, address } = record
    trace.rdma_registration_handle_unregister_loop({ count: i, index, chunk: address })
    region.deregister()
    trace.rdma_registration_handle_unregister_success({ chunk: address })
    regions[Number(record.address)] = undefined
  }

  #block(index: number, name: string, offset: number): RamBlock {
    const block = this.#blocks[index]
    if (block) return block
    const problem = `block ${index}; ${this.#blocks.length} were exchanged`
    throw new RdmaProtocolError(`${name}.block_index`, problem, offset)
  }

  /** From an address in our numbering to one in the block. */
  #within(block: RamBlock, address: bigint, field: string, codec: RecordCodec<any>, i: number, at: number): number {
    const offset = address - BigInt(block.offset)
    if (offset >= 0n && offset < BigInt(block.sizeBytes)) return Number(offset)
    const problem = `0x${address.toString(16)} is outside of ${block.idstr}`
    throw new RdmaProtocolError(field, problem, recordOffset(codec, i, at))
  }

  #pin(bytes: Uint8Array): MemoryRegion {
    return this.#connection.domain.registerMemory(bytes, { localWrite: true, remoteWrite: true })
  }
}
