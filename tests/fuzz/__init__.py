"""A fuzzer: all kinds of files that a command reads, damaged in thousands of ways, none of which may surprise anybody.

`make test-fuzz` runs it, `make test-fuzz FILES=100000 SEED=7` for longer and with other files; with one seed they are
always the same. A file is refused (exit code 2 and one line that says what was expected), or it is accepted, and then
the result is sane. Everything else is a fault: see `verdict.py`.

    good.py       the bytes of good files that other programs write
    seeds.py      good files of all kinds, made once
    mutators.py   what is done to their bytes, values, tensors and places in the file system
    formats.py    the same for formats with checksums of their own
    kinds.py      which command reads which file
    verdict.py    what became of a command, and what a sane result is
    execute.py    runs a command in this process, with limits
    runner.py     processes that run one command after another, and are replaced when they hang or die
    resume.py     reads what no command reads
    __main__.py   the table
"""
