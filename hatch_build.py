"""A build hook of hatch that compiles the native engine into the wheel if there is a compiler.

Such a wheel is tagged for its platform, and needs no compiler where it is installed. Without a compiler, and on systems
other than Linux, the wheel is a pure one whose engine is compiled on first use; the same holds for an editable
installation. HATCH_BUILD_NO_HOOKS=true skips the hook.
"""

from __future__ import annotations

import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class EngineHook(BuildHookInterface):  # type: ignore[type-arg]
    """The hook, which compiles the engine for every level of this machine's kind of processor."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the libraries and the platform's tag to the wheel."""
        if version == "editable":
            return
        if platform.system() != "Linux":
            self.app.display_info(f"s4gen: a wheel without a compiled engine: none was tried on {platform.system()}")
            return
        # The package is not installed where wheels are built; `s4gen.compiling` needs neither torch nor numpy.
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
        """Remove the temporary folder of the libraries, which are inside the wheel by now."""
        if hasattr(self, "_made"):
            self._made.cleanup()
