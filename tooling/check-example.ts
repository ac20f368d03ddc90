/**
 * Does what a third party does with what we publish: installs the tarballs with npm in a folder outside the workspace, type-checks,
 * tests and builds an example there (a device or a transport), and moves a guest with it between two processes of the installed
 * `emu`.
 *
 *     node --conditions=source tooling/check-example.ts <folder with tarballs> <name below examples/>
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { cpSync, globSync, mkdtempSync, readFileSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { QmpClient } from '../apps/emu/src/qmp-client.ts'

const root = resolve(import.meta.dirname, '..')
const tarballs = resolve(process.argv[2] ?? '')
const plugin = ['-plugin', './src/index.ts']

interface Example {
  /** Options of `emu run` that use it. */
  readonly options: readonly string[]
  /** A section of device state that is its own. */
  readonly section?: string
  /** Where the destination listens. */
  incoming(): Promise<string>
}
const EXAMPLES: Readonly<Record<string, Example>> = {
  'acme-rng': {
    options: [...plugin, '-device', 'acme-rng,seed=7'],
    section: 'acme-rng',
    incoming: async () => 'tcp:127.0.0.1:0',
  },
  // What a port of the system's choice became, query-migrate says for our own transports only.
  'transport-websocket': { options: plugin, incoming: async () => `ws://127.0.0.1:${await freePort()}/guest` },
}
const name = process.argv[3] ?? ''
const example = EXAMPLES[name]
if (!example) throw new Error(`"${name}" is none of ${Object.keys(EXAMPLES).join(', ')}`)
const { options: exampleOptions, section } = example
const folder = mkdtempSync(join(tmpdir(), `${name}-`))
const bin = (name: string) => join(folder, 'node_modules/.bin', name)
/** No trace of the workspace: neither its executables nor its export condition. */
const env: NodeJS.ProcessEnv = { ...process.env, NODE_OPTIONS: '' }
for (const name of Object.keys(env)) if (/^(npm|pnpm)_/i.test(name)) delete env[name]

