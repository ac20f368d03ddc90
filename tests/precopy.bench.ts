import { nextTurn, PAGE_BYTES, type Transport } from '@ferryvm/core'
import { createMigration } from '@ferryvm/migration'
import { tcp, unix } from '@ferryvm/transport-socket'
import { createFakeMachine } from '../packages/migration/src/testing/fake-machine.ts'
import { loopTransport } from '../packages/migration/src/testing/loop-transport.ts'

/** 256 MiB of non-zero memory, both ends in this process (so one core does the work of both), no bandwidth limit. */
export default async function bench(report: (line: string) => void): Promise<void> {
  const pages = 65536
  const ways: [string, Transport<any>, string][] = [
    ['in process', loopTransport({}), 'loop:x'],
    ['unix', unix(), `unix:/tmp/ferry-bench-${process.pid}.sock`],
    ['tcp loopback', tcp(), 'tcp:127.0.0.1:0'],
  ]
  for (const [name, transport, uri] of ways) {
    const ends = await Promise.all(
      [0, 1].map(async () => {
        const machine = createFakeMachine({ ramPages: pages, writesPerTurn: 16, verify: false })
        return { machine, migration: createMigration({ machine, transports: [transport] }) }
      }),
    )
    const [a, b] = ends as [(typeof ends)[0], (typeof ends)[0]]
    const ram = a.machine.memory.blocks[1]!
    const words = new Uint32Array(ram.bytes.buffer, ram.offset, ram.sizeBytes / 4)
    for (let i = 512; i < words.length; i += 1024) words[i] = i
    a.migration.setParameters({ 'max-bandwidth': 0, 'downtime-limit': 50 })
    a.machine.start()
    // How long the event loop was busy at a stretch: a device access of a hart would have to wait for that long. CPU
    // time of this thread, so that other programs on this machine do not count.
    const cpuMs = () => {
      const { user, system } = process.threadCpuUsage()
      return (user + system) / 1000
    }
    let worst = 0
    let watching = true
    const watch = (async () => {
      for (let last = cpuMs(); watching; ) {
        await nextTurn()
        const now = cpuMs()
        worst = Math.max(worst, now - last)
        last = now
      }
    })()
    const arriving = await b.migration.incoming(uri)
    const began = performance.now()
    const cpuBegan = cpuMs()
    await a.migration.migrate(arriving.uri)
    await arriving.done
    const ms = performance.now() - began
    const cpu = cpuMs() - cpuBegan
    watching = false
    await watch
    const info = a.migration.info()
    const bytes = info.ram!.normal * PAGE_BYTES
    report(
      `precopy ${name}: ${(bytes / ms / 1048.576).toFixed(0)} MiB/s (${(bytes / cpu / 1048.576).toFixed(0)} per CPU second of both ends), ` +
        `downtime ${info.downtime} ms, ${info.ram!['dirty-sync-count']} passes, longest turn ${worst.toFixed(1)} ms`,
    )
    for (const { machine, migration } of ends) {
      await migration[Symbol.asyncDispose]()
      await machine[Symbol.asyncDispose]()
    }
  }
}
