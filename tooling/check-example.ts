/**
 * Does what a third party does with what we publish: installs the tarballs with npm in a folder outside the workspace, type-checks,
 * tests and builds `examples/acme-rng` there, and moves a guest with that device between two processes of the installed `emu`.
 *
 *     node --conditions=source tooling/check-example.ts <folder with tarballs>
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { cpSync, globSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { QmpClient } from '../apps/emu/src/qmp-client.ts'

const root = resolve(import.meta.dirname, '..')
const tarballs = resolve(process.argv[2] ?? '')
const folder = mkdtempSync(join(tmpdir(), 'acme-rng-'))
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
  cpSync(join(root, 'examples/acme-rng'), folder, {
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

const DEVICE = ['-plugin', './src/index.ts', '-device', 'acme-rng,seed=7']

async function startEmu(name: string, ...args: string[]) {
  const socket = join(folder, `${name}.qmp`)
  const devices = [
    ...DEVICE,
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
    throw new Error(`emu ${name} ended with status ${code}\n${out.text}`)
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

/** Boots the embedded guest with the plugin's device, moves it to another process, and lets the guest say how that was. */
async function migrate(): Promise<void> {
  writeFileSync(join(folder, 'disk.img'), '')
  truncateSync(join(folder, 'disk.img'), 8 * 2 ** 20)
  const here = await startEmu('a')
  await eventually(
    () => here.out.text.split('\n').length > 10,
    () => `the guest prints nothing:\n${here.out.text}`,
  )
  const there = await startEmu('b', '-incoming', 'tcp:127.0.0.1:0', '-report-sections')
  const [address] = (await there.qmp.execute('query-migrate'))['socket-address']
  await here.qmp.execute('migrate-set-capabilities', { capabilities: [{ capability: 'events', state: true }] })
  await here.qmp.execute('migrate', { uri: `tcp:${address.host}:${address.port}` })
  const end = await here.qmp.waitEvent((e) => e.event === 'MIGRATION' && /completed|failed/.test(`${e.data?.status}`))
  check(end.data?.status === 'completed', `the migration ended as ${end.data?.status}\n${there.out.text}`)
  await here.qmp.execute('quit')
  check((await here.exited) === 0, 'the source did not quit with status 0')
  check(there.out.text.includes('"idstr":"acme-rng"'), `no section acme-rng arrived:\n${there.out.text}`)
  there.child.stdin.write('q')
  const code = await there.exited
  check(code === 0, `the guest is not content (status ${code}):\n${there.out.text.slice(-2000)}`)
}

/** A user's project: the built plugin is installed there, emu is somewhere else. */
function usedByName(): void {
  const project = join(folder, 'project')
  for (const part of ['package.json', 'dist'])
    cpSync(join(folder, part), join(project, 'node_modules/acme-rng', part), { recursive: true })
  const args = ['info', 'sections', '-plugin', 'acme-rng', '-device', 'acme-rng']
  const sections = execFileSync(bin('emu'), args, { cwd: project, env, encoding: 'utf8' })
  check(sections.includes('acme-rng'), `no section acme-rng in\n${sections}`)
}

try {
  writePackage()
  run('npm install', 'npm', ['install', '--no-audit', '--no-fund', '--prefer-offline', '--loglevel=error'])
  run('types', bin('tsc'), [])
  run('tests', bin('vitest'), ['run'])
  run('build', bin('tsup'), [])
  const sections = run('emu info sections', bin('emu'), ['info', 'sections', ...DEVICE])
  check(/^ +\d+ +0 +1 +0 {2}acme-rng$/m.test(sections), `no section acme-rng in\n${sections}`)
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
