import { z } from 'zod'
import { cont, pmemsave, stop } from '../run-control.ts'
import { namedTraceEvents, setTraceEvents } from '../trace-control.ts'
import { dirtyBitmapsInfo } from './bitmap-commands.ts'
import { command, type QmpCommand } from './define-command.ts'

const NO_UUID = '00000000-0000-0000-0000-000000000000'

export const machineCommands: readonly QmpCommand[] = [
  command('query-status', {}, ({ machine }) => ({
    running: machine.runState === 'running',
    singlestep: false,
    status: machine.runState,
  })),
  command('query-version', {}, ({ version: { package: text, ...qemu } }) => ({ qemu, package: text })),
  command('query-name', {}, ({ name }) => (name === undefined ? {} : { name })),
  command('trace-event-get-state', { name: z.string() }, (_, { name }) =>
    namedTraceEvents(name).map(({ event, enabled }) => ({ name: event, state: enabled ? 'enabled' : 'disabled' })),
  ),
  command(
    'trace-event-set-state',
    { name: z.string(), enable: z.boolean(), 'ignore-unavailable': z.boolean().optional() },
    (_, { name, enable }) => setTraceEvents(name, enable),
  ),
  command('query-uuid', {}, ({ uuid }) => ({ UUID: uuid ?? NO_UUID })),
  command('query-target', {}, () => ({ arch: 'riscv64' })),
  command('query-kvm', {}, () => ({ enabled: false, present: false })),
  command('query-cpus-fast', {}, ({ machine }) =>
    machine.cpu.harts.map(({ index }) => ({
      'cpu-index': index,
      'qom-path': `/machine/soc0/harts[${index}]`,
      'thread-id': process.pid,
      target: 'riscv64',
    })),
  ),
  command('query-machines', {}, ({ machine }) => [
    {
      name: machine.name,
      'is-default': true,
      'cpu-max': Math.max(1, machine.cpu.harts.length),
      'hotpluggable-cpus': false,
      'numa-mem-supported': false,
      deprecated: false,
    },
  ]),
  command('query-block', {}, ({ blocks, storage }) =>
    blocks().map(({ device, file, readOnly, format = 'raw', node = storage?.nodes.nameOf(device) ?? device }) => ({
      device,
      locked: false,
      removable: false,
      type: 'unknown',
      'io-status': 'ok',
      inserted:
        file === undefined
          ? undefined
          : {
              file,
              ro: readOnly,
              drv: format,
              'node-name': node,
              encrypted: false,
              ...dirtyBitmapsInfo(storage?.nodes.all.find(({ drive }) => drive?.device === device)?.backend.bitmaps),
            },
    })),
  ),
  command('query-chardev', {}, ({ chardevs }) => chardevs()),
  command('query-iothreads', {}, () => []),
  command('stop', {}, stop),
  command('cont', {}, (context) => cont(context)),
  command('system_reset', {}, ({ machine }) => machine.reset()),
  command('system_powerdown', {}, ({ machine }) => machine.powerdown()),
  command(
    'quit',
    {},
    () => undefined,
    ({ machine }) => void machine.shutdown('host-qmp-quit'),
  ),
  command(
    'pmemsave',
    { val: z.int().nonnegative(), size: z.int().nonnegative(), filename: z.string() },
    (context, { val, size, filename }) => pmemsave(context, val, size, filename),
  ),
  command(
    'human-monitor-command',
    { 'command-line': z.string(), 'cpu-index': z.int().nonnegative().optional() },
    async ({ executeHmp }, args) => (await executeHmp(args['command-line'])).replaceAll('\n', '\r\n'),
  ),
]
