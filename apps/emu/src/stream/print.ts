import { once } from 'node:events'

/** Long output, at the pace of whoever reads it. A reader that goes away (`| head`) is no error. */
export async function printLines(lines: Iterable<string>): Promise<void> {
  let failure: NodeJS.ErrnoException | undefined
  process.stdout.once('error', (error) => {
    failure = error
  })
  let text = ''
  for (const line of lines) {
    text += `${line}\n`
    if (text.length < 1 << 16) continue
    if (failure) break
    if (!process.stdout.write(text)) await once(process.stdout, 'drain').catch(() => {})
    text = ''
  }
  if (!failure && text !== '') process.stdout.write(text)
  if (failure && failure.code !== 'EPIPE') throw failure
}
