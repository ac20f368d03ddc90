import { z } from 'zod'

/** How far a copy is, in bytes. */
const blockJob = { type: z.string(), device: z.string(), len: z.int(), offset: z.int(), speed: z.int() }

/** Every QMP event and its data; `query-qmp-schema` reads it too. */
export const QMP_EVENTS = {
  STOP: z.strictObject({}),
  RESUME: z.strictObject({}),
  POWERDOWN: z.strictObject({}),
  RESET: z.strictObject({ guest: z.boolean(), reason: z.string() }),
  SHUTDOWN: z.strictObject({ guest: z.boolean(), reason: z.string() }),
  MIGRATION: z.strictObject({ status: z.string() }),
  MIGRATION_PASS: z.strictObject({ pass: z.int() }),
  COLO_EXIT: z.strictObject({ mode: z.string(), reason: z.string() }),
  JOB_STATUS_CHANGE: z.strictObject({ id: z.string(), status: z.string() }),
  BLOCK_EXPORT_DELETED: z.strictObject({ id: z.string() }),
  BLOCK_JOB_READY: z.strictObject(blockJob),
  BLOCK_JOB_COMPLETED: z.strictObject({ ...blockJob, error: z.string().optional() }),
  BLOCK_JOB_CANCELLED: z.strictObject(blockJob),
  BLOCK_JOB_PENDING: z.strictObject({ type: z.string(), id: z.string() }),
  BLOCK_JOB_ERROR: z.strictObject({ device: z.string(), operation: z.string(), action: z.string() }),
} satisfies Record<string, z.ZodObject>

export type QmpEventName = keyof typeof QMP_EVENTS
export type QmpEventData<E extends QmpEventName> = z.infer<(typeof QMP_EVENTS)[E]>
