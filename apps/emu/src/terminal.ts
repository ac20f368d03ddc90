import type { Chardev } from './chardev.ts'

const CTRL_A = 0x01
const HELP = [
  'C-a h    print this help',
  'C-a x    exit emulator',
  'C-a c    switch between console and monitor',
  'C-a C-a  sends C-a',
]

/**
 * The terminal of `-nographic`: the guest's serial port and the monitor share it; Ctrl-A is the escape.
 * Input from a pipe works the same, without raw mode.
 */
export class Terminal {
  /** The serial port's end. */
  readonly serial: Chardev
  /** The monitor's end. Lines are edited here; a line goes to {@link onMonitorLine}. */
  readonly #mux: boolean
  readonly #serialListeners = new Set<(bytes: Uint8Array) => void>()
  readonly #quit: () => void
  #monitorLine: ((line: string) => Promise<string>) | undefined
  #inMonitor: boolean
  #escape = false
  #line = ''
  /** Monitor commands run one after the other. */
  #work: Promise<void> = Promise.resolve()

  /** @param start what has the keyboard first */
  constructor(options: { quit: () => void; mux: boolean; start: 'serial' | 'monitor' }) {
    this.#quit = options.quit
    this.#mux = options.mux
    this.#inMonitor = options.start === 'monitor'
    const { stdin, stdout } = process
    if (stdin.isTTY) stdin.setRawMode(true)
    stdin.on('data', (bytes: Buffer) => this.#input(bytes))
    stdin.on('error', () => {})
    stdout.on('error', () => {}) // a closed pipe must not end the guest
    this.serial = {
      write: (bytes) => {
        if (stdout.write(bytes)) return undefined
        return new Promise((resolve) => stdout.once('drain', resolve))
      },
      setReadable: (readable) => void (this.#inMonitor || (readable ? stdin.resume() : stdin.pause())),
      onInput: (listener) => {
        this.#serialListeners.add(listener)
        return { [Symbol.dispose]: () => void this.#serialListeners.delete(listener) }
      },
      close: async () => {
        if (stdin.isTTY) stdin.setRawMode(false)
        stdin.pause()
      },
    }
  }

  /** @param execute runs a monitor command and returns what to print */
  connectMonitor(banner: string, execute: (line: string) => Promise<string>): void {
    this.#monitorLine = execute
    if (this.#inMonitor) this.#print(`${banner}\n(qemu) `)
  }

  #input(bytes: Buffer): void {
    const forGuest: number[] = []
    for (const byte of bytes) {
      if (this.#escape) {
        this.#escape = false
        const key = String.fromCharCode(byte).toLowerCase()
        if (byte === CTRL_A) this.#forward(byte, forGuest)
        else if (key === 'x') this.#quit()
        else if (key === 'h') this.#print(`\n${HELP.join('\n')}\n`)
        else if (key === 'c' && this.#mux && this.#monitorLine) {
          this.#inMonitor = !this.#inMonitor
          this.#print(this.#inMonitor ? '\n(qemu) ' : '\n')
        }
      } else if (byte === CTRL_A && this.#mux) this.#escape = true
      else this.#forward(byte, forGuest)
    }
    if (forGuest.length > 0) {
      const chunk = Uint8Array.from(forGuest)
      for (const listener of this.#serialListeners) listener(chunk)
    }
  }

  #forward(byte: number, forGuest: number[]): void {
    if (!this.#inMonitor) forGuest.push(byte)
    else if (byte === 0x0d || byte === 0x0a) {
      const line = this.#line
      this.#line = ''
      if (process.stdin.isTTY) this.#print('\n')
      this.#work = this.#work.then(async () => {
        const output =
          line.trim() === '' ? '' : await this.#monitorLine!(line).catch((error: Error) => `Error: ${error.message}\n`)
        this.#print(output + (this.#inMonitor ? '(qemu) ' : ''))
      })
    } else if (byte === 0x7f || byte === 0x08) {
      if (this.#line) {
        this.#line = this.#line.slice(0, -1)
        this.#print('\b \b')
      }
    } else if (byte >= 0x20) {
      this.#line += String.fromCharCode(byte)
      if (process.stdin.isTTY) this.#print(String.fromCharCode(byte))
    }
  }

  #print(text: string): void {
    process.stdout.write(process.stdin.isTTY ? text.replaceAll('\r', '').replaceAll('\n', '\r\n') : text)
  }
}
