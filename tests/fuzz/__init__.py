"""A fuzzer: every kind of file that a command reads, damaged in thousands of ways, none of which may surprise anybody.

`make test-fuzz` runs it, `make test-fuzz FILES=100000 SEED=7` for longer and with other files; with a seed files are
always the same. A file is good for one of three: it is refused (exit code 2 and one line that says what was expected);
it is accepted, and then the result is sane; or there is a fault. See `verdict.py`.

    seeds.py      good files of all kinds, made once
    mutators.py   what is done to their bytes, values, tensors and places in the file system
    kinds.py      which command reads which file, and what a sane result of it is
    verdict.py    what became of a command
    runner.py     processes that run one command after another, and are replaced when they hang or die
    __main__.py   the table
"""
