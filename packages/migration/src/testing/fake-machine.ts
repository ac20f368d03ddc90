import {
  type Cpu,
  createSaveStateRegistry,
  defineVmstate,
  GuestMemory,
  type Machine,
  type MachineEvents,
  MigrationPriority,
  nextTurn,
  OutputGate,
  PAGE_BYTES,
  PhysicalMap,
  type RunState,
  u32,
  u32Array,
  u64,
  VirtualClock,
} from '@ferryvm/core'

export interface FakeMachineOptions {
  readonly devices?: Machine['devices']
  readonly name?: string
  readonly ramPages?: number
  readonly romPages?: number
  /** Pages that the guest writes per turn of the event loop. Default 8. */
  readonly writesPerTurn?: number
  /** Send what the guest believes that its memory holds. Default true; {@link FakeMachine.wrongPages} needs it. */
  readonly verify?: boolean
}

/** What the guest believes that its memory holds: the stamp of each page, sent as device state at the very end. */
const guestVmstate = (pages: number) =>
  defineVmstate({
    name: 'guest',
    version: 1,
    fields: { ticks: u64(), seed: u32(), stamps: u32Array(pages) },
  })
const deviceVmstate = defineVmstate({ name: 'fake-device', version: 2, fields: { value: u32() } })
const iommuVmstate = defineVmstate({
  name: 'fake-iommu',
  version: 1,
  priority: MigrationPriority.IOMMU,
  fields: { root: u64() },
})

export interface FakeMachine extends Machine {
  /** Pages whose first or last word is not what the guest wrote there last. */
  wrongPages(): number[]
  readonly ticks: bigint
  readonly device: { value: number }
  /** Thrown by the next save of the device's section. */
  failSave: Error | undefined
}

/**
 * A machine without a CPU: a "guest" in JavaScript stamps pages of RAM at random while it runs and remembers what it
 * wrote. Like a hart it marks a page in the dirty log only when that page enters its write TLB.
 */
export function createFakeMachine(options: FakeMachineOptions = {}): FakeMachine {
  const memory = new GuestMemory()
  const pages = options.ramPages ?? 256
  const rom = memory.addBlock('fake.rom', (options.romPages ?? 4) * PAGE_BYTES)
  const ram = memory.addBlock('fake.ram', pages * PAGE_BYTES)
  rom.bytes.fill(0x5a, 0, PAGE_BYTES)
  const physical = new PhysicalMap(memory)
  physical.addRam(0x8000_0000, ram)
  physical.addRam(0x1000, rom, 'rom')
  const sections = createSaveStateRegistry()
  const clock = new VirtualClock()
  const guestTable = guestVmstate(options.verify === false ? 1 : pages)
  const guest = guestTable.createState()
  guest.seed = 1
  const device = deviceVmstate.createState()
  let failSave: Error | undefined
  const failing = Object.defineProperty({}, 'value', {
    enumerable: true,
    get() {
      if (failSave) throw failSave
      return device.value
    },
    set: (v: number) => (device.value = v),
  }) as { value: number }
  sections.register(deviceVmstate, failing, { path: '0000:00:01.0' })
  sections.register(guestTable, guest)
  sections.register(iommuVmstate, iommuVmstate.createState())

  let running = false
  let loop: Promise<void> | undefined
  let runState: RunState = 'prelaunch'
  const writeTlb = new Set<number>()
  const listeners: { [E in keyof MachineEvents]?: Set<MachineEvents[E]> } = {}
  const emit = <E extends keyof MachineEvents>(event: E, ...args: Parameters<MachineEvents[E]>) => {
    for (const listener of listeners[event] ?? []) (listener as (...a: unknown[]) => void)(...args)
  }
  const words = () => new Uint32Array(memory.buffer, ram.offset, (pages * PAGE_BYTES) / 4)

  function step(): void {
    const view = words()
    for (let i = 0; i < (options.writesPerTurn ?? 8); i++) {
      guest.seed = (Math.imul(guest.seed, 1664525) + 1013904223) >>> 0
      const page = (guest.seed >>> 8) % pages
      const index = (ram.offset >>> 12) + page
      if (!writeTlb.has(index)) {
        if (!memory.guards.claim(index)) continue
        memory.dirtyLog.mark(index)
        if (memory.dirtyLog.enabled) writeTlb.add(index)
      }
      // Now and then back to all zeros, so that a zero record follows a page record.
      const stamp = guest.seed % 5 === 0 ? 0 : guest.seed
      view[page * 1024] = stamp
      view[page * 1024 + 1023] = stamp
      if (options.verify !== false) guest.stamps[page] = stamp
    }
    guest.ticks++
  }
  async function run(): Promise<void> {
    while (running) {
      step()
      await nextTurn()
    }
  }

  const cpu: Cpu = {
    harts: [],
    timeDelta: 0n,
    start() {
      running = true
      loop ??= run().finally(() => (loop = undefined))
    },
    async pause() {
      running = false
      await loop
    },
    reset() {},
    flushAll: () => writeTlb.clear(),
    async flushWriteTlb() {
      await Promise.resolve()
      writeTlb.clear()
    },
    get instructionsRetired() {
      return guest.ticks
    },
    readRegister: () => 0n,
    describe: (hart) => `hart ${hart} ticks ${guest.ticks}`,
    close: async () => {
      running = false
    },
  }

  return {
    name: options.name ?? 'fake',
    sections,
    memory,
    physical,
    cpu,
    clock,
    output: new OutputGate(),
    get runState() {
      return runState
    },
    devices: options.devices ?? [],
    migratableBlocks: () => memory.migratableBlocks(),
    start() {
      if (running) return
      runState = 'running'
      clock.start()
      cpu.start()
      emit('resume')
    },
    async stop(state = 'paused') {
      const was = running
      runState = state
      clock.stop()
      await cpu.pause()
      if (was) emit('stop')
    },
    setRunState(state) {
      runState = state
    },
    async reset() {
      emit('reset', { guest: false, reason: 'host-qmp-system-reset' })
    },
    powerdown: () => emit('powerdown'),
    async shutdown(reason, exitCode = 0) {
      await this.stop('shutdown')
      emit('shutdown', { guest: false, reason, exitCode })
    },
    on(event, listener) {
      const set = (listeners[event] ??= new Set() as never) as Set<typeof listener>
      set.add(listener)
      return { [Symbol.dispose]: () => void set.delete(listener) }
    },
    async [Symbol.asyncDispose]() {
      await cpu.pause()
    },
    wrongPages() {
      const view = words()
      const wrong: number[] = []
      for (let page = 0; page < pages; page++) {
        const stamp = guest.stamps[page]
        if (view[page * 1024] !== stamp || view[page * 1024 + 1023] !== stamp) wrong.push(page)
      }
      return wrong
    },
    get ticks() {
      return guest.ticks
    },
    device,
    get failSave() {
      return failSave
    },
    set failSave(error) {
      failSave = error
    },
  } satisfies FakeMachine
}
