/**
 * One fault at a random step of a migration over rdma, and what the protocol prescribes for it: what passes by itself is
 * not noticed; everything else ends the migration with an error on both sides, the guest runs on at the source, and the
 * next try brings it over. Only between the arrival of the destination's last word and the acknowledgement of it nobody can
 * know of the other: then the guest stands at the source, whole, and runs nowhere.
 */
import { FerryError } from '@ferryvm/core'
import type { Migration } from '@ferryvm/migration'
import {
  type Fabric,
  faultyDevice,
  faultyFabric,
  type RdmaDevice,
  rdma,
  type SoftwareDevice,
  softwareDevice,
  type VerbsFault,
  type WireFault,
} from '@ferryvm/transport-rdma-sim'
import { type FaultGuest, type FaultMachine, fakeGuest } from './fault-guests.ts'

export type Fault =
  | (VerbsFault & { readonly side: 'source' | 'destination' })
  | (WireFault & { readonly side: 'wire' })
  | { readonly kind: 'device'; readonly side: 'source' | 'destination' }

export interface FaultRun {
  readonly seed: number
  readonly fault: Fault
  readonly step: number
  /** False: the migration was over before it could happen. */
  readonly fired: boolean
  readonly outcome: 'completed' | 'failed'
  /** It came while the guest was handed over, or after that. */
  readonly late: boolean
  /** Codes of the errors, source first. */
  readonly codes: readonly (string | undefined)[]
}

/** Repetitions of the protocol's connections: losing fewer frames than that is not noticed. */
const RETRIES = 5
const BREAKING_STATUS = [
  'remote-access-error',
  'remote-operation-error',
  'local-protection-error',
  'retry-exceeded',
] as const

/** Passes by itself: repeated, or waited for. */
export const passes = ({ kind }: Fault): boolean => kind === 'delay' || kind === 'late-receive' || kind === 'lose'

function randomFault(random: (n: number) => number): Fault {
  const side = random(2) ? 'source' : 'destination'
  switch (random(12)) {
    case 0:
      return { side, kind: 'registration' }
    case 1:
      return { side, kind: 'post' }
    case 2:
      return { side, kind: 'completion', status: BREAKING_STATUS[random(BREAKING_STATUS.length)]! }
    case 3:
      return { side, kind: 'queue-pair' }
    case 4:
      return { side, kind: 'disconnect' }
    case 5:
      return { side, kind: 'device' }
    case 6:
      return { side, kind: 'delay', ms: 20 + random(60) }
    case 7:
      return { side, kind: 'late-receive', ms: 20 + random(60) }
    case 8:
      return { side: 'wire', kind: 'lose', frames: 1 + random(RETRIES) }
    case 9:
      // The header's length and type: what the receiver can see.
      return { side: 'wire', kind: 'corrupt', bit: random(64) }
    case 10:
      return { side: 'wire', kind: 'cut' }
    default:
      return { side: 'wire', kind: 'silence' }
  }
}

/** Numbers below n, the same for the same seed. */
function randomNumbers(seed: number): (n: number) => number {
  let state = seed >>> 0
  return (n) => {
    state = (state + 0x6d2b79f5) >>> 0
    let x = Math.imul(state ^ (state >>> 15), state | 1)
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61)
    return Math.floor((((x ^ (x >>> 14)) >>> 0) / 2 ** 32) * n)
  }
}

/** A fault that happens: one that finds nothing to happen to is tried earlier. @throws what is not as prescribed */
export async function randomFaultRun(
  makeFabric: () => Fabric,
  seed: number,
  createGuest: () => FaultGuest = fakeGuest,
): Promise<FaultRun> {
  const random = randomNumbers(seed)
  const fault = randomFault(random)
  const pinAll = random(3) === 0
  for (let step = random(createGuest().steps); ; step = Math.floor(step / 2)) {
    const run = await runWith(createGuest(), makeFabric(), fault, step, pinAll, seed)
    if (run.fired || step === 0) return run
  }
}

