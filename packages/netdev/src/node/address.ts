export type StreamAddress = { readonly path: string } | { readonly host: string; readonly port: number }
export interface DatagramAddress {
  readonly host: string
  readonly port: number
}

export const addressText = (address: StreamAddress): string =>
  'path' in address ? `unix:${address.path}` : `${address.host}:${address.port}`

/** A network on a socket of this host. */
export interface SocketNet {
  /** Nothing more comes or goes. */
  close(): Promise<void>
}
