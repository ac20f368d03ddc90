import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { emu } from './harness/emu.ts'

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ferryvm-cli-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

async function refused(args: string[]): Promise<string> {
  const process = emu(args)
  const timer = setTimeout(() => process.child.kill('SIGKILL'), 60_000)
  const { code } = await process.exited
  clearTimeout(timer)
  expect(code, `${args.join(' ')}\n${process.out.stdout}${process.out.stderr}`).toBe(1)
  expect(process.out.stdout).toBe('')
  return process.out.stderr.trim()
}

describe('emu run: what is wrong is said in one line, and the exit status says failure', { timeout: 90_000 }, () => {
  it.each([
    [['-M', 'q35'], /-M q35: unsupported machine type \(there is: virt\)/],
    [['-M', 'virt,profile=qemu-3'], /unknown profile \(there are: qemu-7.2, qemu-10.0\)/],
    [['-M', 'virt,colour=red'], /unknown machine property/],
    [['-m', '12Q'], /not a size/],
    [['-m', '64G'], /at most 3G/],
    [['-smp', '0'], /1 to 8 harts/],
    [['-guest', 'colour=3'], /-guest: embedded guest: no option 'colour' \(there are: .*dirtyBytes/],
    [['-guest', 'dirtyBytes=16K,linesPerSecond=0'], /linesPerSecond is 0; it must be an integer from 1/],
    [['-uuid', '12'], /-uuid 12: not a UUID/],
    [['-cpu', 'max'], /unsupported CPU model/],
    [['-cpu', 'rv64,zicboz=off'], /-cpu rv64,zicboz: no property can be set; .*profile=/],
    [['-M', 'virt,profile=qemu-10.0', '-M', 'colour=red'], /-M virt,colour: unknown machine property/],
    [['-kernel', '/nonexistent/Image'], /-kernel \/nonexistent\/Image: ENOENT/],
    [['-append', 'quiet'], /-append: needs -kernel/],
    [['-drive', 'file=/nonexistent/disk.img'], /-drive file=\/nonexistent\/disk.img: .*(ENOENT|no such file)/i],
    [['-drive', 'format=raw'], /file= is missing/],
    [['-device', 'e1000'], /no such driver \(there are: .*virtio-blk-pci/],
    [['-device', 'virtio-blk-pci,drive=hd9'], /there is no -drive with id=hd9/],
    [['-device', 'intel-iommu,aw-bits=40'], /aw-bits/],
    [['-plugin', './nothing.js'], /--plugin .\/nothing.js: cannot be loaded/],
    [['-incoming', 'carrier-pigeon:7'], /carrier-pigeon/],
    [['-chardev', 'null'], /-chardev null: id= is missing/],
    [['-chardev', 'pty,id=c'], /-chardev pty,id=c: Node cannot make pseudo terminals/],
    [['-chardev', 'socket,id=c'], /-chardev socket,id=c: needs path= or port=/],
    [['-device', 'virtconsole'], /no bus takes virtio-serial devices/],
    [['-device', 'virtio-serial-pci', '-device', 'virtconsole,chardev=c'], /there is no -chardev with id=c/],
    [['-netdev', 'tap,id=n'], /-netdev tap,id=n: unsupported type \(there are: user, stream/],
    [['-netdev', 'user,id=n,hostfwd=tcp::1-:2'], /'hostfwd' is not supported/],
    [['-netdev', 'stream,id=n,addr.type=inet,addr.host=127.0.0.1,addr.port=1'], /-netdev stream,id=n: .*ECONNREFUSED/],
    [['-netdev', 'user,id=n', '-netdev', 'user,id=n'], /id=n is taken/],
    [['-device', 'virtio-net-pci,netdev=n'], /there is no -netdev with id=n/],
    [['-nic', 'user'], /-nic user: only none is supported/],
    [['-trace', 'no_such_event'], /-trace no_such_event: no such event; -trace help lists them/],
    [['-trace', 'colour=red'], /there is no colour=/],
    [['-trace', 'savevm_*,file=/nonexistent/log'], /-trace: \/nonexistent\/log: ENOENT/],
    [['-M', 'virt,acpi=maybe'], /acpi=maybe: there are auto, on, off/],
    [['-M', 'virt,acpi=on'], /acpi=on: stock QEMU has it with profile=qemu-10.0/],
    [['-M', 'virt,aia=imsic'], /aia=imsic: there are none, aplic, aplic-imsic/],
    [['-M', 'virt,aia=aplic-imsic,aia-guests=8'], /aia-guests=8: a number from 0 to 7/],
    [['-M', 'virt,aia=aplic'], /the embedded guest knows the PLIC only/],
    [['-serial', 'tcp:nowhere'], /is not unix:PATH or tcp:HOST:PORT/],
  ])('%j', async (args, message) => {
    expect(await refused(['run', '-serial', 'none', ...args])).toMatch(message)
  })

  it('an unknown option names itself', async () => {
    expect(await refused(['run', '-frobnicate'])).toMatch(/unknown option '--frobnicate'/)
  })

  it('a port in use names the port', async () => {
    const server = createServer()
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
    const { port } = server.address() as { port: number }
    expect(await refused(['run', '-serial', 'none', '-qmp', `tcp:127.0.0.1:${port},server=on`])).toMatch(
      new RegExp(`cannot listen on tcp:127.0.0.1:${port}: .*EADDRINUSE`),
    )
    expect(await refused(['run', '-serial', 'none', '-incoming', `tcp:127.0.0.1:${port}`])).toMatch(String(port))
    server.close()
  })

  it('a kernel that is an ELF file of another machine is refused', async () => {
    const file = join(folder, 'x86.elf')
    const header = Buffer.alloc(64)
    header.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1])
    header.writeUInt16LE(62, 18)
    writeFileSync(file, header)
    expect(await refused(['run', '-serial', 'none', '-kernel', file])).toMatch(/not for little-endian RV64/)
  })
})
