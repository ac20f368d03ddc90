/** Kinds of arguments, as QEMU's trace points have them. Spec: trace-events.md. */
export type TraceArgument =
  | 'str'
  | 'bool'
  | 'u8'
  | 'u16'
  | 'u32'
  | 'u64'
  | 'i64'
  | 'int'
  | 'long'
  | 'ulong'
  | 'size'
  | 'ptr'

export type TraceValue = string | number | bigint | boolean
type ValueOf<A extends TraceArgument> = A extends 'str' ? string : A extends 'bool' ? boolean : number | bigint

/** Calling it fires it; costs next to nothing while it is off. */
export interface TraceEvent<
  Args extends Readonly<Record<string, TraceArgument>> = Readonly<Record<string, TraceArgument>>,
> {
  (values: { readonly [Name in keyof Args]: ValueOf<Args[Name]> }): void
  readonly event: string
  readonly args: Args
  /** Somebody wants it. For code that must not even build the values. */
  readonly enabled: boolean
}

export type TraceListener = (event: string, values: Readonly<Record<string, TraceValue>>) => void

interface Known {
  readonly event: TraceEvent<any>
  setEnabled(on: boolean): void
}

const known = new Map<string, Known>()
const listeners = new Set<TraceListener>()
/** Also for events of packages that are loaded later, in order. */
const switches: { pattern: string; on: boolean }[] = []

/**
 * Declares trace events: their names and arguments are QEMU's, where QEMU has them. A name that is known already is that event: a
 * program may have a package twice.
 */
export function defineTraceEvents<const T extends Readonly<Record<string, Readonly<Record<string, TraceArgument>>>>>(
  table: T,
): { readonly [Name in keyof T]: TraceEvent<T[Name]> } {
  return Object.fromEntries(Object.entries(table).map(([name, args]) => [name, define(name, args)])) as any
}

function define(name: string, args: Readonly<Record<string, TraceArgument>>): TraceEvent {
  const before = known.get(name)
  if (before) return before.event
  let enabled = false
  const fire = (values: Readonly<Record<string, TraceValue>>) => {
    if (enabled) for (const listener of [...listeners]) listener(name, values)
  }
  const event = Object.defineProperties(fire, {
    event: { value: name },
    args: { value: args },
    enabled: { get: () => enabled },
  }) as unknown as TraceEvent
  const setEnabled = (on: boolean) => {
    enabled = on
  }
  known.set(name, { event, setEnabled })
  for (const { pattern, on } of switches) if (matches(pattern, name)) setEnabled(on)
  return event
}

/** Of the packages that are loaded, by name. @param pattern as {@link switchTraceEvents} takes it */
export const traceEvents = (pattern = '*'): readonly TraceEvent[] =>
  meantBy(pattern)
    .map(({ event }) => event)
    .sort((a, b) => (a.event < b.event ? -1 : 1))

/**
 * Switches events on or off. @param pattern a name, where * stands for any characters and ? for one
 * @returns how many of the known events it means
 */
export function switchTraceEvents(pattern: string, on: boolean): number {
  switches.push({ pattern, on })
  const meant = meantBy(pattern)
  for (const { setEnabled } of meant) setEnabled(on)
  return meant.length
}

/** Hears of every event that is on. What a listener throws reaches the code that fired the event. */
export function onTrace(listener: TraceListener): Disposable {
  listeners.add(listener)
  return { [Symbol.dispose]: () => void listeners.delete(listener) }
}

const meantBy = (pattern: string): Known[] => [...known.values()].filter(({ event }) => matches(pattern, event.event))

function matches(pattern: string, name: string): boolean {
  const parts = pattern.replace(/[.+^${}()|[\]\\]/g, '\\$&')
  return new RegExp(`^${parts.replaceAll('*', '.*').replaceAll('?', '.')}$`).test(name)
}
