import { execFileSync } from 'node:child_process'
import { createCipheriv } from 'node:crypto'
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { distinguishedName } from '../distinguished-name.ts'
import { createTlsObjects } from './index.ts'
import { readSecret } from './secret.ts'

const dir = mkdtempSync(join(tmpdir(), 'ferry-objects-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))
const file = (name: string, text: string) => {
  writeFileSync(join(dir, name), text)
  return join(dir, name)
}

describe('secrets', () => {
  const key = Buffer.from(Array.from({ length: 32 }, (_, i) => i))
  const iv = Buffer.alloc(16, 7)
  const encrypt = (text: string) => {
    const cipher = createCipheriv('aes-256-cbc', key, iv)
    return Buffer.concat([cipher.update(text), cipher.final()]).toString('base64')
  }
  const text = (options: Parameters<typeof readSecret>[0]) => Buffer.from(readSecret(options)).toString()

  it('are data or a file, raw or base64, and may be encrypted', () => {
    expect(text({ data: 'letmein' })).toBe('letmein')
    expect(text({ data: 'bGV0bWVpbg==', format: 'base64' })).toBe('letmein')
    expect(text({ file: file('raw', 'let\nme\n') })).toBe('let\nme\n')
    expect(text({ file: file('base64', 'bGV0\nbWVpbg==\n'), format: 'base64' })).toBe('letmein')
    expect(text({ data: encrypt('letmein'), format: 'base64', key, iv: iv.toString('base64') })).toBe('letmein')
  })
  it.each<[string, Parameters<typeof readSecret>[0], RegExp]>([
    ['key of another size', { data: 'AAAA', key: key.subarray(1), iv: 'x' }, /its key has 31 bytes, not 32/],
    ['no iv', { data: 'AAAA', key }, /iv is missing/],
    ['short iv', { data: 'AAAA', key, iv: 'AAAA' }, /iv has 3 bytes, not 16/],
    ['iv alone', { data: 'AAAA', iv: 'AAAA' }, /keyid is missing/],
    ['no whole block', { data: 'AAAA', key, iv: iv.toString('base64') }, /4 bytes, which is no multiple of 16/],
    [
      'wrong key',
      { data: encrypt('letmein'), format: 'base64', key: Buffer.alloc(32), iv: iv.toString('base64') },
      /was not encrypted with this key/,
    ],
  ])('%s is refused', (_, options, message) => expect(() => readSecret(options)).toThrow(message))

  it('is never a pipe without a writer, which would be waited for', () => {
    const pipe = join(dir, 'pipe')
    execFileSync('mkfifo', [pipe])
    expect(() => readSecret({ file: pipe })).toThrow('it is no regular file')
  })
  it('has a bound', () => {
    truncateSync(file('large', ''), 2 ** 40)
    expect(() => readSecret({ file: join(dir, 'large') })).toThrow(/has 1099511627776 bytes, at most 1048576 are read/)
  })
})

describe('authorization', () => {
  const ask = async (object: string) => {
    const objects = createTlsObjects()
    await objects.addText(object)
    return objects.authorization('a')
  }
  it('authz-simple is one name', async () => {
    const authz = await ask('authz-simple,id=a,identity=CN=laptop.example,,O=Acme')
    expect(authz.allows('CN=laptop.example,O=Acme')).toBe(true)
    expect(authz.allows('CN=laptop.example')).toBe(false)
    expect(authz.allows('cn=laptop.example,O=Acme')).toBe(false)
  })
  it('in authz-list the first rule that matches decides, and without one the policy', async () => {
    const authz = await ask(
      'authz-list,id=a,policy=deny,rules.0.match=CN=bob,rules.0.policy=deny,rules.1.match=CN=?*b,rules.1.policy=allow,rules.1.format=glob',
    )
    expect(['CN=bob', 'CN=rob', 'CN=b', 'CN=rob,O=x'].map((name) => authz.allows(name))).toEqual([
      false,
      true,
      false,
      false,
    ])
    expect((await ask('authz-list,id=a')).allows('anybody')).toBe(false)
    expect((await ask('authz-list,id=a,policy=allow')).allows('anybody')).toBe(true)
  })
  it('a pattern of stars takes no exponential time', async () => {
    const match = `${'*a'.repeat(2000)}b`
    const authz = await ask(
      JSON.stringify({ 'qom-type': 'authz-list', id: 'a', rules: [{ match, policy: 'allow', format: 'glob' }] }),
    )
    expect(authz.allows('a'.repeat(4000))).toBe(false)
  })
  it('authz-list-file is read again when somebody comes, and a broken one lets nobody in', async () => {
    const path = file('list.json', '{"policy":"allow"}')
    const [live, once] = [
      await ask(`authz-list-file,id=a,filename=${path}`),
      await ask(`authz-list-file,id=a,filename=${path},refresh=off`),
    ]
    expect([live.allows('x'), once.allows('x')]).toEqual([true, true])
    file('list.json', '{"policy":"deny"}')
    expect([live.allows('x'), once.allows('x')]).toEqual([false, true])
    file('list.json', '{"policy":')
    expect(() => live.allows('x')).toThrow('list.json is no JSON')
  })
})

describe('objects', () => {
  it('exist once, are listed, and go', async () => {
    const objects = createTlsObjects()
    await objects.add('secret', 's0', { data: 'x' })
    await objects.add('authz-list', 'a0', { rules: [{ match: 'x', policy: 'allow' }] })
    await expect(objects.add('secret', 's0', { data: 'y' })).rejects.toThrow('there is an object with this id already')
    expect(objects.list()).toEqual([
      { id: 's0', type: 'secret' },
      { id: 'a0', type: 'authz-list' },
    ])
    expect(objects.properties('s0')).toContainEqual({ name: 'data', type: 'string', value: undefined })
    expect(objects.properties('a0')).toContainEqual({ name: 'policy', type: 'QAuthZListPolicy', value: 'deny' })
    expect(() => objects.credentials('a0')).toThrow('"a0" is a authz-list, not one with credentials of TLS')
    objects.remove('s0')
    expect(objects.properties('s0')).toBeUndefined()
    expect(() => objects.remove('s0')).toThrow('there is no object with id "s0"')
    await objects.add('secret', 's0', { data: 'again' })
  })
  it('of other types are refused, and authz-pam with what to take instead', async () => {
    const objects = createTlsObjects()
    await expect(objects.add('authz-pam', 'a', { service: 'qemu' })).rejects.toThrow(
      /PAM cannot be asked.*authz-list-file/,
    )
    await expect(objects.add('iothread', 'a', {})).rejects.toThrow(/unknown type \(there are: tls-creds-x509/)
    expect(objects.list()).toEqual([])
  })
  it('there is a bound on their number', async () => {
    const objects = createTlsObjects()
    for (let i = 0; i < 1000; i++) await objects.add('secret', `s${i}`, { data: 'x' })
    await expect(objects.add('secret', 's1000', { data: 'x' })).rejects.toThrow('there are 1000 objects')
  })
})

describe('names of certificates', () => {
  // What stock QEMU 7.2 said it denies, and what Node makes of the same certificate.
  it.each([
    [
      'C=GB\nL=Don + ST=Lon\nO=Acme\\, \\"Inc\\" \\<x\\>\\;=y\nOU=\\ lead\\+plus#\nCN=Jörg \\\\ test\nemailAddress=a@b.c\nUID=u1\nDC=example\nserialNumber=77\ntitle=boss\nGN=giv\nSN=sur',
      'C=GB,L=Don+ST=Lon,O=Acme\\, \\"Inc\\" \\<x\\>\\;=y,OU=\\ lead\\+plus#,CN=Jörg \\\\ test,EMAIL=a@b.c,UID=u1,DC=example,serialNumber=77,title=boss,givenName=giv,surName=sur',
    ],
    ['CN=source', 'CN=source'],
  ])('%s', (subject, name) => expect(distinguishedName({ subject })).toBe(name))
})
