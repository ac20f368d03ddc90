import { readBoundedText } from '../bounded-file.ts'
import { TlsCredentialsError } from '../errors.ts'

/** Says whether a peer may come; asked with the distinguished name of its certificate. */
export interface Authorization {
  /** @throws TlsCredentialsError it cannot be decided: then nobody may */
  allows(identity: string): boolean
}

export interface AuthorizationRule {
  readonly match: string
  readonly policy: 'allow' | 'deny'
  /** `glob`: `*` stands for any text, `?` for one character. Default `exact`. */
  readonly format?: 'exact' | 'glob'
}
export interface AuthorizationList {
  /** What holds if no rule matches. Default `deny`. */
  readonly policy?: 'allow' | 'deny'
  /** The first that matches decides. */
  readonly rules?: readonly AuthorizationRule[]
}

export const MAX_RULES = 10_000
const MAX_MATCH_LENGTH = 4096

/** One name, and no other. */
export const exactly = (identity: string): Authorization => ({ allows: (other) => other === identity })

/** @throws TlsCredentialsError `value` is no list of rules; `where` says whose it is */
export function parseAuthorizationList(value: unknown, where: string): AuthorizationList {
  const fail = (problem: string): never => {
    throw new TlsCredentialsError(`${where}: ${problem}`)
  }
  const isRecord = (it: unknown): it is Record<string, unknown> =>
    typeof it === 'object' && it !== null && !Array.isArray(it)
  const policyOf = (policy: unknown, name: string): 'allow' | 'deny' =>
    policy === 'allow' || policy === 'deny'
      ? policy
      : fail(`${name} is "allow" or "deny", not ${JSON.stringify(policy)}`)
  if (!isRecord(value)) return fail('expected an object with policy and rules')
  const { policy = 'deny', rules = [], ...others } = value
  const other = Object.keys(others)[0]
  if (other !== undefined) fail(`"${other}" is unknown (known: policy, rules)`)
  if (!Array.isArray(rules)) return fail('rules is an array')
  if (rules.length > MAX_RULES) fail(`it has ${rules.length} rules, at most ${MAX_RULES} are taken`)
  return {
    policy: policyOf(policy, 'policy'),
    rules: rules.map((rule: unknown, index): AuthorizationRule => {
      const name = `rules[${index}]`
      if (!isRecord(rule)) return fail(`${name} is an object with match and policy`)
      const { match, policy: rulePolicy, format = 'exact', ...unknown } = rule
      const first = Object.keys(unknown)[0]
      if (first !== undefined) fail(`${name}.${first} is unknown (known: match, policy, format)`)
      if (typeof match !== 'string') return fail(`${name}.match is a string`)
      if (match.length > MAX_MATCH_LENGTH)
        fail(`${name}.match has ${match.length} characters, at most ${MAX_MATCH_LENGTH} are taken`)
      if (format !== 'exact' && format !== 'glob')
        return fail(`${name}.format is "exact" or "glob", not ${JSON.stringify(format)}`)
      return { match, policy: policyOf(rulePolicy, `${name}.policy`), format }
    }),
  }
}

export function listed({ policy = 'deny', rules = [] }: AuthorizationList): Authorization {
  const matchers = rules.map((rule) => ({
    policy: rule.policy,
    matches:
      rule.format === 'glob' ? (text: string) => globMatches(rule.match, text) : (text: string) => text === rule.match,
  }))
  return {
    allows: (identity) => (matchers.find(({ matches }) => matches(identity))?.policy ?? policy) === 'allow',
  }
}

/**
 * The list in a JSON file.
 * @param refresh read it again each time somebody comes
 * @throws TlsCredentialsError it cannot be read, or is no list
 */
export function listedInFile(path: string, refresh: boolean): Authorization {
  const read = (): Authorization => {
    const text = readBoundedText(path)
    let value: unknown
    try {
      value = JSON.parse(text)
    } catch (cause) {
      throw new TlsCredentialsError(`${path} is no JSON: ${(cause as Error).message}`, { cause })
    }
    return listed(parseAuthorizationList(value, path))
  }
  const first = read()
  return refresh ? { allows: (identity) => read().allows(identity) } : first
}

/** Linear but for one step back per star: a pattern of stars cannot keep us busy. */
function globMatches(pattern: string, text: string): boolean {
  let p = 0
  let t = 0
  let star = -1
  let retry = 0
  while (t < text.length) {
    if (pattern[p] === '*') {
      star = p++
      retry = t
    } else if (p < pattern.length && (pattern[p] === '?' || pattern[p] === text[t])) {
      p++
      t++
    } else if (star >= 0) {
      p = star + 1
      t = ++retry
    } else return false
  }
  while (pattern[p] === '*') p++
  return p === pattern.length
}
