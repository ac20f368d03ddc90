/** What is accepted from a stream before anything is allocated. */
export interface WalkBounds {
  /** One section's payload, and what is buffered while looking for a description. Default 64 MiB. */
  readonly sectionBytes: number
  /** Default 65536. */
  readonly sections: number
  /** Default 4096. */
  readonly ramBlocks: number
}
export const defaultBounds: WalkBounds = { sectionBytes: 1 << 26, sections: 1 << 16, ramBlocks: 4096 }
