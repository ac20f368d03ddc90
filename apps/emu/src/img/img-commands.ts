import { Command } from 'commander'
import { addCheck } from './check.ts'
import { addConvert } from './convert.ts'
import { addCreate } from './create.ts'
import { addInfo } from './info.ts'
import { addSnapshot } from './snapshot.ts'

/** `emu img …`: disk images, with the commands, options and exit statuses of `qemu-img`. */
export function addImgCommands(program: Command): void {
  const img = new Command('img').description('disk images: raw and qcow2').exitOverride()
  addCreate(img)
  addInfo(img)
  addCheck(img)
  addConvert(img)
  addSnapshot(img)
  program.addCommand(img)
}
