import { z } from 'zod'
import { snapshotsOf } from '../run-control.ts'
import { command, type QmpCommand } from './define-command.ts'

const job = { 'job-id': z.string(), tag: z.string() }
const devices = z.array(z.string())

/** Spec: protocol.md sections 2 and 12. */
export const snapshotCommands: readonly QmpCommand[] = [
  command('snapshot-save', { ...job, vmstate: z.string(), devices }, (context, args) =>
    context.jobs.start(args['job-id'], 'snapshot-save', async () =>
      snapshotsOf(context).save(args.tag, { vmState: args.vmstate, devices: args.devices }),
    ),
  ),
  command('snapshot-load', { ...job, vmstate: z.string(), devices }, (context, args) =>
    context.jobs.start(args['job-id'], 'snapshot-load', async () =>
      snapshotsOf(context).load(args.tag, { vmState: args.vmstate, devices: args.devices }),
    ),
  ),
  command('snapshot-delete', { ...job, devices }, (context, args) =>
    context.jobs.start(args['job-id'], 'snapshot-delete', async () =>
      snapshotsOf(context).delete(args.tag, { devices: args.devices }),
    ),
  ),
  command('query-jobs', {}, ({ jobs }) => jobs.list()),
  command('job-dismiss', { id: z.string() }, ({ jobs }, { id }) => jobs.dismiss(id)),
  command('job-cancel', { id: z.string() }, ({ jobs }, { id }) => jobs.find(id).cancel()),
  command('job-pause', { id: z.string() }, ({ jobs }, { id }) => jobs.find(id).pause()),
  command('job-resume', { id: z.string() }, ({ jobs }, { id }) => jobs.find(id).resume()),
  command('job-finalize', { id: z.string() }, ({ jobs }, { id }) => jobs.find(id).finalize()),
  command('job-complete', { id: z.string() }, ({ jobs, storage }, { id }) => {
    jobs.find(id).check('complete')
    storage!.mirrors.complete(id)
  }),
]
