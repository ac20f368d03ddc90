import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { Plugin } from '@ferryvm/core'
import { UsageError } from './usage-error.ts'

const CONTRACT = 1
const IMPORT_CONDITIONS = ['node', 'import', 'default']

/**
 * @param name a file, or a package that is installed beside the working directory
 * @throws UsageError it cannot be loaded, or its default export is no plugin that we understand
 */
export async function loadPlugin(name: string): Promise<Plugin> {
  let module: { default?: Partial<Plugin> }
  try {
    module = await import(resolvePlugin(name))
  } catch (cause) {
    throw new UsageError(`--plugin ${name}: cannot be loaded: ${(cause as Error).message.split('\n', 1)[0]}`, { cause })
  }
  const plugin = module.default
  if (!plugin || typeof plugin.name !== 'string') {
    throw new UsageError(`--plugin ${name}: its default export is not a plugin (see definePlugin in @ferryvm/core)`)
  }
  if (plugin.contract !== CONTRACT) {
    throw new UsageError(
      `--plugin ${name}: written for contract ${plugin.contract}; this build knows contract ${CONTRACT}`,
    )
  }
  return plugin as Plugin
}

function resolvePlugin(name: string): string {
  const file = resolve(name)
  if (existsSync(file)) return pathToFileURL(file).href
  // `import.meta.resolve` would look beside emu, which may be installed somewhere else. Where this Node does not know the
  // option, a package has to offer `default` and not only `import`.
  const options = { conditions: new Set(IMPORT_CONDITIONS) } as NodeJS.RequireResolveOptions
  return pathToFileURL(createRequire(resolve('package.json')).resolve(name, options)).href
}
