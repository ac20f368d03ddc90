/**
 * The host end of a serial line: a terminal, a socket, a test. Devices with a `chardev` property take one.
 * Bytes only; what they mean is the guest's business.
 */
export interface CharBackend {
  /**
   * Takes the bytes in any case and owns the array from now on.
   * @returns a promise when the host is slow: the device sends nothing more until it settles, and so slows the guest down
   */
  write(bytes: Uint8Array): void | Promise<void>
  /** One listener at a time. Called whenever the host has input, also while the machine is stopped. */
  onInput(listener: (bytes: Uint8Array) => void): Disposable
  /**
   * Advice: whether the device has room. While it has none, a backend should leave input with the host (not read the
   * terminal); what it delivers nevertheless is queued by the device up to a bound, then dropped.
   */
  setReadable?(readable: boolean): void
  /**
   * Whether somebody is at the other end: called at once with how it is now, then on every change. Absent: always.
   * What is written while nobody is there is lost.
   */
  onConnection?(listener: (connected: boolean) => void): Disposable
}
