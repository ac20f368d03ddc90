import { StreamFormatError } from '@ferryvm/core'

/** The RAM section is broken or does not fit this machine's memory. `block` is the block in question, if one was named. */
export class RamLoadError extends StreamFormatError {
  override readonly code = 'FERRY_RAM_LOAD'
  readonly block: string
  constructor(block: string, message: string, offset: number) {
    super(offset, block === '' ? message : `${block}: ${message}`)
    this.block = block
  }
}
