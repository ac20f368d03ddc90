import { commandName } from '@ferryvm/core'
import type { SectionReport, StreamReport } from '../inspect/report.ts'
import type { DumpedDevice, VmstateDump } from '../vmstate/dump.ts'
import { compareWithDump } from './compare-with-dump.ts'
import { type Finding, versionFinding } from './finding.ts'
import { type MachineRules, type Receiver, type SectionRange, sectionRange } from './receivers.ts'

/** What a receiver would do with a stream, and what helps. */
export function explainStream(report: StreamReport, receiver: Receiver): Finding[] {
  const findings: Finding[] = [...general(report, receiver)]
  const machine = report.configuration?.machine
  const rules = machine === undefined ? undefined : receiver.machines[machine]
  if (!rules) {
    findings.push({
      kind: 'unknown',
      where: '',
      what: `there are no rules for the devices of machine ${machine ?? '(not said)'} in ${receiver.name}`,
      wayOut: 'give what that QEMU writes with -M MACHINE -dump-vmstate FILE: --for FILE',
    })
    return findings
  }
  const upgrade = receiver.upgradeTo && `emu upgrade --to ${receiver.upgradeTo}`
  for (const section of identified(report.sections))
    findings.push(...sectionFindings(section, rules, receiver, upgrade))
  findings.push(...blockFindings(report, rules, upgrade))
  for (const { what, wayOut } of rules.caveats) findings.push({ kind: 'note', where: '', what, wayOut })
  return findings
}

/** The same, with a receiver's `-dump-vmstate` output in the place of rules. */
export function explainByDump(report: StreamReport, dump: VmstateDump, name: string): Finding[] {
  const findings: Finding[] = []
  const machine = report.configuration?.machine
  if (machine !== undefined && dump.machine !== undefined && machine !== dump.machine)
    findings.push({
      kind: 'rejected',
      where: '',
      what: `the stream is of machine ${machine}, ${name} is of ${dump.machine}`,
      message: `Machine type received is '${machine}' and local is '${dump.machine}'`,
    })
  const byVmsd = new Map<string, DumpedDevice[]>()
  for (const device of dump.devices) {
    const list = byVmsd.get(device.table.name)
    if (list) list.push(device)
    else byVmsd.set(device.table.name, [device])
  }
  const missing: string[] = []
  for (const section of identified(report.sections)) {
    if (section.kind !== 'full') continue
    const vmsd = section.state?.name || section.idstr.slice(section.idstr.lastIndexOf('/') + 1)
    const candidates = byVmsd.get(vmsd)
    if (!candidates) missing.push(`${section.idstr}/${section.instanceId}`)
    else {
      // Several device types share a vmstate name: what the best of them says counts.
      const verdicts = candidates.map(({ table }) => compareWithDump(section, table))
      findings.push(...verdicts.reduce((best, v) => (v.length < best.length ? v : best)))
    }
  }
  if (missing.length > 0)
    findings.push({
      kind: 'unknown',
      where: '',
      what: `a dump does not list state of ${missing.join(', ')}: QEMU registers it in another way, or has no such device`,
    })
  return findings
}

/** Each section once, where it names itself. */
const identified = (sections: readonly SectionReport[]): SectionReport[] =>
  sections.filter((s) => s.kind === 'start' || s.kind === 'full')

function* general(report: StreamReport, receiver: Receiver): Generator<Finding> {
  const { configuration, ram } = report
  for (const { offset, message, fatal, damage } of report.problems)
    if (fatal || damage)
      yield { kind: 'rejected', where: '', what: `the stream is damaged: ${message}`, offset, wayOut: 'save it again' }
  const upgrade =
    receiver.upgradeTo && receiver.machines[configuration?.machine ?? ''] && `emu upgrade --to ${receiver.upgradeTo}`
  const named = /-(\d+)\.(\d+)$/.exec(configuration?.machine ?? '')
  if (named) {
    const [major, minor] = [Number(named[1]), Number(named[2])]
    if (major > receiver.release[0] || (major === receiver.release[0] && minor > receiver.release[1]))
      yield {
        kind: 'rejected',
        where: '',
        what: `${receiver.name} has no machine type ${configuration!.machine}`,
        message: `Machine type received is '${configuration!.machine}'`,
        wayOut: `start the guest with a machine type that both have, such as ${configuration!.machine.replace(/\d+\.\d+$/, receiver.release.join('.'))}`,
      }
  }
  for (const capability of configuration?.capabilities ?? []) {
    if (receiver.capabilities.includes(capability))
      yield {
        kind: 'depends',
        where: '',
        what: `capability ${capability} was on at the sender`,
        wayOut: `migrate_set_capability ${capability} on`,
      }
    else
      yield {
        kind: 'rejected',
        where: '',
        what: `${receiver.name} does not know capability ${capability}`,
        message: `Received capability ${capability} is off, but local is unknown`,
        wayOut: `save it without ${capability}`,
      }
  }
  for (const { id, offset, payload } of report.commands) {
    if (id <= receiver.lastCommand) continue
    const switchover = commandName(id) === 'SWITCHOVER_START'
    yield {
      kind: 'rejected',
      where: `command ${commandName(id) ?? id}`,
      what: `${receiver.name} knows commands up to ${receiver.lastCommand}`,
      message: `MIG_CMD 0x${id.toString(16)} unknown (len 0x${payload.length.toString(16)})`,
      wayOut:
        [switchover && '-global migration.send-switchover-start=off at the sender', upgrade]
          .filter(Boolean)
          .join(', or ') || 'another sender',
      offset,
    }
  }
  const packed = ram?.blocks.some((b) => b.compressedPages > 0)
  if (packed && !receiver.ramRecords.includes('compressed'))
    yield {
      kind: 'rejected',
      where: 'ram/0',
      what: `${receiver.name} does not know compressed pages`,
      wayOut: 'save it without capability compress',
    }
  if (ram && ram.flushes > 0 && !receiver.ramRecords.includes('flush'))
    yield {
      kind: 'rejected',
      where: 'ram/0',
      what: `${receiver.name} does not know the end of a multifd round (MULTIFD_FLUSH)`,
      wayOut: '-global migration.multifd-flush-after-each-section=on at the sender',
    }
}

