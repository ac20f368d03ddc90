/**
 * Descriptors for a QMP monitor on a unix socket, as libvirt gives them: beside the command, by SCM_RIGHTS.
 *
 * Node has no public way to do this. Its own child processes get handles through a pipe of a kind that is in the internal
 * binding `pipe_wrap`, which `process.binding` still hands out (deprecated, DEP0111). Good enough for a test whose Node is
 * pinned by the lock file; see docs/decisions/ for why nothing that ships does it.
 */
const { Pipe, PipeConnectWrap, constants } = (process as any).binding('pipe_wrap')
const { WriteWrap } = (process as any).binding('stream_wrap')

export type QmpSpeaker = (execute: string, parameters?: Record<string, unknown>) => Promise<any>

/**
 * Opens a monitor of its own and gives it `descriptor` (a pipe or a socket; anything else ends this process) under `name`.
 * @returns commands for that monitor, the only one that knows the name
 */
export async function giveDescriptor(qmpPath: string, name: string, descriptor: number): Promise<QmpSpeaker> {
  const socket = new Pipe(constants.IPC)
  await new Promise<void>((resolve, reject) => {
    const request = new PipeConnectWrap()
    request.oncomplete = (status: number) => (status ? reject(new Error(`cannot connect: ${status}`)) : resolve())
    socket.connect(request, qmpPath)
  })
  const pending: { resolve: (value: unknown) => void; reject: (e: Error) => void }[] = []
  let text = ''
  socket.onread = (bytes: ArrayBuffer | undefined) => {
    if (!bytes) {
      socket.close()
      for (const { reject } of pending.splice(0)) reject(new Error('QMP connection closed'))
      return
    }
    text += Buffer.from(bytes).toString()
    for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
      const message = JSON.parse(text.slice(0, end))
      text = text.slice(end + 1)
      if ('return' in message) pending.shift()?.resolve(message.return)
      else if ('error' in message) pending.shift()?.reject(new Error(message.error.desc))
    }
  }
  socket.readStart()
  const say = (execute: string, parameters: object = {}, handle?: unknown): Promise<any> =>
    new Promise((resolve, reject) => {
      pending.push({ resolve, reject })
      const request = new WriteWrap()
      request.oncomplete = () => {}
      socket.writeUtf8String(request, `${JSON.stringify({ execute, arguments: parameters })}\n`, handle)
    })
  await say('qmp_capabilities')
  const handle = new Pipe(constants.SOCKET)
  handle.open(descriptor)
  await say('getfd', { fdname: name }, handle)
  handle.close() // the monitor has its own now
  return say
}
