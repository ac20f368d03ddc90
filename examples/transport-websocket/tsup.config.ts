export default { entry: ['src/index.ts'], format: 'esm', target: 'es2024', dts: true, clean: true }
