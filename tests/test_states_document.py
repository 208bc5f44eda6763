"""The programs in docs/states.md run, and show what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

DOCUMENT = Path(__file__).parents[1] / "docs" / "states.md"


@pytest.mark.slow
def test_the_programs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL):
        exec(block, names)
    drawn = {name: torch.cat([*names[name].chunks(50)], dim=1) for name in ("same", "other", "first", "second")}
    again = torch.cat(names["again"], dim=1)[:, :50]
    assert torch.equal(drawn["same"], again) and not torch.equal(drawn["other"], again)
    assert torch.equal(drawn["first"], drawn["second"])
    assert names["length"] == 600 and names["state"].position.tolist() == [600]
