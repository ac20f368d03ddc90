import { describe, expect, it } from 'vitest'
import { all, FABRICS, localhost, part, verbsPair } from '../testing/verbs-pair-testing.ts'
import { VerbsQueueFullError, VerbsResourceError, VerbsStateError } from '../verbs/errors.ts'
import type { Frame } from './frame.ts'
import { FrameKind } from './frame.ts'
import type { Fabric, Link } from './link.ts'
import { softwareDevice } from './software-device.ts'

const bytesOf = (length: number, seed = 1) => Uint8Array.from({ length }, (_, i) => (i * 7 + seed) & 0xff)
const never = new AbortController().signal

/** Frames for which `lose` says so do not arrive. */
function lossy(fabric: Fabric, lose: (frame: Frame) => boolean): Fabric {
  const wrap = (link: Link): Link => ({
    get receiver() {
      return link.receiver
    },
    set receiver(receiver) {
      link.receiver = receiver
    },
    get heardAt() {
      return link.heardAt
    },
    remoteAddress: link.remoteAddress,
    send: (frame, payload) => (lose(frame) ? undefined : link.send(frame, payload)),
    close: () => link.close(),
    destroy: () => link.destroy(),
  })
  return { ...fabric, dial: async (address, signal) => wrap(await fabric.dial(address, signal)) }
}

