import type { RamBlock, RamHookSender, RamPhase } from '@ferryvm/core'
import { RdmaProtocolError } from '../errors.ts'
import type { MemoryRegion } from '../verbs/verbs.ts'
import { CHUNK_BYTES, chunkCount, chunkEnd, chunkOf } from './chunks.ts'
import { type ControlConnection, MAX_OUTSTANDING_WRITES } from './control-connection.ts'
import { ControlType, MAX_COMMANDS } from './control-message.ts'
import { trace } from './rdma-trace.ts'
import {
  compress,
  type DestBlock,
  decodeRecords,
  destBlock,
  encodeRecords,
  recordOffset,
  register,
  registerResult,
} from './records.ts'
import { isZero } from './zero-memory.ts'

/** Adjacent pages up to this become one write. A write stays within its chunk, too. */
const MAX_MERGED_BYTES = 2 << 20

interface SentBlock {
  readonly block: RamBlock
  readonly index: number
  readonly remote: DestBlock
  /** Of the destination, by chunk; 0: not registered there. */
  readonly remoteKeys: Uint32Array
  /** Ours, by chunk; with pin-all one for all in place 0. */
  readonly regions: (MemoryRegion | undefined)[]
  /** By chunk: a write is under way. */
  readonly writing: Uint8Array
}

interface Run {
  readonly sent: SentBlock
  readonly offset: number
  bytes: number
}

export interface RamSenderOptions {
  readonly pinAll: boolean
  /** After each phase the chunks are unregistered again on both sides. */
  readonly unregister: boolean
}

/** The source's half of moving pages by RDMA writes. Spec: protocol.md section 11, "RAM stream" and "Pages". */
export class RamSender implements RamHookSender {
  readonly stats = { bytes: 0, zeroPages: 0 }
  readonly #connection: ControlConnection
  readonly #options: RamSenderOptions
  #blocks: SentBlock[] = []
  readonly #byBlock = new Map<RamBlock, SentBlock>()
  #run: Run | undefined
  #outstanding = 0
  #waiting: { resolve(): void; reject(error: Error): void } | undefined

  constructor(connection: ControlConnection, options: RamSenderOptions) {
    this.#connection = connection
    this.#options = options
    connection.onWritten = (block, chunk) => {
      this.#blocks[block]!.writing[chunk] = 0
      this.#outstanding--
      this.#waiting?.resolve()
    }
    connection.onFailed = (error) => this.#waiting?.reject(error)
  }

  async begin(phase: RamPhase, blocks: readonly RamBlock[]): Promise<void> {
    trace.rdma_registration_start({ flags: PHASE_FLAGS[phase] })
    if (phase === 'setup') await this.#exchangeBlocks(blocks)
  }

  savePage(block: RamBlock, offset: number, bytes: number): void | Promise<void> {
    const sent = this.#byBlock.get(block)
    if (!sent) throw new RangeError(`${block.idstr} was not among the blocks of this migration`)
    const run = this.#run
    if (run && this.#extends(run, sent, offset, bytes)) {
      run.bytes += bytes
      return
    }
    this.#run = { sent, offset, bytes }
    if (run) return this.#write(run)
  }

