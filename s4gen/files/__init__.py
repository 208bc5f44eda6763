"""Files and folders: written whole or not at all, found, locked, cleaned up, shipped with the package."""
