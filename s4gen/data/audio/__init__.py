"""Sound files <-> clips <-> codes: data sets of recordings, batches of clips, wav and flac files."""

from s4gen.data.audio.clips import AudioSet, Findings
from s4gen.data.audio.format import AudioFormat, Quantiser, format_of
from s4gen.data.audio.opening import hold_out, open_split

__all__ = ["AudioFormat", "AudioSet", "Findings", "Quantiser", "format_of", "hold_out", "open_split"]
