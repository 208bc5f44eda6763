"""A hook of hatch that compiles the native engine into a wheel, where there is a compiler.

Such a wheel has a tag of its platform, and needs no compiler where it is installed. Without a compiler, and on other
systems than Linux, the wheel is a pure one, whose engine is compiled on first use; so is an editable installation.
HATCH_BUILD_NO_HOOKS=true leaves all of this out.
"""

from __future__ import annotations

import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class EngineHook(BuildHookInterface):  # type: ignore[type-arg]
    """Compiles the engine for the levels of this machine's kind of processor."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the libraries to the wheel, and its tag."""
        if version == "editable":
            return
        if platform.system() != "Linux":
            self.app.display_info(f"s4gen: a wheel without a compiled engine: none was tried on {platform.system()}")
            return
        sys.path.insert(0, self.root)
        from s4gen.compiling.compiler import NativeUnavailable
        from s4gen.compiling.shipping import FOLDER, compile_all, tag_of

        self._made = tempfile.TemporaryDirectory()
        try:
            libraries = compile_all(Path(self._made.name))
        except (NativeUnavailable, OSError) as error:
            self.app.display_warning(f"s4gen: a wheel without a compiled engine: {error}")
            return
        if not libraries:
            return
        inside = FOLDER.relative_to(self.root).as_posix()
        build_data["force_include"].update({str(path): f"{inside}/{path.name}" for path in libraries})
        build_data["pure_python"] = False
        build_data["tag"] = tag_of(libraries)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Leave nothing behind."""
        if hasattr(self, "_made"):
            self._made.cleanup()
