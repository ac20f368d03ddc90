import { bufferReader, bufferWriter } from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import { expect as expectMessage, MAX_DEVICE_STATE_BYTES, MESSAGES, receiveDeviceState } from './messages.ts'

function announced(bytes: bigint, ...contents: number[]) {
  const f = bufferWriter()
  f.putBe32(MESSAGES.indexOf('vmstate-size'))
  f.putBe64(bytes)
  f.putBuffer(Uint8Array.from(contents))
  return bufferReader(f.bytes())
}

describe('messages of COLO', () => {
  it('bring device state of the announced size', async () => {
    expect([...(await receiveDeviceState(announced(3n, 1, 2, 3)))]).toEqual([1, 2, 3])
  })

  it('more device state than is taken is refused before there is memory for it', async () => {
    for (const bytes of [BigInt(MAX_DEVICE_STATE_BYTES) + 1n, 2n ** 64n - 1n]) {
      await expect(receiveDeviceState(announced(bytes))).rejects.toMatchObject({ code: 'FERRY_COLO_PROTOCOL' })
    }
    await expect(receiveDeviceState(announced(4n, 1))).rejects.toMatchObject({ code: 'FERRY_STREAM_TRUNCATED' })
  })

  it('another message than is due is named, with its offset', async () => {
    const f = bufferWriter()
    for (const id of [1, 77]) f.putBe32(id)
    const reader = bufferReader(f.bytes())
    await expect(expectMessage(reader, 'checkpoint-reply')).rejects.toThrow(
      'expected checkpoint-reply and got checkpoint-request (offset 0x0)',
    )
    await expect(expectMessage(reader, 'checkpoint-reply')).rejects.toThrow('an unknown message, 77 (offset 0x4)')
  })
})
