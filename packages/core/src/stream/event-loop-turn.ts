/** Lets everything that is due in the event loop run (I/O, messages, timers) before the promise resolves. */
export function nextTurn(): Promise<void> {
  const { setImmediate } = globalThis as { setImmediate?: (f: () => void) => unknown }
  if (setImmediate) return new Promise((resolve) => void setImmediate(resolve))
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel()
    port1.onmessage = () => {
      port1.close()
      resolve()
    }
    port2.postMessage(0)
  })
}

/**
 * Keeps long work from starving the harts, whose device accesses are answered by the same event loop: call the returned
 * function often; it is cheap, and returns a promise to await once `budgetMs` have gone by since the last turn.
 */
export function createTurnBudget(budgetMs = 1.5): () => void | Promise<void> {
  let began = performance.now()
  return () => {
    if (performance.now() - began < budgetMs) return
    return nextTurn().then(() => {
      began = performance.now()
    })
  }
}
