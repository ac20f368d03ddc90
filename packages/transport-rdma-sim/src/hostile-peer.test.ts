/** A peer that does what no correct one does: refused in words, nothing outside of what was allowed is touched. */
import { connect as netConnect } from 'node:net'
import { type Channel, GuestMemory, PAGE_BYTES, type RamBlock, silentLogger } from '@ferryvm/core'
import { afterEach, describe, expect, it } from 'vitest'
import { connectionParameters } from './protocol/connection-parameters.ts'
import { ControlConnection } from './protocol/control-connection.ts'
import { CONTROL_HEADER_BYTES, ControlType, writeControlHeader } from './protocol/control-message.ts'
import { compress, destBlock, encodeRecords, register, registerResult } from './protocol/records.ts'
import { rdma } from './rdma.ts'
import { encodeFrame, FrameKind, frame } from './software/frame.ts'
import { inProcessFabric } from './software/in-process-fabric.ts'
import { socketFabric } from './software/socket-fabric.ts'
import { type SoftwareDevice, softwareDevice } from './software/software-device.ts'
import type { ConnectionRequest } from './verbs/verbs.ts'

const MiB = 2 ** 20
const signal = new AbortController().signal
const context = { signal, log: silentLogger }
const times = { acknowledgeTimeoutMs: 50 }
const open: { close(): unknown }[] = []
afterEach(async () => {
  for (const thing of open.splice(0)) await thing.close()
})

function guestBlocks(): RamBlock[] {
  const memory = new GuestMemory()
  const blocks = [memory.addBlock('ram', 3 * MiB + PAGE_BYTES), memory.addBlock('rom', 2 * PAGE_BYTES)]
  for (const { bytes } of blocks) bytes.fill(0x11)
  return blocks
}
const untouched = (blocks: readonly RamBlock[]) => blocks.every(({ bytes }) => bytes.every((byte) => byte === 0x11))

async function dial(device: SoftwareDevice, address: { host: string; port: number }, privateData: Uint8Array) {
  const control = new ControlConnection(device)
  const common = { retryCount: 1, receiverNotReadyRetryCount: 0, timeoutMs: 5000, signal }
  const { queuePair } = control
  control.connected(await device.connections.connect(address, { queuePair, privateData, ...common }))
  open.push(control)
  return control
}

/** A destination of ours, and a source that can say anything. */
async function hostileSource({ pinAll = false } = {}) {
  const fabric = inProcessFabric()
  const [near, far] = [softwareDevice(fabric, times), softwareDevice(fabric, times)]
  const transport = rdma({ device: far, returnPath: false })
  const listener = await transport.listen({ host: 'here', port: 0 }, context)
  const control = await dial(near, listener.address, connectionParameters({ pinAll }))
  const channel = (await listener[Symbol.asyncIterator]().next()).value as Channel
  open.push(channel)
  await listener[Symbol.asyncDispose]()
  const blocks = guestBlocks()
  const serving = channel.ramHooks!.receiver!.receive(blocks)
  serving.catch(() => {})
  const known = async () => {
    const message = await control.ask(ControlType.RAM_BLOCKS_REQUEST, ControlType.RAM_BLOCKS_RESULT)
    const results = [0, 1].map((i) => destBlock.read(new DataView(message.data.slice().buffer, i * 32, 32)))
    message.release()
    return results
  }
  return { near, control, channel, blocks, serving, known }
}

const at = (block: RamBlock, offset: number) => BigInt(block.offset + offset)

