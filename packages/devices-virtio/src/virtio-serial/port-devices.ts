/** The two kinds of ports that a virtio console device can have, as `-device` names them. */
import { type CharBackend, type DeviceContext, defineDevice, stateless } from '@ferryvm/core'
import { z } from 'zod'
import type { VirtioConsole } from './virtio-serial.ts'

const isCharBackend = (value: unknown): value is CharBackend =>
  typeof value === 'object' && value !== null && typeof (value as CharBackend).write === 'function'

/** What both have; their state is in the section of the device that they are a port of. */
const options = {
  /** Where bytes go and come from. Absent: nowhere. */
  chardev: z.custom<CharBackend>(isCharBackend, 'needs a character backend').optional(),
  /** Which port. Default: the first that is free. */
  nr: z.coerce.number().int().min(0).optional(),
}
/** As long as one control buffer of Linux has room for it. */
const NAME_MAX = 128

/** A console: /dev/hvcN in Linux. */
export const virtconsole = defineDevice({
  type: 'virtconsole',
  props: z.strictObject(options).prefault({}),
  bus: 'virtio-serial',
  migration: stateless,
  realize: (ctx, { nr, chardev }) => addPort(ctx, { isConsole: true, chardev }, nr),
})

/** A named channel between host and guest: /dev/vportXpN, and /dev/virtio-ports/NAME where udev runs. */
export const virtserialport = defineDevice({
  type: 'virtserialport',
  props: z
    .strictObject({
      ...options,
      name: z
        .string()
        .regex(/^[\x20-\x7e]*$/, 'must be ASCII')
        .max(NAME_MAX)
        .optional(),
    })
    .prefault({}),
  bus: 'virtio-serial',
  migration: stateless,
  realize: (ctx, { nr, ...port }) => addPort(ctx, { isConsole: false, ...port }, nr),
})

function addPort(ctx: DeviceContext<any>, port: Parameters<VirtioConsole['addPort']>[1], nr?: number) {
  ;(ctx.bus as VirtioConsole).addPort(ctx.id, port, nr)
  return {}
}
