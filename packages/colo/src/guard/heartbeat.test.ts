import { type Channel, silentLogger } from '@ferryvm/core'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { loopTransport } from '../../../compliance/src/layer/loop-transport.ts'
import type { Fence } from './fence.ts'
import { type HeartbeatOptions, heartbeatGuard } from './heartbeat.ts'

const SESSION = '00112233445566778899aabbccddeeff'
const open: AsyncDisposable[] = []
afterEach(async () => {
  vi.restoreAllMocks()
  for (const guard of open.splice(0)) await guard[Symbol.asyncDispose]()
})

const pass = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))
const freeFence = (): Fence => ({ check: async () => {}, claim: async () => true, lost: false })

async function guardOf(transport: ReturnType<typeof loopTransport>, options: Partial<HeartbeatOptions> = {}) {
  const paths = ['a', 'b'].map((address) => ({ transport, address }))
  const guard = await heartbeatGuard({ paths, session: SESSION, fence: freeFence(), intervalMs: 10, ...options })
  open.push(guard)
  return guard
}

/** A heartbeat as somebody else would send it. */
function frameOf(session: string, role: number): Uint8Array {
  return Uint8Array.of(0x46, 0x56, 0x48, 0x42, 1, ...Buffer.from(session, 'hex'), role)
}

describe('heartbeatGuard', () => {
  it('a clock that jumps ahead by an hour, as after a long sleep, makes nobody lost', async () => {
    const transport = loopTransport()
    const lost = vi.fn()
    const options = { timeoutMs: 20_000 }
    const [secondary, primary] = [await guardOf(transport, options), await guardOf(transport, options)]
    await secondary.begin('secondary', silentLogger, lost)
    await primary.begin('primary', silentLogger, lost)
    await pass(100)
    const now = performance.now.bind(performance)
    for (const hours of [1, 5, 2]) {
      vi.spyOn(performance, 'now').mockImplementation(() => now() + hours * 3_600_000)
      await pass(150)
    }
    expect(lost).not.toHaveBeenCalled()
  })

  it.each([
    ['of another session', 'ff'.repeat(16), 1],
    ['of a second machine in the same role', SESSION, 2],
  ])('a heartbeat %s is a stranger’s: hung up on, and no sign of life', async (_, session, role) => {
    const transport = loopTransport()
    const lost = Promise.withResolvers<string>()
    const guard = await guardOf(transport, { timeoutMs: 300 })
    await guard.begin('secondary', silentLogger, lost.resolve)
    const context = { signal: new AbortController().signal, log: silentLogger }
    let refused = 0
    let over = false
    const talking = (async () => {
      while (!over) {
        const stranger: Channel = await transport.connect('a', context)
        await stranger.write([frameOf(session, role)])
        const read = await Promise.resolve(stranger.read(new Uint8Array(1))).catch(() => 0)
        if (read === 0) refused++
        await stranger.close()
        await pass(5)
      }
    })()
    expect(await lost.promise).toMatch(/no sign of life on all 2 heartbeat paths/)
    over = true
    await talking
    expect(refused).toBeGreaterThan(0)
  })

  it('is refused a session that is none, no path at all, and a fence that is taken', async () => {
    const transport = loopTransport()
    await expect(guardOf(transport, { session: 'secret' })).rejects.toThrow(/32 hexadecimal digits/)
    await expect(guardOf(transport, { paths: [] })).rejects.toThrow(/at least one path/)
    const check = async () => {
      throw new Error('taken')
    }
    await expect(guardOf(transport, { fence: { ...freeFence(), check } })).rejects.toThrow('taken')
  })
})
