"""Write all of generation as a folder of C++: the plan, the engine's source, a short main program and a Makefile."""

from __future__ import annotations

import shutil
from pathlib import Path

from s4gen.compiling import targets
from s4gen.compiling.compiler import FLAGS, SOURCE, sources
from s4gen.errors import UserError
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.engines.native.pack import pack
from s4gen.sampling.flatten import NotFlatError, flatten

MAIN = Path(__file__).with_name("native") / "main.cpp"


def write_native(recurrent: RecurrentModel, folder: Path) -> None:
    """Fill a folder with sources that `make` turns into the program `generate`; only a C++ compiler is needed.

    Raises:
        UserError: the model has a layer that the native engine does not know.
    """
    try:
        plan = flatten(recurrent)
    except NotFlatError as error:
        raise UserError(f"the native engine does not run this model, so there is no source for it: {error}") from None
    (folder / "plan.bin").write_bytes(pack(plan).numpy().tobytes())
    for source in (*sources(SOURCE), MAIN):
        shutil.copyfile(source, folder / source.name)
    length = recurrent.config.layout.length
    # The same flags as the native engine's: on one machine the program and `s4gen sample` then draw the same tokens.
    makefile = (
        f"# make && ./generate 2 {length} 0   (sequences, tokens of each, seed; then filters, see main.cpp)"
        "\n"
        f"CXX ?= g++\n# for the processor that compiles\nTARGET ?= {' '.join(targets.options(targets.NATIVE))}\n\n"
        "generate: main.cpp engine.cpp $(wildcard *.h)\n"
        f"\t$(CXX) {' '.join(FLAGS)} $(TARGET) -DLENGTH={length} main.cpp -o generate\n\n"
        ".PHONY: clean\nclean:\n\trm -f generate\n"
    )
    (folder / "Makefile").write_text(makefile, encoding="utf-8")
