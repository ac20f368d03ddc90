/**
 * Incoming MSI controller: a page of memory for each interrupt file of a hart, where messages are written that make
 * interrupts pending. The files themselves belong to the harts, whose CSRs work on them.
 * Spec: RISC-V AIA 1.0, chapter "Incoming MSI Controller (IMSIC)"; virt-vmstate.md section 7.
 */
import {
  type Device,
  DeviceConfigError,
  type DeviceContext,
  defineDevice,
  defineVmstate,
  type InterruptFile,
  registersItself,
  u32Array,
  type Vmstate,
} from '@ferryvm/core'
import { z } from 'zod'
import { swappedWord } from './swapped-word.ts'

const SETEIPNUM_LE = 0
const SETEIPNUM_BE = 4
const PAGE_BYTES = 0x1000
const IDENTITIES = 256

export interface ImsicState {
  eidelivery: Uint32Array
  eithreshold: Uint32Array
  eistate: Uint32Array
}

/** @param pages interrupt files of the hart at that level: one, and those of guests. Identical in both stock releases. */
export const imsicVmstate = (pages: number): Vmstate<ImsicState> =>
  defineVmstate({
    name: 'riscv_imsic',
    version: 1,
    fields: {
      eidelivery: u32Array(pages),
      eithreshold: u32Array(pages),
      /** Per identity, page after page: bit 0 pending, bit 1 enabled. */
      eistate: u32Array(IDENTITIES * pages),
    },
  })

/** How far apart the pages of two harts are at supervisor level, bytes: a power of two. @param guests files of guests per hart */
export const imsicStrideBytes = (guests: number): number => PAGE_BYTES * 2 ** Math.ceil(Math.log2(1 + guests))

/**
 * All files of all harts: those of machine level at the placement, those of supervisor level at `supervisorAt`. Sections: machine
 * level of each hart, then supervisor level of each.
 */
export const imsic = defineDevice({
  type: 'imsic',
  props: z.object({ supervisorAt: z.number() }),
  migration: registersItself,
  realize: (ctx, { supervisorAt }) => new Imsic(ctx, supervisorAt),
})

class Imsic implements Device {
  readonly #ctx: DeviceContext<undefined>
  readonly #files: InterruptFile[] = []

  constructor(ctx: DeviceContext<undefined>, supervisorAt: number) {
    this.#ctx = ctx
    const files = ctx.machine.harts.map(({ interruptFiles }) => {
      if (!interruptFiles) throw new DeviceConfigError('imsic', 'the harts have no interrupt files')
      return interruptFiles
    })
    for (const { machine } of files) this.#register([machine])
    for (const { supervisor } of files) this.#register(supervisor)
    this.#pages(
      PAGE_BYTES,
      files.map(({ machine }) => [machine]),
    )
    const stride = imsicStrideBytes(files[0]!.supervisor.length - 1)
    this.#pages(
      stride,
      files.map(({ supervisor }) => supervisor),
      supervisorAt,
    )
  }

  reset(): void {
    for (const file of this.#files) file.reset()
  }

  #register(pages: readonly InterruptFile[]): void {
    this.#files.push(...pages)
    const vmstate = imsicVmstate(pages.length)
    const state = vmstate.createState()
    const eistate = (page: number) => state.eistate.subarray(IDENTITIES * page, IDENTITIES * (page + 1))
    const preSave = () => {
      for (const [page, file] of pages.entries()) {
        const saved = { eidelivery: 0, eithreshold: 0, eistate: eistate(page) }
        file.save(saved)
        state.eidelivery[page] = saved.eidelivery
        state.eithreshold[page] = saved.eithreshold
      }
    }
    const postLoad = () => {
      for (const [page, file] of pages.entries()) {
        file.load({
          eidelivery: state.eidelivery[page]!,
          eithreshold: state.eithreshold[page]!,
          eistate: eistate(page),
        })
      }
    }
    this.#ctx.registerVmstate({ ...vmstate, preSave, postLoad }, state)
  }

  /** @param at of the first page; default: the placement */
  #pages(strideBytes: number, harts: readonly (readonly InterruptFile[])[], at?: number): void {
    const fileAt = (offset: number) =>
      harts[Math.floor(offset / strideBytes)]?.[Math.floor((offset % strideBytes) / PAGE_BYTES)]
    const write = (offset: number, _bytes: number, value: number) => {
      const register = offset % PAGE_BYTES
      const identity = register === SETEIPNUM_BE ? swappedWord(value) : value >>> 0
      if (register !== SETEIPNUM_LE && register !== SETEIPNUM_BE) {
        this.#ctx.log.guestError('imsic: write to a reserved register', { offset, value })
      } else if (identity > 0 && identity < IDENTITIES) fileAt(offset)?.setPending(identity)
    }
    this.#ctx.mmio(strideBytes * harts.length, { sizes: [4], read: () => 0, write }, { at })
  }
}
