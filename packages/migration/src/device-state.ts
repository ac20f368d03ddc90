/** State of all devices by itself, without RAM and what else a stream has. Spec: stream.md section 10. */
import {
  bufferReader,
  bufferWriter,
  type Machine,
  StreamLoader,
  StreamSaver,
  setGlobalRunState,
  traceEvents,
} from '@ferryvm/core'
import { configurationOf, type MigrationContext } from './context.ts'

/** Machines for which that is done: one that waits again has warm code. */
const rehearsed = new WeakSet<Machine>()

/** The machine stands. */
export async function saveDeviceState({ machine, settings }: MigrationContext): Promise<Uint8Array> {
  const f = bufferWriter()
  const saver = new StreamSaver(f, machine.sections, { settings: { ...settings, suppressVmdesc: true } })
  await saver.saveDevices()
  saver.end()
  return f.bytes()
}

/** @throws what a device says of it; the machine's state is then undefined */
export async function loadDeviceState(context: MigrationContext, bytes: Uint8Array): Promise<void> {
  const { machine, settings, log } = context
  await new StreamLoader(bufferReader(bytes), machine.sections, {
    configuration: configurationOf(context),
    settings,
    warn: (message) => log.warn(message),
    loadOrder: machine.loadOrder,
  }).loadSections()
}

/**
 * Loads the state of a machine that waits for a guest into that machine, which changes nothing. Code that runs for the first time is
 * compiled first: half of what lies between the last page of a guest and its next instruction, unless it has run before.
 * Left out while somebody traces, who would see a guest come that there is not. A device that does not like it says so when it matters.
 */
export async function rehearse(context: MigrationContext): Promise<void> {
  if (rehearsed.has(context.machine) || traceEvents().some(({ enabled }) => enabled)) return
  rehearsed.add(context.machine)
  setGlobalRunState(context.globalState, 'running') // as a guest would bring it
  try {
    await loadDeviceState(context, await saveDeviceState(context))
  } catch (error) {
    context.log.debug('the rehearsal of loading failed', { error })
  }
}
