import { ComplianceFailure } from '../runner.ts'

/** What an earlier release sent: the payload of a section, and its version. */
export interface GoldenStream {
  readonly name: string
  readonly version: number
  readonly bytes: Uint8Array
}
/** A folder of files `<anything>.v<version>.bin` (Node), or the streams themselves. */
export type GoldenStreams = URL | readonly GoldenStream[]

export async function readGoldenStreams(streams: GoldenStreams | undefined): Promise<readonly GoldenStream[]> {
  if (!(streams instanceof URL)) return streams ?? []
  // Only Node has folders; the specifier is a variable so that bundlers for browsers leave it alone.
  const specifier = 'node:fs/promises'
  const fs = (await import(/* @vite-ignore */ specifier)) as typeof import('node:fs/promises')
  const names = (await fs.readdir(streams)).filter((name) => name.endsWith('.bin')).sort()
  if (names.length === 0) throw new ComplianceFailure(`no *.bin in ${streams}`)
  return Promise.all(
    names.map(async (name) => {
      const version = /\.v(\d+)\.bin$/.exec(name)?.[1]
      if (version === undefined) throw new ComplianceFailure(`'${name}' does not end with .v<version>.bin`)
      return { name, version: Number(version), bytes: new Uint8Array(await fs.readFile(new URL(name, streams))) }
    }),
  )
}
