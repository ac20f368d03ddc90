import { ByteWriter } from './bytes.ts'
import { FunctionBody, VALUE_TYPE, type ValueType } from './function-body.ts'

interface Signature {
  readonly parameters: readonly ValueType[]
  readonly results: readonly ValueType[]
}

/** Assembles a module: shared memory and perhaps a table imported, one table of functions of one type of its own. Spec: WebAssembly Core, section 5.5. */
export class ModuleBuilder {
  readonly #types: Signature[] = []
  readonly #typeKeys = new Map<string, number>()
  readonly #imports: { module: string; name: string; type: number }[] = []
  readonly #functions: { type: number; body: FunctionBody | undefined }[] = []
  readonly #globals: { type: ValueType; initial: number }[] = []
  readonly #exports: { name: string; kind: 'function' | 'table' | 'global'; index: number }[] = []
  #memory: { module: string; name: string } | undefined
  #importedTable: { module: string; name: string } | undefined
  #table: { type: number; entries: readonly number[] } | undefined

  type(parameters: readonly ValueType[], results: readonly ValueType[]): number {
    const key = `${parameters}>${results}`
    const known = this.#typeKeys.get(key)
    if (known !== undefined) return known
    this.#typeKeys.set(key, this.#types.length)
    return this.#types.push({ parameters, results }) - 1
  }

  importSharedMemory(module: string, name: string): void {
    this.#memory = { module, name }
  }

  /** Table 0: untyped references to functions. A table of its own is then table 1. */
  importTable(module: string, name: string): void {
    this.#importedTable = { module, name }
  }

  /** All imports come before the first function. @returns the function index */
  importFunction(
    module: string,
    name: string,
    parameters: readonly ValueType[],
    results: readonly ValueType[],
  ): number {
    if (this.#functions.length > 0) throw new Error('imports come before functions')
    return this.#imports.push({ module, name, type: this.type(parameters, results) }) - 1
  }

  /** Reserves a function index, so that other functions can name it before its body exists. */
  declare(type: number): number {
    return this.#imports.length + this.#functions.push({ type, body: undefined }) - 1
  }

  define(functionIndex: number, write: (body: FunctionBody) => void): void {
    const entry = this.#functions[functionIndex - this.#imports.length]
    const body = new FunctionBody(this.#types[entry.type].parameters.length)
    write(body)
    entry.body = body
  }

  add(type: number, write: (body: FunctionBody) => void): number {
    const index = this.declare(type)
    this.define(index, write)
    return index
  }

  /** Adds a function whose body was written before, with as many parameters as `type` has. */
  insert(type: number, body: FunctionBody): number {
    return this.#imports.length + this.#functions.push({ type, body }) - 1
  }

  /** A mutable i32 or i64. */
  global(type: 'i32' | 'i64', initial: number): number {
    return this.#globals.push({ type, initial }) - 1
  }

  /**
   * Non-null references to functions of `type`, which spares the engine the checks of an untyped table.
   * @returns the table's index
   */
  table(type: number, entries: readonly number[]): number {
    this.#table = { type, entries }
    return this.#tableIndex
  }

  get #tableIndex(): number {
    return this.#importedTable ? 1 : 0
  }

  export(name: string, kind: 'function' | 'table' | 'global', index: number): void {
    this.#exports.push({ name, kind, index })
  }

  finish(): Uint8Array<ArrayBuffer> {
    const out = new ByteWriter(1 << 16)
    out.bytes([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0])
    const section = (id: number, count: number, write: (content: ByteWriter) => void): void => {
      const content = new ByteWriter()
      content.uleb(count)
      write(content)
      out.u8(id)
      out.uleb(content.length)
      out.bytes(content.view())
    }
    section(1, this.#types.length, (content) => {
      for (const type of this.#types) {
        content.u8(0x60)
        for (const list of [type.parameters, type.results]) {
          content.uleb(list.length)
          for (const value of list) content.u8(VALUE_TYPE[value])
        }
      }
    })
    const others = (this.#memory ? 1 : 0) + (this.#importedTable ? 1 : 0)
    section(2, this.#imports.length + others, (content) => {
      for (const entry of this.#imports) {
        content.name(entry.module)
        content.name(entry.name)
        content.u8(0)
        content.uleb(entry.type)
      }
      if (this.#memory) {
        content.name(this.#memory.module)
        content.name(this.#memory.name)
        content.bytes([2, 3])
        content.uleb(1)
        content.uleb(65536)
      }
      if (this.#importedTable) {
        content.name(this.#importedTable.module)
        content.name(this.#importedTable.name)
        content.bytes([1, 0x70, 0, 0])
      }
    })
    section(3, this.#functions.length, (content) => {
      for (const { type } of this.#functions) content.uleb(type)
    })
    const table = this.#table
    if (table) {
      section(4, 1, (content) => {
        content.bytes([0x40, 0x00, 0x64])
        content.sleb(table.type)
        content.u8(1)
        content.uleb(table.entries.length)
        content.uleb(table.entries.length)
        content.u8(0xd2)
        content.uleb(table.entries[0])
        content.u8(0x0b)
      })
    }
    section(6, this.#globals.length, (content) => {
      for (const { type, initial } of this.#globals) {
        content.bytes([VALUE_TYPE[type], 1, type === 'i32' ? 0x41 : 0x42])
        content.sleb(initial)
        content.u8(0x0b)
      }
    })
    section(7, this.#exports.length, (content) => {
      for (const { name, kind, index } of this.#exports) {
        content.name(name)
        content.u8({ function: 0, table: 1, global: 3 }[kind])
        content.uleb(index)
      }
    })
    if (table) {
      section(9, 1, (content) => {
        content.bytes([6, this.#tableIndex, 0x41, 0, 0x0b, 0x64])
        content.sleb(table.type)
        content.uleb(table.entries.length)
        for (const entry of table.entries) {
          content.u8(0xd2)
          content.uleb(entry)
          content.u8(0x0b)
        }
      })
    }
    this.#branchHints(out)
    section(10, this.#functions.length, (content) => {
      for (const { body } of this.#functions) {
        if (!body) throw new Error('a declared function has no body')
        const code = body.finish()
        content.uleb(code.length)
        content.bytes(code.view())
      }
    })
    return out.view().slice()
  }

  /** Which branches are hardly ever taken. Spec: WebAssembly Core, custom section "metadata.code.branch_hint" (branch hinting). */
  #branchHints(out: ByteWriter): void {
    const hinted = this.#functions
      .map(({ body }, index) => ({ index: this.#imports.length + index, rare: body?.rarelyTaken() ?? [] }))
      .filter(({ rare }) => rare.length > 0)
    if (hinted.length === 0) return
    const content = new ByteWriter()
    content.name('metadata.code.branch_hint')
    content.uleb(hinted.length)
    for (const { index, rare } of hinted) {
      content.uleb(index)
      content.uleb(rare.length)
      for (const at of rare) {
        content.uleb(at)
        content.bytes([1, 0])
      }
    }
    out.u8(0)
    out.uleb(content.length)
    out.bytes(content.view())
  }
}
