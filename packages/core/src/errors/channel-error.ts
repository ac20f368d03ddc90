import { FerryError } from './ferry-error.ts'

/** The channel was closed, by us or by the peer; `cause` is the reason, if one is known. */
export class ChannelClosedError extends FerryError {
  readonly code = 'FERRY_CHANNEL_CLOSED'
  constructor(message = 'the channel is closed', options?: ErrorOptions) {
    super(message, options)
  }
}

/** What was asked for is not among the declared features. */
export class UnsupportedFeatureError extends FerryError {
  readonly code = 'FERRY_UNSUPPORTED_FEATURE'
  readonly feature: string
  constructor(feature: string, what: string, options?: ErrorOptions) {
    super(`${what} does not support '${feature}'`, options)
    this.feature = feature
  }
}