function run(what: string, command: string, args: readonly string[]): string {
  const started = performance.now()
  try {
    const text = execFileSync(command, args, { cwd: folder, env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
    console.log(`       ${what}: ${((performance.now() - started) / 1000).toFixed(1)} s`)
    return text
  } catch (cause) {
    const { stdout, stderr } = cause as { stdout?: string; stderr?: string }
    throw new Error(`${what}: ${command} ${args.join(' ')}\n${stdout ?? ''}${stderr ?? ''}`, { cause })
  }
}

function check(condition: unknown, complaint: string): asserts condition {
  if (!condition) throw new Error(complaint)
}

function writePackage(): void {
  cpSync(join(root, 'examples', name), folder, {
    recursive: true,
    filter: (path) => !/[/\\](node_modules|dist|\.turbo)$/.test(path),
  })
  const manifest = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
  const ours: Record<string, string> = {}
  for (const file of globSync('*.tgz', { cwd: tarballs })) {
    const inside = execFileSync('tar', ['-xzOf', join(tarballs, file), 'package/package.json'], { encoding: 'utf8' })
    ours[JSON.parse(inside).name] = `file:${join(tarballs, file)}`
  }
  for (const name of Object.keys(manifest.devDependencies)) {
    if (name.startsWith('@ferryvm/')) check(ours[name], `no tarball of ${name} in ${tarballs}`)
  }
  manifest.peerDependencies = { '@ferryvm/core': '*' }
  // All of them: what emu depends on is not on the registry yet.
  manifest.devDependencies = { ...manifest.devDependencies, ...ours }
  writeFileSync(join(folder, 'package.json'), JSON.stringify(manifest, null, 2))
}

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as { port: number }
  await new Promise((resolve) => server.close(resolve))
  return port
}

async function startEmu(side: string, ...args: string[]) {
  const socket = join(folder, `${side}.qmp`)
  const devices = [
    ...exampleOptions,
    ...['-device', 'intel-iommu', '-drive', 'file=disk.img,if=none,id=hd0'],
    ...['-device', 'virtio-blk-pci,drive=hd0,disable-legacy=on,iommu_platform=on'],
  ]
  const options = ['run', '-m', '64M', ...devices, '-serial', 'stdio', '-qmp', `unix:${socket},server=on`, ...args]
  const child = spawn(bin('emu'), options, { cwd: folder, env })
  const out = { text: '' }
  child.stdout.setEncoding('utf8').on('data', (text) => (out.text += text))
  child.stderr.setEncoding('utf8').on('data', (text) => (out.text += text))
  const exited = new Promise<number | null>((done) => child.once('exit', done))
  const early = exited.then((code) => {
    throw new Error(`emu ${side} ended with status ${code}\n${out.text}`)
  })
  early.catch(() => {})
  children.push(child)
  return { child, out, exited, qmp: await Promise.race([QmpClient.connect(socket), early]) }
}
const children: ChildProcess[] = []

async function eventually(condition: () => boolean, complaint: () => string): Promise<void> {
  const deadline = performance.now() + 60_000
  while (!condition()) {
    check(performance.now() < deadline, complaint())
    await new Promise((wake) => setTimeout(wake, 50))
  }
}

/** Boots the embedded guest with the plugin, moves it to another process, and lets the guest say how that was. */
async function migrate(): Promise<void> {
  writeFileSync(join(folder, 'disk.img'), '')
  truncateSync(join(folder, 'disk.img'), 8 * 2 ** 20)
  const here = await startEmu('a')
  await eventually(
    () => here.out.text.split('\n').length > 10,
    () => `the guest prints nothing:\n${here.out.text}`,
  )
  const incoming = await example!.incoming()
  const there = await startEmu('b', '-incoming', incoming, '-report-sections')
  const [address] = (await there.qmp.execute('query-migrate'))['socket-address'] ?? []
  await here.qmp.execute('migrate-set-capabilities', { capabilities: [{ capability: 'events', state: true }] })
  await here.qmp.execute('migrate', { uri: address ? `tcp:${address.host}:${address.port}` : incoming })
  const end = await here.qmp.waitEvent((e) => e.event === 'MIGRATION' && /completed|failed/.test(`${e.data?.status}`))
  check(end.data?.status === 'completed', `the migration ended as ${end.data?.status}\n${there.out.text}`)
  await here.qmp.execute('quit')
  check((await here.exited) === 0, 'the source did not quit with status 0')
  if (section)
    check(there.out.text.includes(`"idstr":"${section}"`), `no section ${section} arrived:\n${there.out.text}`)
  there.child.stdin.write('q')
  const code = await there.exited
  check(code === 0, `the guest is not content (status ${code}):\n${there.out.text.slice(-2000)}`)
}

/** A user's project: the built plugin is installed there, emu is somewhere else. */
function usedByName(): void {
  const project = join(folder, 'project')
  for (const part of ['package.json', 'dist'])
    cpSync(join(folder, part), join(project, 'node_modules', name, part), { recursive: true })
  // What the package depends on is installed beside it.
  const { dependencies = {} } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
  for (const other of Object.keys(dependencies)) {
    symlinkSync(join(folder, 'node_modules', other), join(project, 'node_modules', other))
  }
  const args = ['info', 'sections', '-plugin', name, ...exampleOptions.slice(plugin.length)]
  const sections = execFileSync(bin('emu'), args, { cwd: project, env, encoding: 'utf8' })
  check(sections.includes(section ?? 'ram'), `no section ${section ?? 'ram'} in\n${sections}`)
}

try {
  writePackage()
  run('npm install', 'npm', ['install', '--no-audit', '--no-fund', '--prefer-offline', '--loglevel=error'])
  run('types', bin('tsc'), [])
  run('tests', bin('vitest'), ['run'])
  run('build', bin('tsup'), [])
  const sections = run('emu info sections', bin('emu'), ['info', 'sections', ...exampleOptions])
  if (section) {
    const line = new RegExp(`^ +\\d+ +0 +1 +0 {2}${section}$`, 'm')
    check(line.test(sections), `no section ${section} in\n${sections}`)
  }
  usedByName()
  const started = performance.now()
  await migrate()
  console.log(`       migration between two installed emus: ${((performance.now() - started) / 1000).toFixed(1)} s`)
} catch (error) {
  console.error((error as Error).message)
  process.exitCode = 1
} finally {
  for (const child of children) child.kill('SIGKILL')
  rmSync(folder, { recursive: true, force: true })
}
