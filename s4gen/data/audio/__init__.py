"""Turn sound files into clips of codes, gather these into batches, and write codes as wav and flac files."""

from s4gen.data.audio.clips import AudioSet, Findings
from s4gen.data.audio.format import AudioFormat, Quantiser, format_of
from s4gen.data.audio.opening import hold_out, open_split

__all__ = ["AudioFormat", "AudioSet", "Findings", "Quantiser", "format_of", "hold_out", "open_split"]
