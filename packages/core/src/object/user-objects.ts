/** One property of an object, for `qom-list` and `qom-get`. */
export interface UserObjectProperty {
  readonly name: string
  /** `string`, `bool`, or the name of an enumeration. */
  readonly type: string
  /** null: not set; undefined: not shown. */
  readonly value: unknown
}

/**
 * Objects that a user makes by `-object`, `object-add` or `object_add`, and that others refer to by id: credentials, secrets. Who
 * knows their types implements it, monitors use it.
 */
export interface UserObjects {
  /** @param properties text as on a command line, or JSON values. @throws FerryError nothing was made */
  add(type: string, id: string, properties: Readonly<Record<string, unknown>>): Promise<void>
  /** As after `-object`: `type,id=I,name=value`, or JSON. @throws FerryError nothing was made */
  addText(text: string): Promise<void>
  /** Whoever uses it already goes on doing so. @throws FerryError there is none */
  remove(id: string): void
  list(): readonly { readonly id: string; readonly type: string }[]
  /** undefined: there is no such object */
  properties(id: string): readonly UserObjectProperty[] | undefined
}
