import { VmstateError } from '@ferryvm/core'

/** The incoming configuration space belongs to a different function than the one that sits at this address. */
export class PciConfigMismatchError extends VmstateError {
  override readonly code = 'FERRY_VMSTATE_PCI_CONFIG'
  /** PCI address, `0000:00:01.0`. */
  readonly device: string
  /** Offset in configuration space. */
  readonly configOffset: number
  readonly incoming: number
  readonly expected: number
  /** The bits that had to be equal. */
  readonly mask: number

  constructor(device: string, configOffset: number, incoming: number, expected: number, mask: number) {
    super(
      '',
      `configuration space of ${device} differs at 0x${configOffset.toString(16)}: 0x${hex(incoming)} arrived, ` +
        `this function has 0x${hex(expected)} (bits compared: 0x${hex(mask)}); is it the same device with the same options?`,
    )
    this.device = device
    this.configOffset = configOffset
    this.incoming = incoming
    this.expected = expected
    this.mask = mask
  }
}

const hex = (byte: number): string => byte.toString(16).padStart(2, '0')
