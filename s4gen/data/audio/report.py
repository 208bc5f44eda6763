"""What became of the recordings of a set: read, changed, skipped."""

from __future__ import annotations

from dataclasses import dataclass

_NAMED = 5


@dataclass(frozen=True)
class Report:
    """Counts of recordings; `lines` are for the user."""

    found: int = 0
    """All that were looked at."""
    skipped: tuple[tuple[str, str], ...] = ()
    """(name, why) of those that cannot be used."""
    too_short: int = 0
    """Left out: shorter than asked for."""
    too_long: int = 0
    """Left out: longer than asked for."""
    resampled: int = 0
    """Used, after conversion from another sampling rate."""
    mixed: int = 0
    """Used, after mixing several channels to one."""
    clipped: int = 0
    """Used, although they went beyond full scale."""
    broke_off: int = 0
    """Used, although they end before the end that their headers name."""
    notes: tuple[str, ...] = ()
    """How the set was understood, a line each."""

    @property
    def used(self) -> int:
        """Recordings in the set."""
        return self.found - len(self.skipped) - self.too_short - self.too_long

    def lines(self) -> list[str]:
        """What somebody should know, one line for each kind; empty if all went in as they are."""
        lines = list(self.notes)
        if self.skipped:
            lines.append(f"skipped {len(self.skipped)} of {self.found} recordings: {self.reasons()}")
        for count, what in ((self.too_short, "shorter"), (self.too_long, "longer")):
            if count:
                lines.append(f"left out {count} of {self.found} recordings: {what} than asked for")
        for count, what in (
            (self.resampled, "had another sampling rate and were resampled"),
            (self.mixed, "had several channels and were mixed to mono"),
            (self.clipped, "went beyond full scale and were clipped"),
            (self.broke_off, "are cut off before the end that their headers name, and were read up to there"),
        ):
            if count:
                lines.append(f"{count} of {self.used} recordings {what}")
        return lines

    def reasons(self) -> str:
        """The first skipped recordings by name."""
        named = [f"{name} {why}" for name, why in self.skipped[:_NAMED]]
        more = len(self.skipped) - len(named)
        return "; ".join([*named, f"and {more} more"] if more else named)
