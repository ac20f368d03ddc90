import {
  type Bus,
  type Cpu,
  type CpuContext,
  type CpuSpec,
  DeviceConfigError,
  DeviceHookError,
  defineDevice,
  defineVmstate,
  type IrqLine,
  type MachineServices,
  MigrationPriority,
  registersItself,
  type StandardSchema,
  stateless,
  u32,
  unmigratable,
} from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import { createMachine } from './create-machine.ts'
import type { MachineConfig } from './machine-config.ts'

const anyProps: StandardSchema<any> = { '~standard': { version: 1, vendor: 'test', validate: (value) => ({ value }) } }

/** A CPU that runs nothing and writes down what it was told. */
function fakeCpu(log: string[]): CpuSpec {
  return {
    type: 'fake',
    harts: 1,
    async realize(_: CpuContext): Promise<Cpu> {
      return {
        harts: [{ index: 0, line: () => ({ set() {} }), pending: () => false, setMtimecmp() {} }],
        timeDelta: 0n,
        start: () => void log.push('cpu start'),
        pause: async () => void log.push('cpu pause'),
        reset: () => void log.push('cpu reset'),
        flushAll() {},
        flushWriteTlb: async () => {},
        instructionsRetired: 0n,
        readRegister: () => 0n,
        describe: () => '',
        close: async () => void log.push('cpu close'),
      }
    },
  }
}

const vmstate = defineVmstate({ name: 'thing', version: 1, fields: { value: u32({ reset: 5 }) } })
const config = (
  devices: MachineConfig['devices'],
  log: string[] = [],
  more: Partial<MachineConfig> = {},
): MachineConfig => ({
  name: 'test',
  cpu: fakeCpu(log),
  ram: [{ idstr: 'ram', base: 0x8000_0000, sizeBytes: 0x10000 }],
  platformBus: { base: 0x1000, sizeBytes: 0x3000, firstIrq: 64, irqCount: 2 },
  devices,
  ...more,
})
const plain = (type: string, realize: (ctx: any) => any = () => ({})) =>
  defineDevice({ type, props: anyProps, migration: stateless, realize: (ctx) => realize(ctx) ?? {} })

