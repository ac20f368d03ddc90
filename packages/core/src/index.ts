/**
 * The contract of ferryvm: vmstate tables, QEMUFile, channels, migration priorities, devices. No dependencies; runs in
 * Node and in browsers.
 */
export type { Bus, BusAttachment, BusKind, BusRequest } from './bus/bus.ts'
export type { InterruptFile, InterruptFileState } from './bus/interrupt-file.ts'
export type { Iommu, IommuAttachPoint } from './bus/iommu.ts'
export type { IrqLine, MmioRegion } from './bus/mmio.ts'
export type {
  PciBarOptions,
  PciCapabilityOptions,
  PciFunction,
  PciFunctionState,
  PciIdentity,
  PciMsix,
  PciMsixOptions,
  PciSlot,
} from './bus/pci.ts'
export {
  VIRTIO_NO_VECTOR,
  VIRTIO_QUEUE_MAX,
  VIRTQUEUE_MAX_SIZE,
  type VirtioBackend,
  type VirtioQueuePort,
  type VirtioTransport,
  type VirtioTransportState,
} from './bus/virtio.ts'
export type { Channel, ChannelFeature } from './channel/channel.ts'
export { type ChannelPairOptions, createChannelPair } from './channel/channel-pair.ts'
export { defineTransport, TransportDefinitionError, withLayer } from './channel/define-transport.ts'
export { isLoopback } from './channel/is-loopback.ts'
export { fromMessagePort, type PortLike } from './channel/message-port.ts'
export type { RamHookReceiver, RamHookSender, RamHooks, RamPhase } from './channel/ram-hooks.ts'
export type { SeekableChannel } from './channel/seekable-channel.ts'
export { isSeekable } from './channel/seekable-channel.ts'
export { singleChannelListener } from './channel/single-channel-listener.ts'
export type { ChannelLayer, Listener, Transport, TransportContext } from './channel/transport.ts'
export { fromWebStreams, type WebStreamPair } from './channel/web-streams.ts'
export { hostNs, readVirtualNs, type Timer, VirtualClock, virtualNsReader } from './clock/virtual-clock.ts'
export type {
  Compression,
  CompressionMethod,
  Compressions,
  Compressor,
  Decompressor,
} from './compression/compression.ts'
export type { Cpu, CpuContext, CpuSpec, HartPort, HartSample, HartSampler } from './cpu/cpu.ts'
export type { BlockBackend, DiskRun } from './device/block-backend.ts'
export type { CharBackend } from './device/char-backend.ts'
export {
  type CpuFactory,
  type Device,
  type DeviceContext,
  type DeviceFactory,
  type DeviceSpec,
  type DeviceType,
  defineDevice,
  definePlugin,
  type MachineServices,
  type Migration,
  type MmioOptions,
  type Placement,
  type Plugin,
  type RegistersItself,
  registersItself,
  type StateFor,
  type Stateless,
  stateless,
  type Unmigratable,
  unmigratable,
} from './device/device.ts'
export { type DirtyBitmap, DirtyBitmapError, DirtyBitmaps } from './device/dirty-bitmaps.ts'
export type { DiskSnapshot, DiskSnapshots, NewDiskSnapshot } from './device/disk-snapshots.ts'
export { type Logger, silentLogger } from './device/logger.ts'
export { gatedNetBackend, MAX_FRAME_BYTES, type NetBackend } from './device/net-backend.ts'
export { gatedBackend, OutputGate } from './device/output-gate.ts'
export type { SchemaResult, StandardSchema } from './device/standard-schema.ts'
export { createWriteLog, type WriteLog } from './device/write-log.ts'
export { ChannelClosedError, UnsupportedFeatureError } from './errors/channel-error.ts'
export { CompressionError } from './errors/compression-error.ts'
export { DeviceConfigError, DeviceHookError } from './errors/device-error.ts'
export { FerryError } from './errors/ferry-error.ts'
export { DuplicateSectionError, RegistrySealedError } from './errors/registry-error.ts'
export { StreamFormatError, StreamTruncatedError } from './errors/stream-error.ts'
export {
  isVmstateError,
  VmstateDefinitionError,
  VmstateError,
  type VmstateErrorOptions,
  VmstateHookError,
  VmstateMismatchError,
  VmstateRangeError,
  VmstateSubsectionError,
  VmstateTruncatedError,
  VmstateVersionError,
} from './errors/vmstate-error.ts'
export type { Machine, MachineEvents, RunState } from './machine/machine.ts'
export { type AddressSpace, dma } from './memory/address-space.ts'
export {
  DirtyLog,
  GuestMemory,
  GuestMemoryExhaustedError,
  PAGE_BYTES,
  type RamBacking,
  type RamBlock,
  type RamBlockOptions,
} from './memory/guest-memory.ts'
export { isZeroFilled } from './memory/is-zero-filled.ts'
export {
  MissingPages,
  nowOrWhenPagesArrive,
  PageMissingError,
  type PageWaitStats,
  pageMissingIn,
  whenPagesArrive,
} from './memory/missing-pages.ts'
export { type PageGuard, type PageGuardOptions, PageGuards } from './memory/page-guards.ts'
export { PhysicalMap, type RamMapping, type RamMode } from './memory/physical-map.ts'
export type { UserObjectProperty, UserObjects } from './object/user-objects.ts'
export type { QEMUFileReader, QEMUFileWriter } from './qemufile/qemufile.ts'
export { bufferReader, createQEMUFileReader, drive } from './qemufile/qemufile-reader.ts'
export { bufferWriter, createQEMUFileWriter } from './qemufile/qemufile-writer.ts'
export { MigrationPriority } from './registry/migration-priority.ts'
export type {
  AlternativeLayout,
  LiveSection,
  RegisterOptions,
  SaveStateRegistry,
  SaveVmHandlers,
  SectionEntry,
  SectionLayout,
} from './registry/registry.ts'
export { createSaveStateRegistry } from './registry/save-state-registry.ts'
export { loadConfiguration, type StreamConfiguration, saveConfiguration } from './stream/configuration.ts'
export {
  COMMANDS,
  type CommandName,
  commandName,
  defaultStreamSettings,
  Element,
  type SectionProgress,
  STREAM_MAGIC,
  STREAM_VERSION,
  type StreamSettings,
} from './stream/element.ts'
export { createTurnBudget, nextTurn } from './stream/event-loop-turn.ts'
export {
  type GlobalState,
  globalRunState,
  globalStateVmstate,
  RUN_STATES,
  setGlobalRunState,
} from './stream/global-state.ts'
export { LoadOrderError, LoadOrderSanitizer } from './stream/load-order.ts'
export {
  ConfigurationError,
  SectionFooterError,
  SectionLoadError,
  SectionSaveError,
  SectionSequenceError,
  SectionVersionError,
  StreamCommandError,
  StreamMagicError,
  StreamVersionError,
  UnknownElementError,
  UnknownSectionError,
} from './stream/stream-errors.ts'
export {
  type LoadedStream,
  type StreamCommand,
  StreamLoader,
  type StreamLoaderOptions,
} from './stream/stream-loader.ts'
export { StreamSaver, type StreamSaverOptions } from './stream/stream-saver.ts'
export {
  defineTraceEvents,
  onTrace,
  switchTraceEvents,
  type TraceArgument,
  type TraceEvent,
  type TraceListener,
  type TraceValue,
  traceEvents,
} from './trace/trace-event.ts'
export {
  type ArrayOptions,
  array,
  bitmap,
  boolArray,
  boolVarray,
  buffer,
  type CountOptions,
  cpuDoubleArray,
  DEFAULT_MAX_BYTES,
  DEFAULT_MAX_ELEMENTS,
  i8Array,
  i8Varray,
  i16Array,
  i16Varray,
  i32Array,
  i32Varray,
  i64Array,
  i64Varray,
  type LengthFrom,
  pointerArray,
  u8Array,
  u8Varray,
  u16Array,
  u16Varray,
  u32Array,
  u32Varray,
  u64Array,
  u64Varray,
  unused,
  unusedVarray,
  type VarrayOptions,
  varray,
  vbuffer,
} from './vmstate/array-rows.ts'
export { type CompileOptions, compileVmstate, type VmstateCodec } from './vmstate/codec.ts'
export { defineVmstate, vmstateFor } from './vmstate/define-vmstate.ts'
export {
  type DescribeOptions,
  type FieldDescription,
  formatSection,
  formatVmdescription,
  type SectionDescription,
  type StreamDescription,
  type VmdescStyle,
  type VmstateDescription,
} from './vmstate/description.ts'
export type { Field, FieldOptions, FieldTable, Padding, PresenceOptions, StateOf, WireType } from './vmstate/field.ts'
export { type EmittedVmstateModule, emitVmstateModule } from './vmstate/generated-codec.ts'
export type { CustomInfo } from './vmstate/row.ts'
export {
  bool,
  cpuDouble,
  i8,
  i16,
  i32,
  i32Equal,
  i32Le,
  i64,
  i64Number,
  timer,
  u8,
  u8Equal,
  u16,
  u16Equal,
  u32,
  u32Equal,
  u64,
  u64Equal,
  u64Number,
} from './vmstate/scalar-rows.ts'
export {
  custom,
  gtree,
  gtreeDirectKey,
  type ListOptions,
  list,
  qlist,
  struct,
  structArray,
  structVarray,
  type TreeNode,
  tmp,
  validate,
  vstruct,
} from './vmstate/struct-rows.ts'
export type {
  ClassTable,
  FullState,
  StateOfVmstate,
  SubsectionTable,
  Vmstate,
  VmstateHooks,
  VmstateTable,
} from './vmstate/table.ts'
