/**
 * Threads of whatever the package runs in: Node's worker threads, or a browser's module workers in a page that is
 * cross-origin isolated (without that there is no shared memory). Nothing is imported from Node, so that a bundler finds nothing
 * of it.
 */
const node = globalThis.process?.getBuiltinModule?.('node:worker_threads')

export interface Thread {
  onMessage: (message: unknown) => void
  /** It failed, or is gone without being told to. */
  onGone: (cause: Error) => void
  /** What {@link threadData} resolves with. Until then the thread does not keep the process. */
  give(data: unknown): void
  terminate(): Promise<void>
}

/**
 * Starts a module in a thread of its own.
 * @param youngGenerationMib what its garbage may take before it is looked at, where that can be said
 */
export function startThread(url: URL, name: string, youngGenerationMib: number): Thread {
  const thread: Thread = { onMessage: () => {}, onGone: () => {}, give: () => {}, terminate: async () => {} }
  const gone = (cause: unknown) => thread.onGone(cause instanceof Error ? cause : new Error(String(cause)))
  if (node) {
    const worker = new node.Worker(url, {
      name,
      resourceLimits: { maxYoungGenerationSizeMb: youngGenerationMib },
    })
    worker.on('message', (message: unknown) => thread.onMessage(message))
    worker.on('error', gone)
    worker.on('exit', (code) => gone(`the thread of ${name} exited with code ${code}`))
    worker.unref()
    thread.give = (data) => {
      worker.ref()
      worker.postMessage(data)
    }
    thread.terminate = async () => void (await worker.terminate())
  } else {
    const worker = new Worker(url, { type: 'module', name })
    worker.onmessage = ({ data: message }) => thread.onMessage(message)
    worker.onerror = ({ message }) => gone(`the thread of ${name}: ${message ?? 'its code could not be loaded'}`)
    thread.give = (data) => worker.postMessage(data)
    thread.terminate = async () => worker.terminate()
  }
  return thread
}

/** In a thread: what it is given to begin with. */
export async function threadData(): Promise<unknown> {
  return new Promise((resolve) => {
    if (node) return node.parentPort!.once('message', resolve)
    self.onmessage = ({ data }) => resolve(data)
  })
}

/** In a thread: tells who started it. */
export function postToStarter(message: unknown): void {
  if (node) node.parentPort!.postMessage(message)
  else (self as unknown as { postMessage(message: unknown): void }).postMessage(message)
}
