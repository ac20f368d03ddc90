import { bufferWriter, FerryError, type FieldDescription, type Vmstate, type VmstateDescription } from '@ferryvm/core'
import { check, checkSameBytes, type TestRunner, within } from '../runner.ts'
import { codecsOf, loadBytes, loadSlowly, saveBytes } from './engines.ts'
import { type GoldenStreams, readGoldenStreams } from './golden-streams.ts'

export interface VmstateComplianceOptions<S> {
  readonly vmstate: Vmstate<S>
  /** A fresh state as on the receiver. Default: `vmstate.createState()`. */
  create?(): S
  /** Changes everything that should survive: rows of every subsection too. */
  mutate(state: S): void
  /** What earlier releases sent still loads. */
  readonly streams?: GoldenStreams
}

/** The contract of a vmstate table. */
export function vmstateCompliance<S>({ describe, it }: TestRunner, options: VmstateComplianceOptions<S>): void {
  const { vmstate } = options
  const create = () => options.create?.() ?? vmstate.createState()
  const mutated = () => {
    const state = create()
    options.mutate(state)
    return state
  }

  describe(`vmstate '${vmstate.name}'`, () => {
    it('mutate changes the saved bytes (otherwise nothing below is tested)', async () => {
      for (const codec of await codecsOf(vmstate)) {
        const [before, after] = [saveBytes(codec, create()), saveBytes(codec, mutated())]
        check(!sameBytes(before, after), 'the bytes differ')
      }
    })

    it('all engines write the same bytes', async () => {
      const [first, ...others] = await codecsOf(vmstate)
      const expected = saveBytes(first!, mutated())
      for (const codec of others) checkSameBytes(saveBytes(codec, mutated()), expected, `engine ${codec.engine}`)
    })

    it('saving does not change what is saved next', async () => {
      for (const codec of await codecsOf(vmstate)) {
        const state = mutated()
        const first = saveBytes(codec, state)
        checkSameBytes(saveBytes(codec, state), first, 'the second save')
      }
    })

    it('what was saved is brought back, and every byte is used', async () => {
      for (const codec of await codecsOf(vmstate)) {
        const bytes = saveBytes(codec, mutated())
        const receiver = create()
        check(loadBytes(codec, receiver, bytes, vmstate.version) === 0, 'no byte is left over')
        checkSameBytes(saveBytes(codec, receiver), bytes, `saved again after a load, engine ${codec.engine}`)
      }
    })

    it('bytes may come one at a time', async () => {
      for (const codec of await codecsOf(vmstate)) {
        const bytes = saveBytes(codec, mutated())
        const receiver = create()
        await loadSlowly(codec, receiver, bytes, vmstate.version, bytes.length > 20_000 ? 97 : 1)
        checkSameBytes(saveBytes(codec, receiver), bytes, `engine ${codec.engine}`)
      }
    })

    it('a stream cut at any byte is an error and never a hang', async () => {
      const codecs = await codecsOf(vmstate)
      const bytes = saveBytes(codecs[0]!, mutated())
      for (const length of cuts(bytes.length)) {
        const said = new Set<string>()
        for (const codec of codecs) {
          const loading = loadSlowly(codec, create(), bytes.subarray(0, length), vmstate.version, 1009)
          said.add(await within(outcomeOf(loading), `cut after ${length} bytes`))
        }
        check(said.size === 1, `cut after ${length} bytes, the engines disagree: ${[...said].join(' / ')}`)
      }
    })

    it('a flipped bit loads or is an error of ours, never anything else', async () => {
      const codecs = await codecsOf(vmstate)
      const bytes = saveBytes(codecs[0]!, mutated())
      for (const at of cuts(bytes.length)) {
        const damaged = bytes.slice()
        damaged[at]! ^= 1 << (at % 8)
        for (const codec of codecs) {
          const loading = loadSlowly(codec, create(), damaged, vmstate.version, 4096)
          await within(outcomeOf(loading), `bit ${at % 8} of byte ${at} flipped`)
        }
      }
    })

    it('versions outside of its range are refused', async () => {
      for (const codec of await codecsOf(vmstate)) {
        for (const version of [vmstate.minimumVersion - 1, vmstate.version + 1].filter((v) => v >= 0)) {
          const said = await outcomeOf(loadSlowly(codec, create(), new Uint8Array(8), version, 8))
          check(said.includes('FERRY_VMSTATE_VERSION'), `version ${version}: ${said}`)
        }
      }
    })

    it('the description accounts for every byte', async () => {
      for (const codec of await codecsOf(vmstate)) {
        const out = bufferWriter()
        const description = codec.describe(mutated(), { out })
        checkSameBytes(out.bytes(), saveBytes(codec, mutated()), 'describe writes what save writes')
        const [described, saved] = [describedBytes(description), saveBytes(codec, mutated()).length]
        check(described === saved, `${described} bytes are described, ${saved} written`)
      }
    })

    it('resetState puts back what a fresh state has', async () => {
      if (options.create) return
      for (const codec of await codecsOf(vmstate)) {
        const state = mutated()
        vmstate.resetState(state)
        checkSameBytes(saveBytes(codec, state), saveBytes(codec, create()), 'after reset')
      }
    })

    it('streams of earlier releases load', async () => {
      for (const { name, version, bytes } of await readGoldenStreams(options.streams)) {
        for (const codec of await codecsOf(vmstate)) {
          check(loadBytes(codec, create(), bytes, version) === 0, `${name}: no byte is left over`)
        }
      }
    })
  })
}

/** 'loaded', or code and message of an error. @throws the error if it is none of ours */
async function outcomeOf(loading: Promise<void>): Promise<string> {
  try {
    await loading
    return 'loaded'
  } catch (error) {
    check(FerryError.isInstance(error), `a FerryError, not ${error}`)
    return `${error.code} ${error.message}`
  }
}

/** Every length of a small stream, about 300 of a large one. */
export function cuts(length: number): number[] {
  const step = Math.max(1, Math.floor(length / 300))
  return Array.from({ length: Math.ceil(length / step) }, (_, i) => i * step)
}

const sameBytes = (a: Uint8Array, b: Uint8Array) => a.length === b.length && a.every((byte, i) => byte === b[i])

function describedBytes({ fields, subsections }: VmstateDescription): number {
  const own = fields.reduce((sum, field) => sum + fieldBytes(field), 0)
  const text = new TextEncoder()
  const nested = (subsections ?? []).map((sub) => 2 + text.encode(sub.vmsd_name).length + 4 + describedBytes(sub))
  return own + nested.reduce((sum, bytes) => sum + bytes, 0)
}

/** One size stands for all elements of a compressed array. */
const fieldBytes = ({ size, array_len }: FieldDescription): number => size * (array_len ?? 1)
