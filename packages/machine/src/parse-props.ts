import { DeviceConfigError, type StandardSchema } from '@ferryvm/core'

/** @throws DeviceConfigError every complaint of the schema, in one message */
export async function parseProps<Out>(
  deviceId: string,
  schema: StandardSchema<any, Out>,
  props: unknown,
): Promise<Out> {
  const result = await schema['~standard'].validate(props ?? {})
  if (!result.issues) return result.value
  const complaints = result.issues.map(({ message, path }) => {
    const where = path?.map((p) => String(typeof p === 'object' ? p.key : p)).join('.')
    return where ? `${where}: ${message}` : message
  })
  throw new DeviceConfigError(deviceId, complaints.join('; '))
}
