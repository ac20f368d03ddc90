/** IOMMUs, saved before the PCI devices behind them. */
export { intelIommu } from './intel-iommu.ts'
export { type IntelIommuState, intelIommuVmstate } from './intel-iommu-vmstate.ts'
export { FaultReason } from './translation.ts'
