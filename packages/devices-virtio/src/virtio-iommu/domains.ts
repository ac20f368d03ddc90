/** Address spaces that a guest makes, and who is in which. Spec: virtio 1.2, section 5.13.6; iommu.md section b.3. */
import { type DomainState, MAX_MAPPINGS, type VirtioIommuState, virtioIommuTable } from './virtio-iommu-vmstate.ts'

export const Status = { OK: 0, UNSUPP: 2, DEVERR: 3, INVAL: 4, RANGE: 5, NOENT: 6, NOMEM: 8 } as const
export type Status = (typeof Status)[keyof typeof Status]
export const FLAG_READ = 1
export const FLAG_WRITE = 2
const FLAGS = 7

export interface Found {
  readonly low: bigint
  readonly high: bigint
  readonly phys: bigint
  readonly flags: number
}

export class Domains {
  /** Is there a function that the IOMMU is in front of? */
  readonly #exists: (endpoint: number) => boolean
  #domains: VirtioIommuState['domains'] = new Map()
  /** Where every endpoint is that has tried; undefined: in none, since it was refused. */
  readonly #endpoints = new Map<number, DomainState | undefined>()
  #mappings = 0

  constructor(exists: (endpoint: number) => boolean) {
    this.#exists = exists
  }

  get state(): VirtioIommuState['domains'] {
    return this.#domains
  }

  /** @returns an endpoint that there is none of; the state is then not taken */
  load(domains: VirtioIommuState['domains']): number | undefined {
    const stranger = [...domains.values()].flatMap((d) => d.endpoint_list).find(({ id }) => !this.#exists(id))
    if (stranger) return stranger.id
    this.reset()
    this.#domains = domains
    for (const domain of domains.values()) {
      this.#mappings += domain.mappings.length
      for (const { id } of domain.endpoint_list) this.#endpoints.set(id, domain)
    }
    return undefined
  }

  reset(): void {
    this.#domains = virtioIommuTable().createState().domains
    this.#endpoints.clear()
    this.#mappings = 0
  }

  /** @returns 'unknown': never attached, or detached; undefined: refused the last time */
  domainOf(endpoint: number): DomainState | undefined | 'unknown' {
    return this.#endpoints.has(endpoint) ? this.#endpoints.get(endpoint) : 'unknown'
  }

  knows(endpoint: number): boolean {
    return this.#exists(endpoint)
  }

  attach(id: number, endpoint: number, bypass: boolean): Status {
    if (!this.#exists(endpoint)) return Status.NOENT
    this.#leave(endpoint)
    this.#endpoints.set(endpoint, undefined)
    let domain = this.#domains.get(BigInt(id))
    if (!domain) this.#domains.set(BigInt(id), (domain = { id, mappings: [], endpoint_list: [], bypass }))
    if (domain.bypass !== bypass) return Status.INVAL
    domain.endpoint_list.push({ id: endpoint })
    this.#endpoints.set(endpoint, domain)
    return Status.OK
  }

  detach(id: number, endpoint: number): Status {
    const domain = this.#endpoints.get(endpoint)
    if (!domain) return Status.NOENT
    if (domain.id !== id) return Status.INVAL
    this.#leave(endpoint)
    return Status.OK
  }

  map(id: number, low: bigint, high: bigint, phys_addr: bigint, flags: number): Status {
    if (flags & ~FLAGS || high < low) return Status.INVAL
    const domain = this.#domains.get(BigInt(id))
    if (!domain) return Status.NOENT
    const at = firstFrom(domain, low)
    const next = domain.mappings[at]
    if (domain.bypass || (next && next.key.low <= high)) return Status.INVAL
    if (this.#mappings === MAX_MAPPINGS) return Status.NOMEM
    domain.mappings.splice(at, 0, { key: { low, high }, value: { phys_addr, flags } })
    this.#mappings++
    return Status.OK
  }

  /** What lies in the range goes, until something sticks out of it. */
  unmap(id: number, low: bigint, high: bigint): Status {
    const domain = this.#domains.get(BigInt(id))
    if (!domain) return Status.NOENT
    if (domain.bypass) return Status.INVAL
    const from = firstFrom(domain, low)
    let to = from
    let status: Status = Status.OK
    for (; to < domain.mappings.length && domain.mappings[to]!.key.low <= high; to++) {
      const { key } = domain.mappings[to]!
      if (key.low >= low && key.high <= high) continue
      status = Status.RANGE
      break
    }
    domain.mappings.splice(from, to - from)
    this.#mappings -= to - from
    return status
  }

  find(domain: DomainState, address: bigint): Found | undefined {
    const mapping = domain.mappings[firstFrom(domain, address)]
    if (!mapping || mapping.key.low > address) return undefined
    return { ...mapping.key, phys: mapping.value.phys_addr, flags: mapping.value.flags }
  }

  #leave(endpoint: number): void {
    const domain = this.#endpoints.get(endpoint)
    this.#endpoints.delete(endpoint)
    if (!domain) return
    domain.endpoint_list = domain.endpoint_list.filter(({ id }) => id !== endpoint)
    if (domain.endpoint_list.length > 0) return
    this.#mappings -= domain.mappings.length
    this.#domains.delete(BigInt(domain.id))
  }
}

/** Index of the first mapping that ends at this address or behind it. */
function firstFrom({ mappings }: DomainState, address: bigint): number {
  let [from, to] = [0, mappings.length]
  while (from < to) {
    const middle = (from + to) >> 1
    if (mappings[middle]!.key.high < address) from = middle + 1
    else to = middle
  }
  return from
}
