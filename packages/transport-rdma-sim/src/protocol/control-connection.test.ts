import { afterEach, describe, expect, it } from 'vitest'
import { inProcessFabric } from '../software/in-process-fabric.ts'
import { softwareDevice } from '../software/software-device.ts'
import type { RdmaDevice } from '../verbs/verbs.ts'
import { connectionParameters } from './connection-parameters.ts'
import { ControlConnection } from './control-connection.ts'
import { ControlType } from './control-message.ts'

const { signal } = new AbortController()
const open: ControlConnection[] = []
afterEach(async () => {
  for (const control of open.splice(0)) await control.close()
})

/** A device whose completions are looked at only when `gate.open` resolves. */
function slowToLook(device: RdmaDevice, gate: { open: Promise<void> }): RdmaDevice {
  return {
    ...device,
    createCompletionQueue(depth) {
      const queue = device.createCompletionQueue(depth)
      const wait = queue.wait.bind(queue)
      return Object.assign(queue, {
        async wait() {
          await wait()
          await gate.open
        },
      })
    },
  }
}

async function connected() {
  const fabric = inProcessFabric()
  const gate = { open: Promise.resolve() }
  const near = slowToLook(softwareDevice(fabric), gate)
  const far = softwareDevice(fabric, { acknowledgeTimeoutMs: 50 })
  const [reader, speaker] = [new ControlConnection(near), new ControlConnection(far)]
  open.push(reader, speaker)
  const options = { privateData: connectionParameters({ pinAll: false }), retryCount: 1, receiverNotReadyRetryCount: 0 }
  const listener = await near.connections.listen({ host: 'here', port: 0 }, { signal })
  const accepting = listener.next().then((request) => request!.accept({ ...options, queuePair: reader.queuePair }))
  const dialed = { ...options, queuePair: speaker.queuePair, timeoutMs: 5000, signal }
  speaker.connected(await far.connections.connect(listener.address, dialed))
  reader.connected(await accepting)
  await listener.close()
  return { reader, speaker, gate }
}

describe('what was acknowledged to the peer', () => {
  it('is still read when the connection is broken off before anybody looked', async () => {
    const { reader, speaker, gate } = await connected()
    const reading = reader.receive()
    await new Promise((resolve) => setImmediate(resolve))
    const looked = Promise.withResolvers<void>()
    gate.open = looked.promise
    // Settles when the reader's device has it: the peer relies on it from here on.
    await speaker.send(ControlType.QEMU_FILE, [Uint8Array.of(1, 2, 3)])
    reader.breakOff(new Error('the other connection is lost'))
    looked.resolve()
    expect([...(await reading).data]).toEqual([1, 2, 3])
    expect(reader.failure).toMatchObject({ message: 'the other connection is lost' })
  })

  it('is all: nothing is acknowledged from then on', async () => {
    const { reader, speaker } = await connected()
    const reading = reader.receive()
    reading.catch(() => {})
    await new Promise((resolve) => setImmediate(resolve))
    reader.breakOff(new Error('the other connection is lost'))
    await expect(speaker.send(ControlType.QEMU_FILE, [Uint8Array.of(1)])).rejects.toThrow()
    await expect(reading).rejects.toThrow('the other connection is lost')
  })
})