describe.each(FABRICS)('verbs over the %s fabric', (_, make) => {
  it('a send lands in the oldest posted receive, gathered and scattered, with its immediate', async () => {
    const [a, b] = await verbsPair({ fabric: make() })
    const out = a.register(bytesOf(300))
    const into = b.register(new Uint8Array(400))
    const bytes = new Uint8Array(400)
    b.queuePair.postReceive({ id: 7n, scatter: [part(into, 300, 100), part(into, 0, 300)] })
    a.queuePair.postSend({
      id: 1n,
      opcode: 'send',
      gather: [part(out, 200, 100), part(out, 0, 150)],
      immediate: 0xfedc_ba98,
    })
    expect(await b.next()).toMatchObject({
      id: 7n,
      status: 'success',
      opcode: 'receive',
      byteLength: 250,
      immediate: 0xfedc_ba98,
    })
    expect(await a.next()).toMatchObject({ id: 1n, status: 'success', opcode: 'send' })
    // What arrived can be sent back from where it landed.
    const back = a.register(bytes)
    a.queuePair.postReceive({ id: 8n, scatter: [all(back)] })
    b.queuePair.postSend({ id: 2n, opcode: 'send', gather: [part(into, 300, 100), part(into, 0, 150)] })
    await a.next()
    expect(bytes.subarray(0, 250)).toEqual(
      Uint8Array.from([...bytesOf(300).subarray(200, 300), ...bytesOf(300).subarray(0, 150)]),
    )
  })

  it('a write lands where the peer allowed it, costs no receive, and one with an immediate costs one', async () => {
    const [a, b] = await verbsPair({ fabric: make() })
    const target = new Uint8Array(new SharedArrayBuffer(3 << 20), 4096, 2 << 20)
    const [out, into] = [a.register(bytesOf(1 << 20)), b.register(target)]
    b.queuePair.postReceive({ id: 9n, scatter: [] })
    const write = { opcode: 'write' as const, gather: [all(out)] }
    a.queuePair.postSend({ id: 1n, ...write, remote: { address: into.address + 5n, rkey: into.rkey } })
    a.queuePair.postSend({
      id: 2n,
      ...write,
      remote: { address: into.address + (1n << 20n), rkey: into.rkey },
      immediate: 3,
    })
    expect(await a.next()).toMatchObject({ id: 1n, status: 'success', opcode: 'write' })
    expect(await b.next()).toMatchObject({ id: 9n, opcode: 'receive-write', byteLength: 1 << 20, immediate: 3 })
    const sent = Buffer.from(bytesOf(1 << 20))
    expect(sent.subarray(0, -5).equals(target.subarray(5, 1 << 20))).toBe(true)
    expect(sent.equals(target.subarray(1 << 20))).toBe(true)
    await a.next()
    a.queuePair.postSend({ id: 3n, ...write, remote: { address: into.address, rkey: into.rkey }, immediate: 4 })
    expect(await a.next()).toMatchObject({ id: 3n, status: 'receiver-not-ready-exceeded' })
  })

  it.each([
    ['an unknown key', 0n, 1, 16],
    ['the first byte before the region', -1n, 0, 16],
    ['the last byte behind it', 4096n - 15n, 0, 16],
    ['an address far away', 2n ** 63n, 0, 16],
    ['a length beyond it', 0n, 0, 4097],
  ])(
    'a write with %s is refused, breaks both queue pairs and changes nothing',
    async (_what, offset, keyOff, length) => {
      const [a, b] = await verbsPair({ fabric: make() })
      const target = new Uint8Array(8192)
      const [out, into] = [a.register(bytesOf(8192)), b.register(target.subarray(2048, 2048 + 4096))]
      const events: string[] = []
      b.device.onAsyncEvent(({ kind }) => events.push(kind))
      b.queuePair.postReceive({ id: 5n, scatter: [] })
      const remote = { address: into.address + offset, rkey: (into.rkey + keyOff) >>> 0 }
      a.queuePair.postSend({ id: 1n, opcode: 'write', gather: [part(out, 0, length)], remote })
      a.queuePair.postSend({ id: 2n, opcode: 'write', gather: [], remote: { address: into.address, rkey: into.rkey } })
      expect([await a.next(), await a.next()].map(({ id, status }) => [id, status])).toEqual([
        [1n, 'remote-access-error'],
        [2n, 'work-request-flushed'],
      ])
      expect(await b.next()).toMatchObject({ id: 5n, status: 'work-request-flushed' })
      expect([a.queuePair.state, b.queuePair.state, events]).toEqual(['error', 'error', ['queue-pair-access-error']])
      expect(target.every((byte) => byte === 0)).toBe(true)
    },
  )

  it('a region without remoteWrite, of another domain, or deregistered takes no write', async () => {
    for (const spoil of ['access', 'domain', 'deregister']) {
      const [a, b] = await verbsPair({ fabric: make() })
      const out = a.register(bytesOf(16))
      const domain = spoil === 'domain' ? b.device.allocateProtectionDomain() : b.domain
      const into = domain.registerMemory(new Uint8Array(16), { localWrite: true, remoteWrite: spoil !== 'access' })
      if (spoil === 'deregister') into.deregister()
      a.queuePair.postSend({ id: 1n, opcode: 'write', gather: [all(out)], remote: into })
      expect((await a.next()).status, spoil).toBe('remote-access-error')
    }
  })

  it('a local key that does not cover its range fails in its turn', async () => {
    const [a, b] = await verbsPair({ fabric: make() })
    const out = a.register(bytesOf(64))
    const into = b.register(new Uint8Array(64))
    b.queuePair.postReceive({ id: 1n, scatter: [all(into)] })
    a.queuePair.postSend({ id: 1n, opcode: 'send', gather: [all(out)] })
    a.queuePair.postSend({ id: 2n, opcode: 'send', gather: [part(out, 32, 33)] })
    a.queuePair.postSend({ id: 3n, opcode: 'send', gather: [all(out)] })
    const completions = [await a.next(), await a.next(), await a.next()].map(({ id, status }) => [id, status])
    expect(completions).toEqual([
      [1n, 'success'],
      [2n, 'local-protection-error'],
      [3n, 'work-request-flushed'],
    ])
  })

  it('a message longer than its receive breaks the connection on both sides', async () => {
    const [a, b] = await verbsPair({ fabric: make() })
    const out = a.register(bytesOf(65))
    const target = new Uint8Array(64)
    b.queuePair.postReceive({ id: 1n, scatter: [all(b.register(target))] })
    a.queuePair.postSend({ id: 1n, opcode: 'send', gather: [all(out)] })
    expect((await a.next()).status).toBe('remote-invalid-request')
    expect((await b.next()).status).toBe('local-length-error')
    expect(target.every((byte) => byte === 0)).toBe(true)
  })

  it('completes in the order of posting, and a full queue takes more only after polling', async () => {
    const [a, b] = await verbsPair({ fabric: make(), maxSendWork: 4, maxReceiveWork: 8 })
    const out = a.register(bytesOf(8))
    for (let i = 0n; i < 8n; i++) b.queuePair.postReceive({ id: i, scatter: [all(b.register(new Uint8Array(8)))] })
    expect(() => b.queuePair.postReceive({ id: 9n, scatter: [] })).toThrow(VerbsQueueFullError)
    const send = (id: bigint, signaled = true) =>
      a.queuePair.postSend({ id, opcode: 'send', gather: [all(out)], signaled })
    for (const id of [0n, 1n, 2n]) send(id, false)
    send(3n)
    expect(() => send(4n)).toThrow(VerbsQueueFullError)
    await a.completions.wait()
    expect(() => send(4n), 'completed, but not polled').toThrow(VerbsQueueFullError)
    expect((await a.next()).id, 'the three before it were not signalled').toBe(3n)
    for (const id of [4n, 5n, 6n, 7n]) send(id)
    expect([await a.next(), await a.next(), await a.next(), await a.next()].map(({ id }) => id)).toEqual([
      4n,
      5n,
      6n,
      7n,
    ])
    for (let i = 0n; i < 8n; i++) expect((await b.next()).id).toBe(i)
  })

  it('keeps to its states', async () => {
    const [a] = await verbsPair({ fabric: make() })
    const fresh = a.device.createQueuePair({
      domain: a.domain,
      sendCompletions: a.completions,
      receiveCompletions: a.completions,
      maxSendWork: 1,
      maxReceiveWork: 1,
    })
    expect(() => fresh.postReceive({ id: 1n, scatter: [] })).toThrow(VerbsStateError)
    expect(() => fresh.postSend({ id: 1n, opcode: 'send', gather: [] })).toThrow(VerbsStateError)
    expect(() => fresh.modify('rts')).toThrow(VerbsStateError)
    fresh.modify('init')
    fresh.postReceive({ id: 1n, scatter: [] })
    expect(() => fresh.postSend({ id: 2n, opcode: 'send', gather: [] })).toThrow(/state init does not send/)
    fresh.modify('error')
    fresh.postSend({ id: 2n, opcode: 'send', gather: [], signaled: false })
    expect([await a.next(), await a.next()].map(({ id, status }) => [id, status])).toEqual([
      [1n, 'work-request-flushed'],
      [2n, 'work-request-flushed'],
    ])
    expect(() => a.queuePair.postSend({ id: 1n, opcode: 'write', gather: [] })).toThrow(/address and key/)
  })

  it('a receiver that is not ready is asked again, as often as agreed', async () => {
    const [a, b] = await verbsPair({ fabric: make(), receiverNotReadyRetryCount: 7 })
    const out = a.register(bytesOf(16))
    const into = b.register(new Uint8Array(16))
    for (const id of [1n, 2n]) a.queuePair.postSend({ id, opcode: 'send', gather: [all(out)] })
    await new Promise((resolve) => setTimeout(resolve, 40))
    expect(a.completions.poll()).toEqual([])
    for (const id of [1n, 2n]) b.queuePair.postReceive({ id, scatter: [all(into)] })
    expect([(await b.next()).id, (await b.next()).id]).toEqual([1n, 2n])
    expect([await a.next(), await a.next()].map(({ id, status }) => [id, status])).toEqual([
      [1n, 'success'],
      [2n, 'success'],
    ])
    const [c] = await verbsPair({ fabric: make(), receiverNotReadyRetryCount: 2 })
    c.queuePair.postSend({ id: 1n, opcode: 'send', gather: [] })
    expect((await c.next()).status).toBe('receiver-not-ready-exceeded')
  })

  it('a queue pair that broke is silent, and its peer gives up after its repetitions', async () => {
    const [a, b] = await verbsPair({ fabric: make(), retryCount: 2 })
    b.queuePair.modify('error')
    a.queuePair.postSend({ id: 1n, opcode: 'send', gather: [] })
    expect((await a.next()).status).toBe('retry-exceeded')
    expect(a.queuePair.state).toBe('error')
  })

  it('lost requests and acknowledgements are repeated, and nothing arrives twice', async () => {
    let lose = 0
    const fabric = lossy(make(), ({ kind }) => kind >= FrameKind.SEND && lose > 0 && lose-- > 0)
    const [a, b] = await verbsPair({ fabric, retryCount: 3 })
    const [out, into] = [a.register(bytesOf(16)), b.register(new Uint8Array(16))]
    for (const id of [1n, 2n, 3n]) b.queuePair.postReceive({ id, scatter: [all(into)] })
    lose = 1
    for (const id of [1n, 2n]) a.queuePair.postSend({ id, opcode: 'send', gather: [all(out)] })
    expect([(await a.next()).status, (await a.next()).status]).toEqual(['success', 'success'])
    // The other way round only what `a` sends is lost: its acknowledgement.
    a.queuePair.postReceive({ id: 9n, scatter: [] })
    a.queuePair.postReceive({ id: 10n, scatter: [] })
    lose = 2
    b.queuePair.postSend({ id: 4n, opcode: 'send', gather: [] })
    expect([(await b.next()).id, (await b.next()).id, (await b.next()).id]).toEqual([1n, 2n, 4n])
    expect(a.completions.poll().map(({ id }) => id)).toEqual([9n])
    lose = 100
    a.queuePair.postSend({ id: 5n, opcode: 'send', gather: [] })
    expect((await a.next()).status).toBe('retry-exceeded')
  })

  it('a completion queue that overruns breaks its queue pairs and says so', async () => {
    const [a, b] = await verbsPair({ fabric: make(), depth: 2 })
    const events: string[] = []
    a.device.onAsyncEvent(({ kind }) => events.push(kind))
    for (const id of [1n, 2n]) b.queuePair.postReceive({ id, scatter: [] })
    for (const id of [1n, 2n]) a.queuePair.postSend({ id, opcode: 'send', gather: [] })
    await b.next()
    await b.next()
    b.queuePair.postReceive({ id: 3n, scatter: [] })
    a.queuePair.postSend({ id: 3n, opcode: 'send', gather: [] })
    await b.next()
    await expect.poll(() => events).toEqual(['completion-queue-overrun'])
    expect(a.queuePair.state).toBe('error')
    expect(a.completions.poll().map(({ id }) => id)).toEqual([1n, 2n])
  })

  it('a goodbye comes after everything that was sent, and flushes what is left', async () => {
    const [a, b] = await verbsPair({ fabric: make() })
    const out = a.register(bytesOf(16))
    for (const id of [1n, 2n]) b.queuePair.postReceive({ id, scatter: [all(b.register(new Uint8Array(16)))] })
    a.queuePair.postSend({ id: 1n, opcode: 'send', gather: [all(out)] })
    await a.connection.disconnect()
    expect(await b.connection.disconnected).toBe('peer')
    expect(await a.connection.disconnected).toBe('local')
    expect([await b.next(), await b.next()].map(({ id, status }) => [id, status])).toEqual([
      [1n, 'success'],
      [2n, 'work-request-flushed'],
    ])
    expect([a.queuePair.state, b.queuePair.state]).toEqual(['error', 'error'])
  })

  it('the removal of a device ends its connections, and the peer notices', async () => {
    const [a, b] = await verbsPair({ fabric: make() })
    const events: string[] = []
    a.device.onAsyncEvent(({ kind }) => events.push(kind))
    a.device.remove()
    expect([await a.connection.disconnected, await b.connection.disconnected]).toEqual(['device', 'lost'])
    expect([events, a.queuePair.state, b.queuePair.state]).toEqual([['device-fatal'], 'error', 'error'])
    expect(() => a.device.createCompletionQueue(1)).toThrow(VerbsResourceError)
  })

  it('a peer from which nothing is heard is gone', async () => {
    let silent = false
    const fabric = lossy(make(), () => silent)
    const device = { keepAliveMs: 20, silenceMs: 150 }
    const [a, b] = await verbsPair({ fabric, device })
    await new Promise((resolve) => setTimeout(resolve, 400))
    expect([a.queuePair.state, b.queuePair.state], 'signs of life keep an idle connection up').toEqual(['rts', 'rts'])
    silent = true
    expect(await b.connection.disconnected).toBe('lost')
    expect(await a.connection.disconnected).toBe('lost')
  })

  it('has bounds on what it is asked for', async () => {
    const fabric = make()
    const device = softwareDevice(fabric, { limits: { maxMemoryRegions: 1, maxCompletions: 4, maxQueuePairWork: 4 } })
    expect(() => device.createCompletionQueue(5)).toThrow(/5 completions; the device has 4/)
    const domain = device.allocateProtectionDomain()
    const region = domain.registerMemory(new Uint8Array(1), {})
    expect(() => domain.registerMemory(new Uint8Array(1), {})).toThrow(VerbsResourceError)
    region.deregister()
    region.deregister()
    domain.registerMemory(new Uint8Array(1), {})
    domain.deallocate()
    domain.registerMemory(new Uint8Array(1), {})
    expect(() => domain.registerMemory(new Uint8Array(1), { remoteWrite: true })).toThrow(VerbsResourceError)
  })

  it('connecting fails in words: nobody there, refused, no answer in time, given up', async () => {
    const fabric = make()
    const [near, far] = [softwareDevice(fabric), softwareDevice(fabric)]
    const listener = await far.connections.listen(localhost, { signal: never })
    await expect(far.connections.listen(listener.address, { signal: never })).rejects.toThrow(/the address is in use/)
    const connect = (signal = never, timeoutMs = 5000) => {
      const domain = near.allocateProtectionDomain()
      const queue = near.createCompletionQueue(1)
      const queuePair = near.createQueuePair({
        domain,
        sendCompletions: queue,
        receiveCompletions: queue,
        maxSendWork: 1,
        maxReceiveWork: 1,
      })
      queuePair.modify('init')
      const privateData = Uint8Array.of(1, 2, 3)
      const common = { privateData, retryCount: 1, receiverNotReadyRetryCount: 0 }
      return near.connections.connect(listener.address, { queuePair, ...common, signal, timeoutMs })
    }
    const refused = connect()
    const request = (await listener.next())!
    expect([...request.privateData]).toEqual([1, 2, 3])
    request.reject()
    await expect(refused).rejects.toThrow(/the peer refused/)
    await expect(connect(never, 50)).rejects.toThrow(/no answer within 50 ms/)
    const controller = new AbortController()
    const given = connect(controller.signal)
    controller.abort(new Error('enough'))
    await expect(given).rejects.toThrow(/given up/)
    await listener.close()
    await expect(connect()).rejects.toThrow(/nothing listens there/)
    expect(await listener.next()).toBeUndefined()
  })
})
