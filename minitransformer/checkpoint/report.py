"""What became of each tensor when a checkpoint was loaded."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Report:
    """Nothing is silent: every tensor of the file, and every tensor of the model, is in one of these."""

    source: str  # where the files are
    family: str
    head: str
    prefix: str  # what the file writes before its names
    file_dtypes: Mapping[str, int]  # dtype in the file -> how many tensors
    used: tuple[str, ...]  # names in the file, in today's spelling
    ignored: Mapping[str, str] = field(default_factory=dict)  # name in the file -> why it carries nothing here
    aliased: Mapping[str, str] = field(default_factory=dict)  # old spelling in the file -> today's
    tied: Mapping[str, str] = field(default_factory=dict)  # second name in the file -> the tensor of ours it repeats
    fresh: Mapping[str, str] = field(default_factory=dict)  # name of ours -> why it has new random values
    notes: tuple[str, ...] = ()
    commit: str | None = None  # the hub's commit, where the files come from there

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for a program."""
        return asdict(self)

    def __str__(self) -> str:
        dtypes = ", ".join(f"{count} × {dtype}" for dtype, count in self.file_dtypes.items())
        names = f"names start with {self.prefix!r}" if self.prefix else "names without prefix"
        lines = [
            self.source,
            f"  family   {self.family}, head {self.head}, {names}",
            f"  used     {len(self.used)} of {sum(self.file_dtypes.values())} tensors in the file ({dtypes})",
        ]
        lines += _counted("ignored", self.ignored)
        if self.aliased:
            old, new = next(iter(self.aliased.items()))
            lines.append(f"  renamed  {len(self.aliased)} of old spelling, such as {old} -> {new}")
        lines += [f"  tied     {name} = {ours}" for name, ours in self.tied.items()]
        lines += _counted("fresh", self.fresh)
        lines += [f"  note     {note}" for note in self.notes]
        if self.commit:
            lines.append(f"  commit   {self.commit}")
        return "\n".join(lines)


def _counted(label: str, reasons: Mapping[str, str]) -> list[str]:
    """One line for each reason, with how many names it holds and the first few of them."""
    lines = []
    for why, count in Counter(reasons.values()).items():
        names = [name for name in reasons if reasons[name] == why]
        shown = ", ".join(names[:3]) + (", …" if count > 3 else "")
        lines.append(f"  {label:<8} {count} ({why}): {shown}")
    return lines
