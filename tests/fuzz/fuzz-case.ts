import { Random } from '../lockstep/random.ts'
import { loadSpecimens, type Specimen } from './corpus.ts'
import { type Finding, findingOf } from './finding.ts'
import { guestCount, LoaderTarget } from './loader-target.ts'
import { mutate } from './mutate.ts'
import { fuzzTools } from './tools-target.ts'

/** One machine takes in this many cases before another takes its place. */
const CASES_PER_GUEST = 2000

export interface CaseResult {
  readonly target: 'loader' | 'tools'
  readonly specimen: string
  /** Of CPU: the clock on the wall says as much of the other processes. */
  readonly ms: number
  readonly finding?: Finding
}

/**
 * Cases of one seed, by number: odd ones go to the tools, even ones to the incoming side of a machine. Seed and number say
 * what the bytes are; what the machine went through before does not matter to any case unless something is wrong with it.
 */
export class FuzzCases implements AsyncDisposable {
  readonly #seed: number
  readonly #specimens: readonly Specimen[]
  #guest = -1
  #loader: LoaderTarget | undefined

  private constructor(seed: number, specimens: readonly Specimen[]) {
    this.#seed = seed
    this.#specimens = specimens
  }
  static async create(seed: number): Promise<FuzzCases> {
    return new FuzzCases(seed, await loadSpecimens())
  }

  async run(number: number): Promise<CaseResult> {
    const loader = number % 2 === 0 ? await this.#loaderFor(number) : undefined
    const { specimen, bytes, random } = this.#bytes(number, loader)
    const began = process.cpuUsage()
    let finding: Finding | undefined
    try {
      finding = loader ? await loader.fuzz(bytes, random) : await fuzzTools(bytes, specimen.bytes, random)
    } catch (error) {
      finding = findingOf(error)
    }
    const { user, system } = process.cpuUsage(began)
    const ms = (user + system) / 1000
    return { target: loader ? 'loader' : 'tools', specimen: specimen.name, ms, ...(finding && { finding }) }
  }

  /** The stream of a case, to be looked at. */
  async bytes(number: number): Promise<Uint8Array> {
    return this.#bytes(number, number % 2 === 0 ? await this.#loaderFor(number) : undefined).bytes
  }

  #bytes(number: number, loader: LoaderTarget | undefined) {
    const random = new Random(Math.imul(this.#seed, 0x9e3779b1) ^ number)
    const specimens = loader?.specimens ?? this.#specimens
    // The smaller of two: what is large is mostly more of the same.
    const [one, other] = [random.pick(specimens), random.pick(specimens)]
    const specimen = one.bytes.length <= other.bytes.length ? one : other
    const bytes = mutate(specimen, random.pick(this.#specimens), random)
    return { specimen, bytes, random }
  }

  async #loaderFor(number: number): Promise<LoaderTarget> {
    const guest = Math.floor(number / CASES_PER_GUEST) % guestCount
    if (guest !== this.#guest) {
      await this.#loader?.[Symbol.asyncDispose]()
      this.#loader = await LoaderTarget.create(guest, this.#specimens)
      this.#guest = guest
    }
    return this.#loader!
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#loader?.[Symbol.asyncDispose]()
  }
}
