/**
 * Shapes a region's graph so that it can be written with WebAssembly's structured control flow: loops get one entrance
 * each, blocks an order and a dominator tree. Spec of the method: Ramsey, "Beyond Relooper" (ICFP 2022).
 */
import { type Block, type Edge, edgesOf, type Region } from './region.ts'

/** A block with its place in the graph. */
export interface Node {
  readonly block: Block
  /** In reverse postorder: an edge to a lower or equal index goes back, to a loop that this block is in. */
  index: number
  readonly predecessors: Node[]
  dominator: Node | undefined
  /** Blocks that this one immediately dominates. */
  readonly children: Node[]
  /** Some edge comes back to it. */
  isLoop: boolean
  /** More than one edge comes to it from before. */
  isMerge: boolean
  /** The innermost loop that it is in: the node that loop begins with. */
  loop: Node | undefined
}

export interface ControlFlow {
  /** In reverse postorder; the first is the entry. */
  readonly nodes: readonly Node[]
  nodeOf(block: Block): Node
}

export function controlFlow(region: Region): ControlFlow {
  const shaped = new Shaper(region)
  const order = reversePostorder(shaped.entry)
  const byBlock = new Map<Block, Node>()
  const nodes = order.map((block, index): Node => {
    const node = {
      block,
      index,
      predecessors: [],
      dominator: undefined,
      children: [],
      isLoop: false,
      isMerge: false,
      loop: undefined,
    }
    byBlock.set(block, node)
    return node
  })
  const nodeOf = (block: Block): Node => byBlock.get(block)!
  connect(nodes, nodeOf)
  dominators(nodes)
  // What the shaping left over (it should leave nothing): such an edge leaves the region.
  let cut = false
  for (const node of nodes) {
    for (const edge of edgesOf(node.block.end)) {
      if (!edge.block) continue
      const to = nodeOf(edge.block)
      if (to.index > node.index || dominates(to, node)) continue
      if (node.block.end.kind === 'dispatch') throw new Error('a dispatch block goes back')
      edge.block = undefined
      edge.choice = undefined
      cut = true
    }
  }
  if (cut) connect(nodes, nodeOf)
  for (const node of nodes) {
    node.isLoop = node.predecessors.some((from) => from.index >= node.index)
    node.isMerge = node.predecessors.filter((from) => from.index < node.index).length > 1
    node.dominator?.children.push(node)
  }
  findLoops(nodes)
  return { nodes, nodeOf }
}

/** Routes loops with several entrances through a dispatch block, outermost first. */
class Shaper {
  readonly #blocks: Set<Block>
  entry: Block

  constructor(region: Region) {
    this.#blocks = new Set(region.blocks)
    this.entry = region.entry
    this.#shape(new Set(region.blocks))
  }

  #shape(within: ReadonlySet<Block>): void {
    for (const component of components(within)) {
      const isLoop = component.size > 1 || [...component].some((b) => edgesOf(b.end).some((e) => e.block === b))
      if (!isLoop) continue
      const entrances = this.#entrances(component)
      const rest = new Set(component)
      if (entrances.size > 1) this.#dispatch(entrances)
      else for (const only of entrances) rest.delete(only)
      if (rest.size > 1) this.#shape(rest)
    }
  }

  #entrances(component: ReadonlySet<Block>): Set<Block> {
    const entrances = new Set<Block>()
    for (const block of this.#blocks) {
      if (component.has(block)) continue
      for (const { block: to } of edgesOf(block.end)) if (to && component.has(to)) entrances.add(to)
    }
    if (component.has(this.entry)) entrances.add(this.entry)
    return entrances
  }

  #dispatch(entrances: ReadonlySet<Block>): void {
    const targets = [...entrances]
    const choices = targets.map((block): Edge => ({ at: block.at, block }))
    const dispatch: Block = { at: targets[0].at, steps: [], end: { kind: 'dispatch', choices } }
    for (const block of this.#blocks) {
      for (const edge of edgesOf(block.end)) {
        if (!edge.block || !entrances.has(edge.block)) continue
        edge.choice = targets.indexOf(edge.block)
        edge.block = dispatch
      }
    }
    this.#blocks.add(dispatch)
    if (!entrances.has(this.entry)) return
    const to: Edge = { at: this.entry.at, block: dispatch, choice: targets.indexOf(this.entry) }
    this.entry = { at: this.entry.at, steps: [], end: { kind: 'jump', to } }
    this.#blocks.add(this.entry)
  }
}

