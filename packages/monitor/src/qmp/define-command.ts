import { z } from 'zod'
import type { MonitorContext } from '../context.ts'
import { MonitorCommandError } from '../errors.ts'

/** One QMP command: everything that is known about it stands here, and `query-commands` and validation read it. */
export interface QmpCommand {
  readonly name: string
  readonly args: z.ZodType<any>
  /** What the schema says of them, where {@link args} leaves the checks to somebody else. */
  readonly describedArgs?: z.ZodType<any>
  /** @returns what goes into "return"; undefined: {} */
  run(context: MonitorContext, args: any): unknown
  /** After the reply has been sent. */
  after?(context: MonitorContext, args: any): void
  /** Also out of band (`exec-oob`): at once, while others wait for their turn. */
  readonly oob?: boolean
}

export function command<A extends z.ZodRawShape>(
  name: string,
  args: A,
  run: (context: MonitorContext, args: z.infer<z.ZodObject<A>>) => unknown,
  after?: (context: MonitorContext) => void,
): QmpCommand {
  return { name, args: z.strictObject(args), run, after }
}

/** @throws MonitorCommandError naming the first argument that is wrong, in the words that clients know */
export function parseArguments({ args }: QmpCommand, value: unknown): unknown {
  const result = args.safeParse(value ?? {})
  if (result.success) return result.data
  const issue = result.error.issues[0]!
  const path = issue.path.map((part) => (typeof part === 'number' ? `[${part}]` : String(part))).join('.')
  if (issue.code === 'unrecognized_keys') {
    throw new MonitorCommandError(`Parameter '${[...issue.path, issue.keys[0]].join('.')}' is unexpected`)
  }
  let at: unknown = value ?? {}
  for (const part of issue.path) at = (at as Record<PropertyKey, unknown> | undefined)?.[part]
  if (at === undefined) throw new MonitorCommandError(`Parameter '${path}' is missing`)
  if (issue.code === 'invalid_type') {
    throw new MonitorCommandError(
      `Invalid parameter type for '${path}', expected: ${TYPE_NAMES[issue.expected] ?? issue.expected}`,
    )
  }
  throw new MonitorCommandError(`Parameter '${path}': ${issue.message}`)
}

const TYPE_NAMES: Readonly<Record<string, string>> = { int: 'integer', number: 'integer', record: 'object' }
