/** Says in one sentence what is wrong with the TLS credentials of a migration, and which command mends it. */
export type { DiagnoseOptions, Diagnosis } from './diagnose.ts'
export { diagnoseTls } from './diagnose.ts'
