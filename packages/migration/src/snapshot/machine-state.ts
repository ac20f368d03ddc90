/**
 * The whole state of a machine that stands, into a channel and back: the stream of a migration without its capabilities.
 * Spec: protocol.md section 12, stream.md section 10.
 */
import { type Channel, createQEMUFileReader, createQEMUFileWriter, StreamLoader, StreamSaver } from '@ferryvm/core'
import { configurationOf, type MigrationContext } from '../context.ts'
import { rawPages, zeroPages } from '../ram/plain-pages.ts'

/** Whoever loads a snapshot knows nothing of what was switched on when it was made. */
function plainConfiguration(context: MigrationContext) {
  return { ...configurationOf(context), validatedCapabilities: { 'x-ignore-shared': false, 'mapped-ram': false } }
}

/** The machine is stopped, and stays so. @throws whatever a device or the channel throws; nothing has changed */
export async function saveMachineState(context: MigrationContext, channel: Channel): Promise<void> {
  const { machine, ramSaver, settings, isZero } = context
  const seal = machine.sections.seal()
  context.setStatus('setup')
  try {
    ramSaver.use([zeroPages(isZero), rawPages()])
    const f = createQEMUFileWriter(channel)
    const saver = new StreamSaver(f, machine.sections, { settings, onSection: (progress) => context.section(progress) })
    saver.begin(plainConfiguration(context))
    await saver.setup()
    await saver.complete()
    await saver.saveDevices()
    saver.end()
    await f.flush()
    await channel.finish?.()
    context.setStatus('completed')
  } catch (error) {
    context.fail(error)
    throw error
  } finally {
    ramSaver.cleanup()
    seal[Symbol.dispose]()
  }
}

/** Into a machine that was reset, and is stopped. @throws its state is then undefined */
export async function loadMachineState(context: MigrationContext, channel: Channel): Promise<void> {
  const { machine, ramLoader, settings, log } = context
  const seal = machine.sections.seal()
  try {
    // Twins have what this machine had.
    for (const { offset, sizeBytes } of machine.memory.blocks) machine.memory.willWrite(offset, sizeBytes)
    ramLoader.begin()
    await new StreamLoader(createQEMUFileReader(channel), machine.sections, {
      configuration: plainConfiguration(context),
      settings,
      onSection: (progress) => context.section(progress),
      warn: (message) => log.warn(message),
      loadOrder: machine.loadOrder,
    }).load()
    machine.cpu.flushAll()
  } finally {
    seal[Symbol.dispose]()
  }
}
