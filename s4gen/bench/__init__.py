"""All that measures speed, memory and size: the room behind `s4gen bench`.

Four benchmarks are entered in one style: `run(...)` measures and returns a result, which has `to_dict()` for JSON and
`table()` for a person.

    generation   what one more token costs: our engines, convolution, Transformers, and the limit of this machine
    core         what kernels and layers cost against state size, features and length
    ancestors    what a training step of LSSL, S4, S4D and DSS costs, beside table 2 of the S4 paper
    compression  how many bytes files take by `s4gen compress`, and how fast, beside other codecs

The method is the same in the first three. Every workload is measured in a fresh process (`apart`), so that its peak
memory is its own and a workload that does not fit into memory ends nothing but itself. Times are medians of many calls
after a warm-up, on a monotonic clock (`instruments`). Loading, compiling and the first steps are never part of a time.
No data are needed: weights may be random, and tokens are drawn at random or by the model. Compression is given files,
and measured once, in seconds of the processor: what counts there is the size.
"""