describe('a hostile source', () => {
  type Send = (blocks: RamBlock[]) => [type: ControlType, data?: Uint8Array, repeat?: number]
  const reg = (address: bigint, block = 0, chunks = 0n): [ControlType, Uint8Array] => [
    ControlType.REGISTER_REQUEST,
    encodeRecords(register, [{ address, block, chunks }]),
  ]
  const zero = (offset: bigint, length: bigint, block = 0, value = 0): [ControlType, Uint8Array] => [
    ControlType.COMPRESS,
    encodeRecords(compress, [{ value, block, offset, length }]),
  ]
  it.each<[string, Send, RegExp]>([
    [
      'a block that does not exist',
      ([ram]) => reg(at(ram!, 0), 2),
      /REGISTER_REQUEST\[0\]\.block_index: block 2; 2 were exchanged/,
    ],
    [
      'an address below its block',
      ([ram]) => reg(at(ram!, -1)),
      /REGISTER_REQUEST\[0\]\.address: .* is outside of ram \(byte 16/,
    ],
    ['an address behind its block', ([ram]) => reg(at(ram!, ram!.sizeBytes)), /is outside of ram/],
    ['an absurd address', () => reg(2n ** 64n - 1n), /is outside of ram/],
    [
      'more chunks than there are',
      ([ram]) => reg(at(ram!, MiB), 0, 3n),
      /REGISTER_REQUEST\[0\]\.chunks: 3 more behind chunk 1 of ram, which has 4/,
    ],
    ['2^63 more chunks', ([ram]) => reg(at(ram!, 0), 0, 2n ** 63n), /chunks: 9223372036854775808 more/],
    [
      'a chunk to unregister that is not',
      () => [ControlType.UNREGISTER_REQUEST, encodeRecords(register, [{ address: 1n, block: 0, chunks: 0n }])],
      /UNREGISTER_REQUEST\[0\]\.chunk: chunk 1 of ram is not registered/,
    ],
    [
      'a chunk to unregister far away',
      () => [ControlType.UNREGISTER_REQUEST, encodeRecords(register, [{ address: 2n ** 62n, block: 0, chunks: 0n }])],
      /is not registered/,
    ],
    [
      'zeros behind a block',
      ([, rom]) => zero(at(rom!, PAGE_BYTES), BigInt(PAGE_BYTES + 1), 1),
      /COMPRESS\[0\]\.length: 4097 bytes from 0x1000 of rom, which has 8192 \(byte 32/,
    ],
    ['no zeros at all', ([ram]) => zero(at(ram!, 0), 0n), /COMPRESS\[0\]\.length: 0 bytes/],
    ['a fill that is not zero', ([ram]) => zero(at(ram!, 0), 4096n, 0, 7), /COMPRESS\[0\]\.value: 0x7; only 0 is sent/],
    [
      'half a record',
      () => [ControlType.REGISTER_REQUEST, new Uint8Array(12)],
      /1 records of 24 bytes are announced, and 12 bytes arrived/,
    ],
    [
      'more records than it brings',
      () => [ControlType.REGISTER_REQUEST, new Uint8Array(24), 2],
      /2 records of 24 bytes are announced, and 24 bytes arrived/,
    ],
    [
      'more records than are allowed',
      () => [ControlType.REGISTER_REQUEST, new Uint8Array(24 * 4097), 4097],
      /header\.repeat: 4097 records; at most 4096 are allowed/,
    ],
    [
      'a count of 2^32 - 1',
      () => [ControlType.REGISTER_REQUEST, new Uint8Array(24), 2 ** 32 - 1],
      /header\.repeat: 4294967295 records/,
    ],
    ['an unknown type', () => [99 as ControlType], /header\.type: 99 is unknown/],
    [
      'an answer',
      () => [ControlType.REGISTER_RESULT, new Uint8Array(16)],
      /REGISTER_RESULT: it arrived where memory is exchanged/,
    ],
    [
      'stream where memory is due',
      () => [ControlType.QEMU_FILE, new Uint8Array(10)],
      /QEMU_FILE: it arrived where memory is exchanged/,
    ],
    [
      'the blocks a second time',
      () => [ControlType.RAM_BLOCKS_REQUEST],
      /RAM_BLOCKS_REQUEST: the blocks are known already/,
    ],
    ['ERROR', () => [ControlType.ERROR], /the peer reported an error and gave up/],
  ])('that sends %s is refused', async (_, send, message) => {
    const { control, channel, blocks, serving, known } = await hostileSource()
    await known()
    const [type, data, repeat] = send(blocks)
    await control.send(type, data && [data], repeat)
    await expect(serving).rejects.toThrow(message)
    expect(untouched(blocks)).toBe(true)
    // It hears of it, too.
    await channel.close(new Error('refused'))
    await control.over
    expect(control.failure!.message).toMatch(/reported an error|closed/)
  })

  it('that registers before the blocks were exchanged, or with pin-all, is refused', async () => {
    const early = await hostileSource()
    await early.control.send(ControlType.REGISTER_REQUEST, [
      encodeRecords(register, [{ address: 0n, block: 0, chunks: 0n }]),
    ])
    await expect(early.serving).rejects.toThrow(/block 0; 0 were exchanged/)
    const pinned = await hostileSource({ pinAll: true })
    await pinned.known()
    const [type, data] = reg(at(pinned.blocks[0]!, 0))
    await pinned.control.send(type, [data])
    await expect(pinned.serving).rejects.toThrow(/all memory is registered already/)
  })

  it('that speaks without a READY is refused', async () => {
    const { control, channel } = await hostileSource()
    // The destination has asked for one message, and gets two.
    const bytes = new Uint8Array(CONTROL_HEADER_BYTES)
    writeControlHeader(bytes, { type: ControlType.REGISTER_FINISHED, length: 0, repeat: 1 })
    const { address, length, lkey } = control.domain.registerMemory(bytes, {})
    for (const id of [1n, 2n])
      control.queuePair.postSend({ id: 2000n, opcode: 'send', gather: [{ address, length, lkey }], signaled: id > 2n })
    await new Promise((resolve) => setTimeout(resolve, 50))
    await expect(Promise.resolve(channel.read(new Uint8Array(10)))).rejects.toThrow(
      /REGISTER_FINISHED: it was sent without a READY/,
    )
  })

  it.each<[string, (key: number, address: bigint) => { rkey: number; address: bigint; length: number }]>([
    ['with a key that was never registered', (key, address) => ({ rkey: key ^ 1, address, length: PAGE_BYTES })],
    [
      'past its region, into memory that is not registered',
      (rkey, address) => ({ rkey, address: address + BigInt(MiB), length: PAGE_BYTES }),
    ],
    ['over the end of its region', (rkey, address) => ({ rkey, address: address + BigInt(MiB - 1), length: 2 })],
    ['in front of its region', (rkey, address) => ({ rkey, address: address - 1n, length: 2 })],
  ])('that writes %s is cut off, and nothing was written', async (_, spoil) => {
    const { control, blocks, serving, known } = await hostileSource()
    const [ram] = await known()
    const [type, data] = reg(at(blocks[0]!, 0))
    const message = await control.ask(type, ControlType.REGISTER_RESULT, [data])
    const { rkey } = registerResult.read(new DataView(message.data.slice().buffer))
    message.release()
    const bytes = new Uint8Array(PAGE_BYTES).fill(0xee)
    const region = control.domain.registerMemory(bytes, {})
    const target = spoil(rkey, ram!.remoteHostAddress)
    control.write({ address: region.address, length: target.length, lkey: region.lkey }, target, 0, 0)
    await control.over
    expect(control.failure!.message).toMatch(/does not allow that memory to be written/)
    await expect(serving).rejects.toThrow(/the peer wrote to memory that is not registered for it/)
    expect(untouched(blocks)).toBe(true)
  })

  it('that sends more of the stream than one message may hold is refused', async () => {
    const { control, serving, channel } = await hostileSource()
    await control.send(ControlType.REGISTER_FINISHED)
    await serving
    const sent = control.send(ControlType.QEMU_FILE, [new Uint8Array(32_769)]).catch(() => {})
    await expect(Promise.resolve(channel.read(new Uint8Array(10)))).rejects.toThrow(
      /QEMU_FILE: 32769 bytes of the stream/,
    )
    await sent
  })
})

describe('a hostile destination', () => {
  /** A source of ours, and a destination that answers as `script` says. */
  async function hostileDestination(script: (control: ControlConnection, step: number) => Promise<unknown>) {
    const fabric = inProcessFabric()
    const [near, far] = [softwareDevice(fabric, times), softwareDevice(fabric, times)]
    const listener = await far.connections.listen({ host: 'there', port: 0 }, { signal })
    const control = new ControlConnection(far)
    open.push(control)
    const channel = rdma({ device: near, returnPath: false }).connect(listener.address, context)
    const request = (await listener.next()) as ConnectionRequest
    const privateData = connectionParameters({ pinAll: false })
    const common = { retryCount: 1, receiverNotReadyRetryCount: 0 }
    control.connected(await request.accept({ queuePair: control.queuePair, privateData, ...common }))
    void (async () => {
      for (let step = 0; ; step++) {
        const message = await control.receive()
        message.release()
        await script(control, step)
      }
    })().catch(() => {})
    const connected = await channel
    open.push(connected)
    const blocks = guestBlocks()
    return { sender: connected.ramHooks!.sender!, channel: connected, blocks }
  }
  const results = (blocks: readonly RamBlock[], change = {}) =>
    encodeRecords(
      destBlock,
      blocks.map(({ offset, sizeBytes }) => ({
        remoteHostAddress: 4096n,
        offset: BigInt(offset),
        length: BigInt(sizeBytes),
        rkey: 0,
        ...change,
      })),
    )
  const answerBlocks = (control: ControlConnection) =>
    control.answer(ControlType.RAM_BLOCKS_RESULT, [results(guestBlocks())])

  it.each<[string, (control: ControlConnection) => Promise<unknown>, RegExp]>([
    [
      'one block too few',
      (c) => c.answer(ControlType.RAM_BLOCKS_RESULT, [results(guestBlocks().slice(1))]),
      /has 1 blocks, 2 are sent/,
    ],
    [
      'blocks of another size',
      (c) => c.answer(ControlType.RAM_BLOCKS_RESULT, [results(guestBlocks(), { length: 1n })]),
      /RAM_BLOCKS_RESULT\[0\]\.length: ram has \d+ bytes here and 1 at the destination/,
    ],
    [
      'a broken list',
      (c) => c.answer(ControlType.RAM_BLOCKS_RESULT, [new Uint8Array(40)]),
      /1 records of 32 bytes are announced, and 40 bytes arrived/,
    ],
    [
      'something else',
      (c) => c.answer(ControlType.UNREGISTER_FINISHED),
      /UNREGISTER_FINISHED: it arrived where RAM_BLOCKS_RESULT was due/,
    ],
    ['ERROR', (c) => c.answer(ControlType.ERROR), /the peer reported an error/],
    ['nothing, and goes', (c) => c.close(), /the peer closed the connection/],
  ])('that answers with %s ends the migration', async (_, answer, message) => {
    const { sender, blocks } = await hostileDestination(answer)
    await expect(sender.begin('setup', blocks)).rejects.toThrow(message)
  })

  it.each<[string, (control: ControlConnection) => Promise<unknown>, RegExp]>([
    [
      'two keys for one chunk',
      (c) => c.answer(ControlType.REGISTER_RESULT, [new Uint8Array(32)], 2),
      /2 results for one request/,
    ],
    ['no key', (c) => c.answer(ControlType.REGISTER_RESULT, [], 0), /0 results for one request/],
    [
      'another place',
      (c) => c.answer(ControlType.REGISTER_RESULT, [encodeRecords(registerResult, [{ rkey: 1, hostAddress: 1n }])]),
      /ram has moved/,
    ],
    [
      'a key that does not exist',
      (c) => c.answer(ControlType.REGISTER_RESULT, [encodeRecords(registerResult, [{ rkey: 1, hostAddress: 4096n }])]),
      /does not allow that memory to be written/,
    ],
  ])('that answers a registration with %s ends the migration', async (_, answer, message) => {
    const { sender, blocks } = await hostileDestination((control, step) =>
      step === 0 ? answerBlocks(control) : answer(control),
    )
    await sender.begin('setup', blocks)
    await sender.savePage(blocks[0]!, 0, PAGE_BYTES)
    await expect(sender.end('setup')).rejects.toThrow(message)
  })

  it('that never asks for more holds the source up until it is given up', async () => {
    const { channel } = await hostileDestination(() => new Promise(() => {}))
    await channel.write([new Uint8Array(10)])
    await channel.write([new Uint8Array(10)])
    const stuck = channel.write([new Uint8Array(10)])
    const waits = Promise.race([stuck, new Promise((resolve) => setTimeout(resolve, 100, 'waits'))])
    expect(await waits).toBe('waits')
    await channel.close(new Error('enough'))
    await expect(stuck).rejects.toThrow(/enough/)
  })
})

describe('a peer that connects', () => {
  const version = (n: number, flags = 0) => Uint8Array.from([0, 0, 0, n, 0, 0, 0, flags])

  it.each([
    ['version 0', version(0)],
    ['version 2', version(2)],
    ['no parameters', new Uint8Array(3)],
  ])('with %s is refused, and the next one is taken', async (_, privateData) => {
    const fabric = inProcessFabric()
    const [near, far] = [softwareDevice(fabric), softwareDevice(fabric)]
    const warnings: string[] = []
    const log = { ...silentLogger, warn: (message: string) => void warnings.push(message) }
    const listener = await rdma({ device: far, returnPath: false }).listen({ host: 'x', port: 0 }, { signal, log })
    await expect(dial(near, listener.address, privateData)).rejects.toThrow(/the peer refused/)
    expect(warnings.join()).toMatch(/connection parameters: (version \d; only 1 is known|3 bytes; 8 are expected)/)
    // Flags that nobody knows are not granted.
    const device = softwareDevice(fabric)
    const control = new ControlConnection(device)
    const common = { retryCount: 1, receiverNotReadyRetryCount: 0, timeoutMs: 5000, signal }
    const connection = await device.connections.connect(listener.address, {
      queuePair: control.queuePair,
      privateData: version(1, 0xff),
      ...common,
    })
    expect([...connection.privateData.subarray(0, 8)]).toEqual([...version(1, 1)])
    control.connected(connection)
    open.push(control, (await listener[Symbol.asyncIterator]().next()).value as Channel)
    await listener[Symbol.asyncDispose]()
  })

  it('over a socket with anything but a request is dropped: rubbish, a queue pair that is not there, no word', async () => {
    const far = softwareDevice(socketFabric(), { requestMs: 200 })
    const listener = await far.connections.listen({ host: '127.0.0.1', port: 0 }, { signal })
    const { port } = listener.address
    const dropped = async (...parts: Uint8Array[]) => {
      const socket = netConnect(port, '127.0.0.1')
      socket.on('error', () => {})
      for (const part of parts) socket.write(part)
      await new Promise((resolve) => socket.once('close', resolve))
    }
    await dropped(new Uint8Array(64).fill(0x41))
    await dropped(encodeFrame(frame(FrameKind.SEND, { length: 16 })), new Uint8Array(16))
    await dropped(encodeFrame(frame(FrameKind.WRITE, { length: 2 ** 31, key: 1 })))
    await dropped() // says nothing: gone after requestMs
    // A request whose private data is a gigabyte is not kept: only what fits is.
    const long = netConnect(port, '127.0.0.1')
    long.on('error', () => {})
    long.write(encodeFrame(frame(FrameKind.CONNECT_REQUEST, { length: 2 ** 30 })))
    await new Promise((resolve) => long.once('close', resolve))
    const near = softwareDevice(socketFabric())
    const connecting = dial(near, listener.address, connectionParameters({ pinAll: false }))
    const request = (await listener.next())!
    request.reject()
    await expect(connecting).rejects.toThrow(/the peer refused/)
    await listener.close()
  })
})
