import { FerryError } from '@ferryvm/core'

export type QmpErrorClass = 'GenericError' | 'CommandNotFound' | 'DeviceNotFound' | 'DeviceNotActive'

/** A monitor command was refused. `errorClass` is what QMP clients look at. */
export class MonitorCommandError extends FerryError {
  readonly code = 'FERRY_MONITOR_COMMAND'
  readonly errorClass: QmpErrorClass
  constructor(message: string, errorClass: QmpErrorClass = 'GenericError', options?: ErrorOptions) {
    super(message, options)
    this.errorClass = errorClass
  }
}
