"""A session with a hub, in a process of its own: huggingface_hub reads its environment when it is imported.

hub_session.py FOLDER: everything that `tests/test_hub.py` wants to know, as one JSON object on standard output.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from fake_hub import TOKEN, Hub

folder = Path(sys.argv[1])
hub = Hub(seconds=100)
os.environ |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}

import torch  # noqa: E402

import s4gen  # noqa: E402
from s4gen.config import DensityConfig, ImageLayout, ModelConfig, SSMConfig  # noqa: E402
from s4gen.errors import UserError  # noqa: E402
from s4gen.models.build import build_model  # noqa: E402

found: dict[str, Any] = {}


def refused(what: str, *args: Any, **options: Any) -> None:
    try:
        s4gen.from_pretrained(*args, **options)
        found[what] = "not refused"
    except UserError as error:
        found[what] = str(error)


def weights(model: Any) -> list[float]:
    return torch.cat([parameter.flatten() for parameter in model.parameters()]).tolist()


config = DensityConfig(ImageLayout(2, 2, 1, 4), ModelConfig(d_model=4, n_layers=1, d_ff=0), SSMConfig(d_state=2))
model, other = build_model(config), build_model(config)
first = s4gen.push_to_hub(model, "me/tiny", token=TOKEN)
loaded = s4gen.from_pretrained("me/tiny")
found["the same"] = weights(loaded) == weights(model)
found["files"] = sorted(hub.commits["me/tiny"][-1][1])
found["card"] = hub.commits["me/tiny"][-1][1]["README.md"].decode()
s4gen.push_to_hub(other, "me/tiny", token=TOKEN)
found["the newest"] = weights(s4gen.from_pretrained("me/tiny")) == weights(other)
found["by revision"] = weights(s4gen.from_pretrained("me/tiny", revision=first.rsplit("/")[-1])) == weights(model)
found["by its method"] = str(loaded.push_to_hub("me/again", token=TOKEN)).startswith(hub.url)
s4gen.push_to_hub(model, "private/tiny", token=TOKEN)
found["with the token"] = weights(s4gen.from_pretrained("private/tiny", token=TOKEN)) == weights(model)
refused("private", "private/tiny2", token="wrong")
refused("no such name", "me/nothing")
refused("no such revision", "me/tiny", revision="other")
refused("no name", "nothing")
refused("not cached", "me/again", local_files_only=True)
found["from the cache"] = weights(s4gen.from_pretrained("me/tiny", local_files_only=True)) == weights(other)
hub.shutdown()
hub.server_close()
found["unplugged, from the cache"] = weights(s4gen.from_pretrained("me/tiny")) == weights(other)
refused("unplugged", "me/again")
print(json.dumps(found))
