/**
 * IOMMUs: Intel VT-d in front of a PCI bus. Its section is saved, hence loaded, before the devices behind it.
 *
 * ```ts
 * devices: [gpex({}), intelIommu({ 'aw-bits': 48 }), virtioBlk({ drive }, { bus: 'pcie.0' })]
 * ```
 */
export { intelIommu } from './intel-iommu.ts'
export { type IntelIommuState, intelIommuVmstate } from './intel-iommu-vmstate.ts'
export { FaultReason } from './translation.ts'
