/** `pnpm colo:kills [N]`: kills machines of one COLO guest, one after the other, and prints what it took. Default 100. */
import { chainOfKills } from './chain-of-kills.ts'

const { kills, takeoverMs, unseenLines } = await chainOfKills(Number(process.argv[2] ?? 100), console.log)
const sorted = takeoverMs.toSorted((a, b) => a - b)
const at = (share: number) => Math.round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]!)
console.log(`killed ${kills.primary} primaries and ${kills.secondary} secondaries; one guest lived through all of it`)
console.log(`ten lines later by ${at(0.5)} ms (p50), ${at(0.99)} ms (p99); ${unseenLines} lines were never let out`)
