/** A message longer than this is no command. */
const MAX_MESSAGE_CHARS = 8 << 20

export type JsonEvent = { readonly value: unknown } | { readonly error: string }

/**
 * Takes JSON values out of a stream of text as soon as each is complete: QMP clients end commands with a newline, with
 * CR LF, or with nothing at all (clients.md section 1).
 */
export class JsonStream {
  #text = ''
  /** How far `#text` was looked at, and what the value that it begins with looked like up to there. */
  #at = 0
  #depth = 0
  #inString = false
  #escaped = false

  /** @returns values and errors in order; after an error reading goes on behind the broken text */
  push(chunk: string): JsonEvent[] {
    const events: JsonEvent[] = []
    this.#text += chunk
    for (;;) {
      if (this.#at === 0) {
        this.#text = this.#text.replace(/^[\s\ufffd]+/, '')
        if (this.#text === '') return events
        if (this.#text[0] !== '{' && this.#text[0] !== '[') {
          // Not the start of anything a client may send: give up up to the next opening brace or the end of the line.
          const end = /[{\n]/.exec(this.#text)
          if (!end && this.#text.length < MAX_MESSAGE_CHARS) {
            if (!/^[-"\w.+]*$/.test(this.#text)) this.#text = ''
            else return events
          } else this.#text = end ? this.#text.slice(end.index) : ''
          events.push({ error: 'Invalid JSON syntax' })
          continue
        }
      }
      const end = this.#endOfValue()
      if (end === undefined) {
        if (this.#text.length > MAX_MESSAGE_CHARS) {
          this.#cut(this.#text.length)
          events.push({ error: `a message longer than ${MAX_MESSAGE_CHARS} characters` })
        }
        return events
      }
      const text = this.#text.slice(0, end)
      this.#cut(end)
      try {
        events.push({ value: JSON.parse(text) })
      } catch {
        events.push({ error: 'Invalid JSON syntax' })
      }
    }
  }

  #endOfValue(): number | undefined {
    const text = this.#text
    for (; this.#at < text.length; this.#at++) {
      const c = text[this.#at]
      if (this.#inString) {
        if (this.#escaped) this.#escaped = false
        else if (c === '\\') this.#escaped = true
        else if (c === '"') this.#inString = false
      } else if (c === '"') this.#inString = true
      else if (c === '{' || c === '[') this.#depth++
      else if (c === '}' || c === ']') {
        if (--this.#depth === 0) return this.#at + 1
      }
    }
    return undefined
  }

  #cut(end: number): void {
    this.#text = this.#text.slice(end)
    this.#at = 0
    this.#depth = 0
    this.#inString = false
    this.#escaped = false
  }
}