  async end(phase: RamPhase): Promise<void> {
    const run = this.#run
    this.#run = undefined
    if (run) await this.#write(run)
    while (this.#outstanding > 0) await this.#oneWritten()
    trace.qemu_rdma_write_flush({ sent: this.#outstanding })
    if (this.#options.unregister) await this.#unregister()
    await this.#connection.send(ControlType.REGISTER_FINISHED)
    trace.rdma_registration_stop({ flags: PHASE_FLAGS[phase] })
  }

  #extends(run: Run, sent: SentBlock, offset: number, bytes: number): boolean {
    if (sent !== run.sent || offset !== run.offset + run.bytes) return false
    const end = chunkEnd(chunkOf(run.offset), sent.block.sizeBytes)
    return offset + bytes <= end && run.bytes + bytes <= MAX_MERGED_BYTES
  }

  async #exchangeBlocks(blocks: readonly RamBlock[]): Promise<void> {
    if (blocks.length > MAX_COMMANDS) throw new RangeError(`${blocks.length} RAM blocks; ${MAX_COMMANDS} can be named`)
    const { pinAll } = this.#options
    trace.qemu_rdma_init_ram_blocks({ blocks: blocks.length })
    trace.rdma_registration_stop_ram({})
    const ours = blocks.map((block) => (pinAll ? this.#register(block, 0, block.sizeBytes) : undefined))
    const message = await this.#connection.ask(ControlType.RAM_BLOCKS_REQUEST, ControlType.RAM_BLOCKS_RESULT)
    const remotes = decodeRecords(destBlock, ControlType.RAM_BLOCKS_RESULT, message.data, blocksIn(message.data))
    message.release()
    if (remotes.length !== blocks.length) {
      const problem = `the destination has ${remotes.length} blocks, ${blocks.length} are sent`
      throw this.#refuse(new RdmaProtocolError('RAM_BLOCKS_RESULT', problem, 0))
    }
    this.#blocks = blocks.map((block, index) => {
      const remote = remotes[index]!
      if (remote.length !== BigInt(block.sizeBytes)) {
        const problem = `${block.idstr} has ${block.sizeBytes} bytes here and ${remote.length} at the destination`
        const field = `RAM_BLOCKS_RESULT[${index}].length`
        throw this.#refuse(new RdmaProtocolError(field, problem, recordOffset(destBlock, index, 16)))
      }
      const chunks = chunkCount(block.sizeBytes)
      traceBlock(block, index, chunks)
      return {
        block,
        index,
        remote,
        remoteKeys: new Uint32Array(chunks),
        regions: pinAll ? [ours[index]] : [],
        writing: new Uint8Array(chunks),
      }
    })
    for (const sent of this.#blocks) this.#byBlock.set(sent.block, sent)
  }

  #write(run: Run): void | Promise<void> {
    const { sent, offset } = run
    const chunk = chunkOf(offset)
    trace.qemu_rdma_write_one_top({ chunks: 1, size: run.bytes })
    const registered = this.#options.pinAll || sent.remoteKeys[chunk] !== 0
    if (registered && !sent.writing[chunk] && this.#outstanding < MAX_OUTSTANDING_WRITES) this.#post(run, chunk)
    else return this.#writeLater(run, chunk)
  }

  async #writeLater(run: Run, chunk: number): Promise<void> {
    const { sent, offset, bytes } = run
    while (sent.writing[chunk]) {
      this.#traceWait(run, chunk)
      await this.#oneWritten()
    }
    if (!this.#options.pinAll && sent.remoteKeys[chunk] === 0) {
      if (isZero(sent.block.bytes.subarray(offset, offset + bytes))) {
        const record = { value: 0, block: sent.index, offset: this.#remoteOffset(sent, offset), length: BigInt(bytes) }
        trace.qemu_rdma_write_one_zero({ chunk, len: bytes, index: sent.index, offset })
        await this.#connection.send(ControlType.COMPRESS, [encodeRecords(compress, [record])])
        this.stats.zeroPages += bytes / sent.block.pageBytes
        return
      }
      await this.#registerRemote(sent, offset, chunk)
    }
    while (this.#outstanding >= MAX_OUTSTANDING_WRITES) {
      trace.qemu_rdma_write_one_queue_full({})
      await this.#oneWritten()
    }
    this.#post(run, chunk)
  }

  async #registerRemote(sent: SentBlock, offset: number, chunk: number): Promise<void> {
    const record = { address: this.#remoteOffset(sent, offset), block: sent.index, chunks: 0n }
    trace.qemu_rdma_write_one_sendreg({ chunk, len: sent.block.pageBytes, index: sent.index, offset })
    const message = await this.#connection.ask(ControlType.REGISTER_REQUEST, ControlType.REGISTER_RESULT, [
      encodeRecords(register, [record]),
    ])
    const [result] = decodeRecords(registerResult, ControlType.REGISTER_RESULT, message.data, message.repeat)
    message.release()
    if (!result || message.repeat !== 1) {
      throw this.#refuse(new RdmaProtocolError('REGISTER_RESULT', `${message.repeat} results for one request`, 8))
    }
    if (result.hostAddress !== sent.remote.remoteHostAddress) {
      const problem = `${sent.block.idstr} has moved since RAM_BLOCKS_RESULT`
      throw this.#refuse(
        new RdmaProtocolError('REGISTER_RESULT[0].host_addr', problem, recordOffset(registerResult, 0, 8)),
      )
    }
    sent.remoteKeys[chunk] = result.rkey
    trace.qemu_rdma_write_one_recvregres({ mykey: sent.regions[chunk]?.lkey ?? 0, theirkey: result.rkey, chunk })
  }