/** Strongly connected components (Tarjan). */
function components(within: ReadonlySet<Block>): Set<Block>[] {
  const found: Set<Block>[] = []
  const index = new Map<Block, number>()
  const low = new Map<Block, number>()
  const stack: Block[] = []
  const onStack = new Set<Block>()
  const visit = (block: Block): void => {
    const mine = index.size
    index.set(block, mine)
    low.set(block, mine)
    stack.push(block)
    onStack.add(block)
    for (const { block: to } of edgesOf(block.end)) {
      if (!to || !within.has(to)) continue
      if (!index.has(to)) {
        visit(to)
        low.set(block, Math.min(low.get(block)!, low.get(to)!))
      } else if (onStack.has(to)) low.set(block, Math.min(low.get(block)!, index.get(to)!))
    }
    if (low.get(block) !== mine) return
    const component = new Set<Block>()
    for (let member = stack.pop(); member; member = stack.pop()) {
      onStack.delete(member)
      component.add(member)
      if (member === block) break
    }
    found.push(component)
  }
  for (const block of within) if (!index.has(block)) visit(block)
  return found
}

function reversePostorder(entry: Block): Block[] {
  const order: Block[] = []
  const seen = new Set<Block>()
  const visit = (block: Block): void => {
    seen.add(block)
    for (const { block: to } of [...edgesOf(block.end)].reverse()) if (to && !seen.has(to)) visit(to)
    order.push(block)
  }
  visit(entry)
  return order.reverse()
}

function connect(nodes: readonly Node[], nodeOf: (block: Block) => Node): void {
  for (const node of nodes) node.predecessors.length = 0
  for (const node of nodes) {
    for (const { block } of edgesOf(node.block.end)) if (block) nodeOf(block).predecessors.push(node)
  }
}

/** Cooper, Harvey and Kennedy, "A Simple, Fast Dominance Algorithm". The entry has none. */
function dominators(nodes: readonly Node[]): void {
  const [entry, ...others] = nodes
  const known = new Set([entry])
  const common = (a: Node, b: Node): Node => {
    let [x, y] = [a, b]
    while (x !== y) {
      while (x.index > y.index) x = x.dominator!
      while (y.index > x.index) y = y.dominator!
    }
    return x
  }
  for (let changed = true; changed; ) {
    changed = false
    for (const node of others) {
      let dominator: Node | undefined
      for (const from of node.predecessors) {
        if (known.has(from)) dominator = dominator ? common(dominator, from) : from
      }
      known.add(node)
      if (node.dominator === dominator) continue
      node.dominator = dominator
      changed = true
    }
  }
}

function dominates(a: Node, b: Node): boolean {
  let node: Node | undefined = b
  while (node && node.index > a.index) node = node.dominator
  return node === a
}

/** Natural loops: all that reaches an edge back without passing the header. Larger ones first, so that inner ones win. */
function findLoops(nodes: readonly Node[]): void {
  const loops = nodes
    .filter((node) => node.isLoop)
    .map((header) => {
      const body = new Set([header])
      const queue = header.predecessors.filter((from) => from.index >= header.index)
      for (let node = queue.pop(); node; node = queue.pop()) {
        if (body.has(node)) continue
        body.add(node)
        queue.push(...node.predecessors)
      }
      return { header, body }
    })
  loops.sort((a, b) => b.body.size - a.body.size)
  for (const { header, body } of loops) for (const node of body) node.loop = header
}
