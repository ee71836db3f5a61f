"""The figures of the README, each beside the bare work: `python -m benchmarks [name ...]`.

One file per figure or family. Must never: be imported by dibs, or by the tests. Called by
`make bench`; the numbers it must show are the bars written beside each figure.
"""