function* sectionFindings(
  section: SectionReport,
  rules: MachineRules,
  receiver: Receiver,
  upgrade: string | undefined,
): Generator<Finding> {
  const { idstr, instanceId, version, offset } = section
  const where = `${idstr}/${instanceId}`
  const range = sectionRange(rules, idstr)
  if (!range) {
    yield {
      kind: 'rejected',
      where,
      what: `${receiver.name} has no such section on this machine`,
      message: `Unknown savevm section or instance '${idstr}' ${instanceId}. Make sure that your current VM setup matches your saved VM setup, including any hotplugged devices`,
      wayOut: idstr === 'virt_acpi_build' && upgrade ? upgrade : 'take the device out of the machine before saving',
      offset,
    }
    return
  }
  const verdict = versionFinding(where, idstr, version, range.minimum, range.maximum, receiver.name)
  if (verdict) yield { ...verdict, offset, ...(upgrade && { wayOut: upgrade }) }
  else if (range.needs) yield { kind: 'depends', where, what: `the receiver needs ${range.needs}`, offset }
  for (const sub of section.state?.subsections ?? [])
    yield* subsectionFindings(where, sub, range, receiver.name, upgrade)
}

function* subsectionFindings(
  where: string,
  { name, version }: { readonly name: string; readonly version: number },
  { subsections }: SectionRange,
  receiver: string,
  upgrade: string | undefined,
): Generator<Finding> {
  const known = subsections?.[name]
  if (!subsections) return
  const wayOut = upgrade && { wayOut: upgrade }
  if (!known) yield { kind: 'rejected', where, what: `${receiver} does not know subsection ${name}`, ...wayOut }
  else {
    const verdict = versionFinding(where, name, version, known[0], known[1], receiver)
    if (verdict) yield { ...verdict, ...wayOut }
  }
}

function* blockFindings({ ram }: StreamReport, rules: MachineRules, upgrade: string | undefined): Generator<Finding> {
  for (const { idstr, usedLength } of ram?.blocks ?? []) {
    const rule = rules.blocks.find((b) => (typeof b.idstr === 'string' ? b.idstr === idstr : b.idstr.test(idstr)))
    const where = `RAM ${idstr}`
    if (rule?.needs) yield { kind: 'depends', where, what: `the receiver needs ${rule.needs}` }
    else if (idstr === 'riscv_virt_board.ram')
      yield { kind: 'depends', where, what: `the receiver needs the same size: -m ${usedLength / 2 ** 20}M` }
    else if (!rule)
      yield idstr.startsWith('/rom@') || idstr.includes('/')
        ? {
            kind: 'rejected',
            where,
            what: 'the receiver has no such RAM block',
            message: `Unknown ramblock "${idstr}", cannot accept migration`,
            ...(upgrade && { wayOut: upgrade }),
          }
        : {
            kind: 'depends',
            where,
            what: `the receiver needs a block of that name: -object memory-backend-ram,id=${idstr}`,
          }
  }
}

/** Findings for people, the worst first. */
export function* explainText(findings: readonly Finding[], receiver: string): Generator<string> {
  const count = findings.filter((f) => f.kind === 'rejected').length
  yield count > 0
    ? `${receiver} rejects this stream (${count} ${count === 1 ? 'reason' : 'reasons'})`
    : `${receiver} has no reason to reject this stream${findings.some((f) => f.kind === 'unknown') ? ', as far as is known' : ''}`
  for (const kind of ['rejected', 'depends', 'unknown', 'note'] as const)
    for (const { where, what, message, wayOut, offset } of findings.filter((f) => f.kind === kind)) {
      yield `${kind}${where ? ` ${where}` : ''}: ${what}${offset === undefined ? '' : ` (offset 0x${offset.toString(16)})`}`
      if (message) yield `    it says: ${message}`
      if (wayOut) yield `    way out: ${wayOut}`
    }
}
