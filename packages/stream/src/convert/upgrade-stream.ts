import { COMMANDS } from '@ferryvm/core'
import { StreamConversionError } from '../errors.ts'
import { RECEIVERS, sectionRange } from '../explain/receivers.ts'
import { leavesOf } from '../rewrite/field-path.ts'
import { type RewriteResult, rewriteStream, type SectionEdit } from '../rewrite/rewrite-stream.ts'
import type { ByteSink } from '../source/byte-sink.ts'
import type { ByteSource } from '../source/byte-source.ts'
import type { StateNode } from '../state/state-node.ts'
import type { ConfigurationElement, SectionHeader } from '../walk/visitor.ts'
import type { WalkOptions } from '../walk/walk-stream.ts'
import { convertState } from './apply-rules.ts'
import { nudgeCommon, nudgeHart } from './nudge.ts'
import type { Conversion } from './rules.ts'
import { virtTo72, virtTo100 } from './virt-conversions.ts'

/** Releases that streams can be converted to. */
export const CONVERSIONS: Readonly<Record<Conversion['to'], Conversion>> = { '7.2': virtTo72, '10.0': virtTo100 }

export interface UpgradeOptions extends WalkOptions {
  /** Convert although the guest depends on what the receiver lacks. The reasons are then in `notes`. */
  readonly force?: boolean
  /** Each hart takes one early timer interrupt: stock QEMU does not re-arm the timers of a sleeping guest. */
  readonly nudge?: boolean
}
export interface UpgradeResult extends RewriteResult {
  /** What was left out, and what a forced conversion ignored. */
  readonly notes: readonly string[]
}

/**
 * Converts a saved `virt` stream so that another release of stock QEMU loads it.
 * @throws StreamConversionError the guest depends on something that the release lacks; nothing written is of use
 * @throws StreamRewriteError the stream is damaged, or its sections are not described
 */
export async function upgradeStream(
  source: ByteSource,
  sink: ByteSink,
  to: Conversion['to'],
  options: UpgradeOptions = {},
): Promise<UpgradeResult> {
  const { force = false, nudge = false, ...walk } = options
  const conversion = CONVERSIONS[to]
  const reasons: string[] = []
  const notes: string[] = []
  const refuse = (reason: string): void => {
    const list = force ? notes : reasons
    if (!list.includes(reason)) list.push(reason)
  }
  let announced = false
  const result = await rewriteStream(
    source,
    sink,
    {
      style: to,
      configuration({ name }: ConfigurationElement) {
        if (name !== conversion.machine)
          throw new StreamConversionError([
            `this is a stream of machine ${name}; rules exist for ${conversion.machine}`,
          ])
      },
      keepCommand({ id }) {
        if (id === COMMANDS.SWITCHOVER_START.id) announced = true
        const rule = conversion.dropCommands.find((c) => c.id === id)
        if (rule) notes.push(`command ${id} left out: ${rule.because}`)
        return !rule
      },
      commandsBefore({ kind, idstr }: SectionHeader) {
        if (!conversion.switchoverStart || announced || kind !== 'end' || idstr !== 'ram') return []
        announced = true
        return [{ id: COMMANDS.SWITCHOVER_START.id, payload: new Uint8Array(0) }]
      },
      keepBlock({ idstr }) {
        const keep = !conversion.dropBlocks.includes(idstr)
        if (!keep) notes.push(`RAM block ${idstr} left out: the receiver does not have it`)
        return keep
      },
      section(header, state) {
        const edit = convertSection(conversion, header, state, refuse, notes)
        if (!nudge || edit === 'drop') return edit
        const current = edit ?? (state && { version: header.version, state })
        if (!current) return edit
        const nudged =
          header.idstr === 'cpu_common'
            ? nudgeCommon(current.state)
            : header.idstr === 'cpu' && nudgeHart(current.state)
        return nudged ? { ...current, state: nudged } : edit
      },
    },
    walk,
  )
  if (reasons.length > 0) throw new StreamConversionError(reasons)
  return { ...result, notes }
}

function convertSection(
  conversion: Conversion,
  { idstr, instanceId, version }: SectionHeader,
  state: StateNode | undefined,
  refuse: (reason: string) => void,
  notes: string[],
): SectionEdit | 'drop' | undefined {
  const name = `${idstr}/${instanceId}`
  const drop = conversion.dropSections.find((s) => s.idstr === idstr)
  if (drop) {
    const { unless } = drop
    const used = unless && state && [...leavesOf(state)].some((l) => l.path === unless.field && l.value === unless.is)
    if (used) refuse(unless.because)
    notes.push(`section ${name} left out: ${drop.because}`)
    return 'drop'
  }
  const rule = conversion.sections.find((s) => s.idstr === idstr)
  const receiver = RECEIVERS[conversion.to]!
  if (!sectionRange(receiver.machines[conversion.machine]!, idstr))
    refuse(`${receiver.name} has no section ${name} on this machine; take the device out of it before saving`)
  if (!rule) return undefined
  if (version === rule.to && version !== rule.from) return undefined
  if (version !== rule.from) {
    refuse(`section ${name} has version ${version}; rules exist for ${rule.from}`)
    return undefined
  }
  if (!state) {
    refuse(`section ${name} is not described, so that its fields are not known`)
    return undefined
  }
  if (rule.rules.length === 0 && !rule.subsections?.some((r) => state.subsections.some((s) => s.name === r.name)))
    return undefined
  return { version: rule.to, state: convertState(state, rule, (reason) => refuse(`${name}: ${reason}`)) }
}
