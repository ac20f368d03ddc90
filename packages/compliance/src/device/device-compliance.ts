import { compileVmstate, type DeviceSpec, FerryError } from '@ferryvm/core'
import { check, checkSameBytes, failureOf, type TestRunner, within } from '../runner.ts'
import { codecsOf, loadBytes, loadSlowly, saveBytes } from '../vmstate/engines.ts'
import { type GoldenStreams, readGoldenStreams } from '../vmstate/golden-streams.ts'
import { cuts } from '../vmstate/vmstate-compliance.ts'
import { DeviceHost, type HostOptions } from './device-host.ts'

export interface DeviceComplianceOptions extends HostOptions {
  /** The device as a user would write it. */
  create(): DeviceSpec
  /** Something that a guest can do and that must survive a migration. Not needed by a device without state. */
  mutate?(host: DeviceHost): void | Promise<void>
  /** What a guest sees afterwards; compared before and after a migration. Reads only. */
  observe?(host: DeviceHost): unknown
  /** What earlier releases sent: `<section>.v<version>.bin` still loads into the section of that name. */
  readonly streams?: GoldenStreams
}

type Saved = readonly { readonly name: string; readonly bytes: Uint8Array }[]

/** The contract of a device. */
export function deviceCompliance({ describe, it }: TestRunner, options: DeviceComplianceOptions): void {
  async function withHost<T>(run: (host: DeviceHost) => T | Promise<T>): Promise<T> {
    const host = await DeviceHost.create(options.create(), options)
    try {
      host.reset()
      return await run(host)
    } finally {
      await host.close()
    }
  }
  const withMutated = <T>(run: (host: DeviceHost) => T | Promise<T>): Promise<T> =>
    withHost(async (host) => {
      await options.mutate?.(host)
      await host.device.quiesce?.()
      return run(host)
    })

  const { definition } = options.create()
  const kind = 'kind' in definition.migration ? definition.migration.kind : 'vmstate'
  const migrates = kind === 'vmstate' || kind === 'registers-itself'

  describe(`device '${definition.type}'`, () => {
    it('says how it migrates', () =>
      withHost((host) => {
        if (kind === 'unmigratable') check((definition.migration as { reason: string }).reason !== '', 'with a reason')
        if (kind === 'stateless' || kind === 'unmigratable') {
          check(host.vmstates.length === 0, 'and registers no state after all')
        } else check(host.vmstates.length > 0, 'and has at least one table')
      }))

    it('props that are not right are refused with issues, not with an exception', async () => {
      const schema = definition.props['~standard']
      for (const nonsense of [null, 5, 'x', { noSuchOption: 1 }]) {
        const result = await schema.validate(nonsense)
        check('issues' in result || 'value' in result, 'validate returns a value or issues')
      }
    })

    it('two devices share nothing', () =>
      withHost(async (first) => {
        const before = saveAll(first)
        await withMutated(() => checkSame(saveAll(first), before, 'the first device'))
      }))

    it('reset brings back the state after power-on', () =>
      withHost(async (host) => {
        const before = saveAll(host)
        await options.mutate?.(host)
        await host.device.quiesce?.()
        host.reset()
        checkSame(saveAll(host), before, 'after reset')
      }))

    it('stops and goes on as often as one likes', () =>
      withMutated(async (host) => {
        const before = saveAll(host)
        for (let i = 0; i < 3; i++) {
          host.device.resume?.()
          await within(host.device.quiesce?.(), 'quiesce resolves')
        }
        checkSame(saveAll(host), before, 'a device that nobody talked to')
      }))

    it('any access to its registers is the guest’s business: logged, never thrown', () =>
      withHost((host) => {
        for (const { sizeBytes, region } of host.regions) {
          const sizes = (region.sizes ?? [1, 2, 4]).filter((size): size is 1 | 2 | 4 => size !== 8)
          const step = Math.max(4, Math.floor(sizeBytes / 2048) & ~3)
          for (const size of sizes) {
            for (let offset = 0; offset + size <= sizeBytes; offset += offset < 256 ? size : step) {
              const value = region.read(offset, size)
              check(Number.isInteger(value), `read(${offset}, ${size}) is a number, not ${value}`)
              for (const written of [0, 2 ** (8 * size) - 1]) region.write(offset, size, written)
            }
          }
        }
        host.reset()
      }))

    if (!migrates) return

    it('mutate changes the saved bytes (otherwise nothing below is tested)', () =>
      withHost(async (host) => {
        check(options.mutate, 'a device with state needs `mutate`')
        const before = saveAll(host)
        await options.mutate(host)
        await host.device.quiesce?.()
        const after = saveAll(host)
        check(
          after.some(({ bytes }, i) => !equal(bytes, before[i]?.bytes)),
          'some section differs',
        )
      }))

    it('another device continues where this one was stopped', () =>
      withMutated(async (source) => {
        const saved = saveAll(source)
        const seen = options.observe?.(source)
        await withHost(async (destination) => {
          loadAll(destination, saved)
          checkSame(saveAll(destination), saved, 'saved again after a load')
          destination.device.resume?.()
          await destination.device.quiesce?.()
          const sees = options.observe?.(destination)
          check(show(sees) === show(seen), `the guest sees ${show(sees)}, before the migration ${show(seen)}`)
        })
      }))

    it('loads over whatever it did before', () =>
      withMutated(async (host) => {
        const saved = saveAll(host)
        host.reset()
        loadAll(host, saved)
        checkSame(saveAll(host), saved, 'back to the snapshot')
      }))

    it('its interrupt lines are what the source’s were', () =>
      withMutated(async (source) => {
        const levels = [...source.irqLevels].filter(([, level]) => level).map(([index]) => index)
        if (levels.length === 0) return
        const saved = saveAll(source)
        await withHost((destination) => {
          loadAll(destination, saved)
          for (const index of destination.irqLevels.keys()) {
            if (destination.irq(index)) check(levels.includes(index), `line ${index} was low on the source`)
          }
        })
      }))

    it('both engines of its tables agree byte for byte', () =>
      withMutated(async (host) => {
        for (const { vmstate, state } of host.vmstates) {
          const [first, ...others] = await codecsOf(vmstate)
          const expected = saveBytes(first!, state)
          for (const codec of others)
            checkSameBytes(saveBytes(codec, state), expected, `${vmstate.name}, ${codec.engine}`)
        }
      }))

    it('a stream cut at any byte is an error and never a hang', () =>
      withMutated(async (source) => {
        const saved = saveAll(source)
        await withHost(async (host) => {
          for (const [i, { name, bytes }] of saved.entries()) {
            const { vmstate, state } = host.vmstates[i]!
            const codec = compileVmstate(vmstate)
            for (const length of cuts(bytes.length)) {
              const loading = loadSlowly(codec, state, bytes.subarray(0, length), vmstate.version, 4096)
              const error = await within(
                loading.catch((e: unknown) => e),
                `${name} cut after ${length} bytes`,
              )
              // Cut just before a subsection, what is left is a whole section: the footer will be missed.
              check(error === undefined || FerryError.isInstance(error), `a FerryError, not ${error}`)
            }
            if (bytes.length > 0)
              await failureOf(() => loadBytes(codec, state, new Uint8Array(), vmstate.version), name)
          }
        })
      }))

    it('streams of earlier releases load', async () => {
      for (const { name, version, bytes } of await readGoldenStreams(options.streams)) {
        await withHost((host) => {
          const section = name.replace(/\.v\d+\.bin$/, '')
          const found = host.vmstates.find(({ vmstate }) => vmstate.name === section) ?? host.vmstates[0]!
          const left = loadBytes(compileVmstate(found.vmstate), found.state, bytes, version)
          check(left === 0, `${name}: no byte is left over`)
        })
      }
    })
  })
}

function saveAll(host: DeviceHost): Saved {
  return host.vmstates.map(({ vmstate, state }) => ({
    name: vmstate.name,
    bytes: saveBytes(compileVmstate(vmstate), state),
  }))
}

function loadAll(host: DeviceHost, saved: Saved): void {
  check(host.vmstates.length === saved.length, 'both devices have the same sections')
  host.vmstates.forEach(({ vmstate, state }, i) => {
    const left = loadBytes(compileVmstate(vmstate), state, saved[i]!.bytes, vmstate.version)
    check(left === 0, `${vmstate.name}: ${left} bytes are left over after a load`)
  })
}

function checkSame(actual: Saved, expected: Saved, sentence: string): void {
  expected.forEach(({ name, bytes }, i) => {
    checkSameBytes(actual[i]?.bytes ?? new Uint8Array(), bytes, `${sentence}, section ${name}`)
  })
}

const equal = (a: Uint8Array, b: Uint8Array | undefined): boolean =>
  b !== undefined && a.length === b.length && a.every((byte, i) => byte === b[i])

const show = (value: unknown): string =>
  JSON.stringify(value, (_, v: unknown) => (typeof v === 'bigint' ? `${v}n` : v)) ?? 'nothing'