async function runWith(
  guest: FaultGuest,
  real: Fabric,
  fault: Fault,
  step: number,
  pinAll: boolean,
  seed: number,
): Promise<FaultRun> {
  const times = { acknowledgeTimeoutMs: 150, keepAliveMs: 100, silenceMs: 1000, receiverNotReadyMs: 5 }
  const wire = fault.side === 'wire' ? faultyFabric(real, step, fault) : undefined
  const [near, far] = [softwareDevice(wire ?? real, times), softwareDevice(real, times)]
  const injector = injectorOf(fault, step, fault.side === 'destination' ? far : near)
  const deviceOf = (side: 'source' | 'destination') =>
    fault.side === side ? injector!.device : side === 'source' ? near : far
  const again = { ...rdma(), scheme: 'again' }
  const a = await guest.machine([rdma({ device: deviceOf('source'), pinAll }), again])
  const b = await guest.machine([rdma({ device: deviceOf('destination'), returnPathTimeoutMs: 500 })])
  const [from, to] = [a.migration, b.migration]
  try {
    a.start()
    await guest.warm()
    const where = `seed ${seed}: ${JSON.stringify(fault)} at step ${step}, pin-all ${pinAll}`
    const error = await attempt(from, to).catch((hang: Error) => {
      throw new Error(`${where}: ${hang.message}`)
    })
    const fired = wire?.fired ?? injector!.fired()
    const whole = (machine: FaultMachine, which: string) =>
      machine.whole().catch((error: Error) => demand(false, `the guest is damaged ${which}: ${error.message}`))
    const demand = (holds: boolean, what: string) => {
      if (holds) return
      const ends = `source ${from.status} (${error?.source}), destination ${to.status} (${error?.destination})`
      throw new Error(`${where}: ${what}; ${ends}`)
    }
    const handedOver = to.status === 'completed'
    const late = fired && !passes(fault) && (handedOver || from.status === 'completed')
    if (!fired || passes(fault)) demand(!error, 'what passes by itself ended the migration')
    if (error) {
      for (const e of [error.source, error.destination]) {
        demand(e === undefined || FerryError.isInstance(e), 'an error that is none of ours')
      }
      if (from.status === 'completed') {
        // The destination's word arrived, and its acknowledgement did not: nobody runs the guest, and the source has it.
        demand(a.runState === 'postmigrate' && b.runState !== 'running', 'the guest is lost, or there twice')
        a.start()
        await whole(a, 'at the source')
      } else demand(from.status === 'failed' && a.runState === 'running', 'the guest does not run on at the source')
      if (!handedOver && from.status === 'failed') {
        demand(b.runState !== 'running', 'two guests')
        await secondTry(guest, a)
      }
    } else {
      demand(a.runState === 'postmigrate' && b.runState === 'running', 'the guest is not where it should be')
      await whole(b, 'at the destination')
    }
    const codeOf = (e: unknown) => (FerryError.isInstance(e) ? e.code : undefined)
    const codes = [codeOf(error?.source), codeOf(error?.destination)]
    return { seed, fault, step, fired, outcome: error ? 'failed' : 'completed', late, codes }
  } finally {
    injector?.stop()
    await Promise.all([a.dispose(), b.dispose()])
    for (const device of [near, far]) device.close()
  }
}

interface Injector {
  readonly device: RdmaDevice
  fired(): boolean
  stop(): void
}

function injectorOf(fault: Fault, step: number, device: SoftwareDevice): Injector | undefined {
  if (fault.side === 'wire') return undefined
  if (fault.kind !== 'device') {
    const faulty = faultyDevice(device, step, fault)
    return { device: faulty, fired: () => faulty.fired, stop() {} }
  }
  // The injector counts the verbs; to be removed is the device's own business.
  const counting = faultyDevice(device, Number.POSITIVE_INFINITY, { kind: 'post' })
  let fired = false
  const timer = setInterval(() => {
    if (counting.steps < step || fired) return
    fired = true
    device.remove()
  }, 0)
  return { device: counting, fired: () => fired, stop: () => clearInterval(timer) }
}

/** Both sides to their ends, within a bound: a hang is an error of its own. */
async function attempt(from: Migration, to: Migration): Promise<{ source?: Error; destination?: Error } | undefined> {
  let bound: ReturnType<typeof setTimeout> | undefined
  const late = new Promise<never>((_, reject) => {
    bound = setTimeout(() => reject(new Error(`a hang: source ${from.status}, destination ${to.status}`)), 30_000)
  })
  const failureOf = (work: Promise<unknown>) =>
    work.then(
      () => undefined,
      (e: Error) => e,
    )
  try {
    const { uri, done } = await to.incoming('rdma:127.0.0.1:0')
    const source = await Promise.race([failureOf(from.migrate(uri)), late])
    // A destination that nobody reached waits for the next source, as it should.
    if (source && to.status === 'setup') return { source }
    const destination = await Promise.race([failureOf(done), late])
    return source || destination ? { source, destination } : undefined
  } finally {
    clearTimeout(bound)
  }
}

/** The source's guest has lost nothing: another destination gets all of it. */
async function secondTry(guest: FaultGuest, a: FaultMachine): Promise<void> {
  const c = await guest.machine([{ ...rdma(), scheme: 'again' }])
  try {
    const { uri, done } = await c.migration.incoming('again:127.0.0.1:0')
    await Promise.all([a.migration.migrate(uri), done])
    await c.whole()
    if (a.runState !== 'postmigrate') throw new Error('the second try left the guest in two places')
  } finally {
    await c.dispose()
  }
}
