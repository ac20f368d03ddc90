import { FerryError } from '@ferryvm/core'

/** What no input may bring about. */
export interface Finding {
  readonly what: string
  readonly stack?: string
}

/** Runs it; an error of ours is an answer, any other is a finding. */
export async function onlyTyped(run: () => unknown): Promise<Finding | undefined> {
  try {
    await run()
    return undefined
  } catch (error) {
    return FerryError.isInstance(error) ? undefined : findingOf(error)
  }
}
export const findingOf = (error: unknown): Finding => {
  const { stack } = error as Error
  return { what: String(error), ...(stack !== undefined && { stack }) }
}
