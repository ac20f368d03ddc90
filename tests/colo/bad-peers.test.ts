/** Peers of a COLO pair that lie, differ or do not know it: refused in words, and the guest that ran keeps running. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Colo, ColoPrimaryLink, ColoSecondaryLink } from '@ferryvm/migration'
import { afterAll, describe, expect, it } from 'vitest'
import { createSides, type SidesOptions, until, verdict } from './colo-pair.ts'

const folder = mkdtempSync(join(tmpdir(), 'ferryvm-colo-'))
afterAll(() => rmSync(folder, { recursive: true }))
const MiB = 2 ** 20

/** A COLO with one of its parts replaced. */
const replacing =
  (side: string, part: (colo: Colo) => Partial<Colo>): SidesOptions['replaced'] =>
  (name, colo) =>
    name === side
      ? {
          get status() {
            return colo.status
          },
          prepare: () => colo.prepare(),
          primary: (link) => colo.primary(link),
          secondary: (link) => colo.secondary(link),
          lostHeartbeat: () => colo.lostHeartbeat(),
          stop: () => colo.stop(),
          onExit: (listener) => colo.onExit(listener),
          ...part(colo),
        }
      : colo

async function end({ here, there }: Awaited<ReturnType<typeof createSides>>): Promise<void> {
  await here.vm[Symbol.asyncDispose]()
  await there.vm[Symbol.asyncDispose]()
}

describe('a COLO peer', { timeout: 120_000 }, () => {
  it('that acknowledges a checkpoint before it has it is left, and the guest goes on here', async () => {
    const secondary = async ({ reader, writer }: ColoSecondaryLink) => {
      writer.putBe32(0)
      await writer.flush()
      await reader.fill(4)
      // checkpoint-reply, vmstate-received, vmstate-loaded
      for (const id of [2, 5, 6]) writer.putBe32(id)
      await writer.flush()
      for (;;) {
        await reader.fill(1)
        if (reader.ended) throw new Error('found out')
        reader.skip(reader.available)
      }
    }
    const sides = await createSides(folder, { guarded: true, replaced: replacing('second', () => ({ secondary })) })
    const { here, guest, checkpoints } = sides
    await here.vm.migration.start(sides.uri).done
    await expect(sides.arrived).rejects.toThrow()
    expect(checkpoints).toEqual([])
    expect(sides.exits).toEqual(['first: primary request'])
    await verdict(here.vm, guest)
    await end(sides)
  })

  it.each<[string, (link: ColoSecondaryLink) => Promise<void>]>([
    [
      'that speaks when it has nothing to say',
      async ({ writer }) => {
        for (const id of [0, 2, 2]) writer.putBe32(id)
        await writer.flush()
      },
    ],
    [
      'that says what is no message',
      async ({ writer }) => {
        for (const id of [0, 0xdead_beef]) writer.putBe32(id)
        await writer.flush()
      },
    ],
  ])('%s is left, and the guest goes on here', async (_, speak) => {
    const secondary = async (link: ColoSecondaryLink) => {
      await speak(link)
      while (!link.reader.ended) {
        await link.reader.fill(1)
        link.reader.skip(link.reader.available)
      }
      throw new Error('found out')
    }
    const sides = await createSides(folder, { guarded: true, replaced: replacing('second', () => ({ secondary })) })
    const { here, guest } = sides
    // Before the first checkpoint it is a migration that fails, after it COLO that ends: the guest runs here either way.
    await here.vm.migration.start(sides.uri).done.catch((error) => expect(error.code).toBe('FERRY_COLO_PROTOCOL'))
    await expect(sides.arrived).rejects.toThrow()
    await verdict(here.vm, guest)
    await end(sides)
  })

  it.each([
    ['that never says that it is ready', [] as number[]],
    ['that never replies', [0]],
  ])('%s does not hold the guest for ever', async (_, words) => {
    const over = Promise.withResolvers<never>()
    const secondary = async ({ writer }: ColoSecondaryLink) => {
      for (const id of words) writer.putBe32(id)
      await writer.flush()
      await over.promise
    }
    const sides = await createSides(folder, {
      both: { answerTimeoutMs: 500 },
      replaced: replacing('second', () => ({ secondary })),
    })
    const { here, guest } = sides
    await expect(here.vm.migration.start(sides.uri).done).rejects.toThrow(/silent for 500 ms/)
    await verdict(here.vm, guest)
    over.reject(new Error('over'))
    await expect(sides.arrived).rejects.toThrow()
    await end(sides)
  })

  it('with less RAM is no secondary', async () => {
    const sides = await createSides(folder, { guarded: true, secondRamBytes: 16 * MiB })
    const { here, there, guest } = sides
    const { done } = here.vm.migration.start(sides.uri)
    await expect(sides.arrived).rejects.toThrow(/the sender's block has 0x2000000 bytes, ours 0x1000000/)
    await expect(done).rejects.toThrow()
    expect(there.vm.machine.runState).toBe('inmigrate')
    await verdict(here.vm, guest)
    await end(sides)
  })

  it('that knows no COLO is no secondary, and says what to switch on', async () => {
    const sides = await createSides(folder, { guarded: true, secondKnowsColo: false })
    const { here, there, guest } = sides
    const { done } = here.vm.migration.start(sides.uri)
    await expect(sides.arrived).rejects.toThrow(/switch the capability x-colo on here too/)
    await expect(done).rejects.toThrow()
    expect(there.vm.machine.runState).toBe('inmigrate')
    await verdict(here.vm, guest)
    await end(sides)
  })

  it.each([
    ['of another machine', (bytes: Uint8Array) => (bytes[6]! ^= 0x20)],
    [
      'of a release that is newer than its own',
      (bytes: Uint8Array) => {
        // Of the first section: type, id, the idstr with its length, instance_id, version_id.
        new DataView(bytes.buffer, bytes.byteOffset).setUint32(6 + bytes[5]! + 4, 99)
      },
    ],
    ['that ends too early', (bytes: Uint8Array) => bytes.fill(0, bytes.length >> 1)],
  ])('gets a checkpoint %s: it stops for good, and the guest goes on here', async (_, damage) => {
    let count = 0
    const primary = (colo: Colo) => ({
      primary: (link: ColoPrimaryLink) =>
        colo.primary(
          Object.create(link, {
            deviceState: {
              async value() {
                const bytes = await link.deviceState()
                if (++count === 4) damage(bytes)
                return bytes
              },
            },
          }),
        ),
    })
    const sides = await createSides(folder, { guarded: true, replaced: replacing('first', primary) })
    const { here, there, guest } = sides
    const { done } = here.vm.migration.start(sides.uri)
    await expect(sides.arrived).rejects.toMatchObject({ code: 'FERRY_COLO_CHECKPOINT' })
    await done
    await until(() => sides.exits.length === 2, 'both reported it')
    expect(sides.checkpoints.length).toBe(3)
    expect(there.vm.machine.runState).toBe('postmigrate')
    await verdict(here.vm, guest)
    await end(sides)
  })
})
