"""Steps worth testing kernels with (`routing-cases`), and where made-up routing misleads: docs/reports/routing.md."""