describe('createMachine', () => {
  it('runs and stops harts and devices in order, and puts reset values and boot images back', async () => {
    const log: string[] = []
    let state!: { value: number }
    const thing = defineDevice({
      type: 'thing',
      props: anyProps,
      migration: vmstate,
      realize: (ctx) => {
        state = ctx.state
        return { quiesce: async () => void log.push('quiesce'), resume: () => void log.push('resume') }
      },
    })
    const image = { name: 'rom', at: 0x8000_0010, bytes: () => Uint8Array.of(1, 2, 3) }
    await using machine = await createMachine(config([thing({})], log, { images: [image] }))
    machine.on('stop', () => log.push(`stopped: ${machine.runState}`))
    machine.on('reset', ({ guest }) => log.push(`reset by ${guest ? 'guest' : 'host'}`))
    expect(machine.runState).toBe('prelaunch')
    expect(state.value).toBe(5)
    machine.start()
    machine.start()
    state.value = 9
    machine.memory.blocks[0]!.bytes.fill(0)
    await machine.reset()
    expect(state.value).toBe(5)
    expect([...machine.memory.blocks[0]!.bytes.subarray(0x10, 0x14)]).toEqual([1, 2, 3, 0])
    await machine.stop('paused')
    await machine.stop('postmigrate')
    expect(machine.runState).toBe('postmigrate')
    expect(log).toEqual([
      ...['cpu reset', 'resume', 'cpu start'],
      ...['cpu pause', 'quiesce', 'cpu reset', 'reset by host', 'resume', 'cpu start'],
      ...['cpu pause', 'quiesce', 'stopped: paused'],
    ])
  })

  it('reads an image again at every reset, and ends as fatal when the guest resets and it is gone', async () => {
    let fails = false
    let services!: MachineServices
    const button = plain('button', (ctx) => {
      services = ctx.machine
    })
    const bytes = {
      sizeBytes: 3,
      readInto(target: Uint8Array) {
        if (fails) throw new RangeError('the file has changed')
        target.set([1, 2, 3])
      },
    }
    const images = [{ name: 'kernel', at: 0x8000_0010, bytes }]
    await using machine = await createMachine(config([button({})], [], { images }))
    const { bytes: ram } = machine.memory.blocks[0]!
    expect([...ram.subarray(0x10, 0x14)]).toEqual([1, 2, 3, 0])
    ram.fill(9)
    await machine.reset()
    expect([...ram.subarray(0x0f, 0x14)]).toEqual([9, 1, 2, 3, 9])
    fails = true
    await expect(machine.reset()).rejects.toThrow('the file has changed')
    const fatal = new Promise<Error>((resolve) => machine.on('fatal', resolve))
    services.requestReset('guest-reset')
    expect((await fatal).message).toBe('the file has changed')
  })

  it('sends virtual time so that a receiver whose mtime has no delta computes ours', async () => {
    await using machine = await createMachine(config([]))
    const entry = machine.sections.entries().find((e) => e.idstr === 'timer')!
    machine.clock.set(5_000n)
    machine.cpu.timeDelta = -20n // mtime = 50 - 20
    entry.device!.vmstate.preSave!(entry.device!.state)
    expect(entry.device!.state.cpu_clock_offset).toBe(3_000n)
    entry.device!.state.cpu_clock_offset = 7_000n
    entry.device!.vmstate.postLoad!(entry.device!.state, 2)
    expect([machine.clock.ns, machine.cpu.timeDelta]).toEqual([7_000n, 0n])
  })

  it('places devices without an address on the platform bus, each with its own interrupt', async () => {
    const lines: number[] = []
    const raised = (n: number): IrqLine => ({ set: () => void lines.push(n) })
    const device = (type: string) =>
      plain(type, (ctx) => {
        const line = ctx.irq()
        ctx.mmio(16, { read: () => Number(!line.set(true)), write() {} })
      })
    const controller = plain('intc', ({ machine }: { machine: MachineServices }) =>
      machine.provideInterruptController(raised),
    )
    // The controller comes last: a line is found when it is used.
    await using machine = await createMachine(config([device('a')({}), device('b')({}), controller({})]))
    machine.physical.mmioRead(0x1000, 4)
    machine.physical.mmioRead(0x2000, 4)
    expect(lines).toEqual([64, 65])
  })

  it('gives devices on a bus its path, and sections their priority whatever the order of creation', async () => {
    const bus: Bus = {
      name: 'pcie.0',
      accepts: ['pci'],
      attach: () => ({ path: '0000:00:01.0', context: 'slot', dma: { read: () => true, write: () => true } }),
    }
    const host = plain('host', ({ machine }) => void machine.provideBus(bus))
    const early = defineDevice({ type: 'early', props: anyProps, migration: vmstate, bus: 'pci', realize: () => ({}) })
    const late = defineDevice({
      type: 'iommu',
      props: anyProps,
      migration: defineVmstate({
        name: 'late',
        version: 1,
        priority: MigrationPriority.IOMMU,
        fields: { value: u32() },
      }),
      realize: () => ({}),
    })
    await using machine = await createMachine(config([host({}), early({}), late({})]))
    expect(machine.sections.entries().map((e) => e.idstr)).toEqual(['late', 'timer', '0000:00:01.0/thing'])
  })

  it('says in words what is wrong with a configuration', async () => {
    const refused = async (devices: MachineConfig['devices']) =>
      createMachine(config(devices)).then(
        () => 'accepted',
        (e: Error) => `${e.constructor.name}: ${e.message}`,
      )
    const pci = defineDevice({ type: 'card', props: anyProps, migration: stateless, bus: 'pci', realize: () => ({}) })
    const liar = defineDevice({ type: 'liar', props: anyProps, migration: registersItself, realize: () => ({}) })
    const broken = plain('broken', () => {
      throw new TypeError('oops')
    })
    const picky = defineDevice({
      type: 'picky',
      props: {
        '~standard': {
          version: 1,
          vendor: 'x',
          validate: () => ({ issues: [{ message: 'too big', path: ['size'] }] }),
        },
      } as StandardSchema<any>,
      migration: stateless,
      realize: () => ({}),
    })
    const wide = plain('wide', (ctx) => void ctx.mmio(0x4000, { read: () => 0, write() {} }))
    const at = plain('fixed', (ctx) => void ctx.mmio(0x2000, { read: () => 0, write() {} }))
    expect(await refused([pci({})])).toBe('DeviceConfigError: card: no bus takes pci devices')
    expect(await refused([pci({}, { bus: 'pcie.7' })])).toMatch(/no bus 'pcie.7' takes pci devices \(there are: none\)/)
    expect(await refused([liar({})])).toMatch(/promised to register its own state and did not/)
    expect(await refused([broken({})])).toBe('DeviceHookError: broken: realize failed: oops')
    expect(await refused([picky({})])).toBe('DeviceConfigError: picky: size: too big')
    expect(await refused([wide({})])).toMatch(/no room for 16384 bytes on the platform bus/)
    expect(await refused([at({}, { at: 0x100000 }), at({}, { at: 0x101000, id: 'second' })])).toMatch(
      /second: 0x101000 to 0x103000 overlaps fixed/,
    )
    expect(await refused([at({}, { id: 'a' }), plain('b')({}, { id: 'a' })])).toMatch(/already is a device of that id/)
    expect(DeviceConfigError).not.toBe(DeviceHookError)
  })

  it('blocks migration for a device that cannot be saved, naming it', async () => {
    const held = defineDevice({
      type: 'passthrough',
      props: anyProps,
      migration: unmigratable('holds host handles'),
      realize: () => ({}),
    })
    await using machine = await createMachine(config([held({}, { id: 'gpu0' })]))
    expect(machine.sections.blockers).toEqual(["device 'gpu0' (passthrough) holds host handles"])
  })
})