  #post({ sent, offset, bytes }: Run, chunk: number): void {
    const { block, remote } = sent
    const { pinAll } = this.#options
    const place = pinAll ? 0 : chunk
    const start = chunk * CHUNK_BYTES
    sent.regions[place] ??= this.#register(block, start, chunkEnd(chunk, block.sizeBytes))
    const region = sent.regions[place]
    const address = region.address + BigInt(pinAll ? offset : offset - start)
    const rkey = pinAll ? remote.rkey : sent.remoteKeys[chunk]!
    const to = { address: remote.remoteHostAddress + BigInt(offset), rkey }
    trace.qemu_rdma_write_one_post({ chunk, addr: address, remote: to.address, len: bytes })
    this.#connection.write({ address, length: bytes, lkey: region.lkey }, to, sent.index, chunk)
    sent.writing[chunk] = 1
    this.#outstanding++
    this.stats.bytes += bytes
  }

  async #unregister(): Promise<void> {
    if (this.#options.pinAll) return
    for (const sent of this.#blocks) {
      for (let chunk = 0; chunk < sent.remoteKeys.length; chunk++) {
        if (sent.remoteKeys[chunk] === 0) continue
        const record = { address: BigInt(chunk), block: sent.index, chunks: 0n }
        trace.qemu_rdma_unregister_waiting_proc({ chunk, pos: 0 })
        trace.qemu_rdma_unregister_waiting_send({ chunk })
        const message = await this.#connection.ask(ControlType.UNREGISTER_REQUEST, ControlType.UNREGISTER_FINISHED, [
          encodeRecords(register, [record]),
        ])
        message.release()
        sent.remoteKeys[chunk] = 0
        sent.regions[chunk]?.deregister()
        sent.regions[chunk] = undefined
        trace.qemu_rdma_unregister_waiting_complete({ chunk })
      }
    }
  }

  #traceWait({ sent, offset, bytes }: Run, chunk: number): void {
    trace.qemu_rdma_write_one_block({
      count: 1,
      block: sent.index,
      chunk,
      current: offset,
      len: bytes,
      nb_sent: this.#outstanding,
      nb_chunks: sent.writing.length,
    })
  }

  #register(block: RamBlock, start: number, end: number): MemoryRegion {
    trace.qemu_rdma_register_and_get_keys({ len: end - start, start: block.offset + start })
    return this.#connection.domain.registerMemory(block.bytes.subarray(start, end), {})
  }

  /** In the destination's numbering. */
  #remoteOffset(sent: SentBlock, offset: number): bigint {
    return sent.remote.offset + BigInt(offset)
  }

  #refuse(error: RdmaProtocolError): Error {
    return this.#connection.fail(error)
  }

  /** Waits until a write was completed, or the connection failed. */
  async #oneWritten(): Promise<void> {
    if (this.#connection.failure) throw this.#connection.failure
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    this.#waiting = { resolve, reject }
    await promise
  }
}

/** As QEMU counts the phases of a section. */
const PHASE_FLAGS: Readonly<Record<RamPhase, number>> = { setup: 0, round: 1, finish: 3 }

function traceBlock({ idstr, offset, sizeBytes }: RamBlock, block: number, chunks: number): void {
  trace.rdma_add_block({
    block_name: idstr,
    block,
    addr: offset,
    offset,
    len: sizeBytes,
    end: offset + sizeBytes,
    bits: Math.ceil(chunks / 8),
    chunks,
  })
}

/** The answer is one record, as `repeat` says, of as many blocks as fit its length. */
const blocksIn = (data: Uint8Array): number => Math.floor(data.length / destBlock.bytes)
