"""Go on with a suspended generation, as a program of the user's would, since no command reads such files.

`python -m fuzz.resume CHECKPOINT FILE`, in tests/, ends as a command of s4gen does.
"""

from __future__ import annotations

import json
import sys


def resume(checkpoint: str, path: str) -> int:
    """Print the next tokens of the generation in a file, or why there are none; return the exit code."""
    import torch

    from s4gen.errors import UserError
    from s4gen.sampling.converted import load_recurrent
    from s4gen.sampling.generation import Generation

    try:
        generation = Generation.load(path, load_recurrent(checkpoint))
        print(json.dumps({"tokens": torch.cat(list(generation.chunks(4)), dim=1).tolist()}))
    except UserError as error:
        print(f"s4gen: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(resume(*sys.argv[1:]))
