"""What headrace costs beside what users have today and beside the machine's limit.

Run one of them from the checkout, `python -m benchmarks.csv --data DIR`; DIR holds `adult/`,
`photos/` and `cifar10/`, as `benchmarks.inputs` says. `--quick` needs no DIR.
"""
