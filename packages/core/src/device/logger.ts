/** guestError: the guest did something its specification forbids. Off by default, counted always. */
export interface Logger {
  debug(message: string, facts?: object): void
  warn(message: string, facts?: object): void
  guestError(message: string, facts?: object): void
}

export const silentLogger: Logger = { debug() {}, warn() {}, guestError() {} }
