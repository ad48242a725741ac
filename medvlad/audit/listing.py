"""Report what the listing of a data set left open: unknown patients, and files that are not read."""

from __future__ import annotations

from medvlad.audit.finding import Finding, finding, plural
from medvlad.datasets.describe import describe_dataset
from medvlad.datasets.folders import ImageFolder
from medvlad.datasets.listing import counts_in_words

__all__ = ["listing_findings"]


def listing_findings(dataset: ImageFolder) -> list[Finding]:
    """Report patients that are known for a part of the images only, and files that were left out."""
    described = describe_dataset(dataset)
    found: list[Finding] = []
    unknown: dict[str, dict[str, int]] = {}
    n_known = 0
    for class_name, by_kind in (described["patients"] or {}).items():
        n_known += sum(one["known"] for one in by_kind.values())
        missing = {kind: one["unknown"] for kind, one in by_kind.items() if one["unknown"]}
        if missing:
            unknown[class_name] = missing
    n_unknown = sum(n for by_kind in unknown.values() for n in by_kind.values())
    if n_known and n_unknown:
        found.append(
            finding(
                "unknown_patients",
                "warning",
                f"the patient of {plural(n_unknown, 'image')} is not known, and that of {n_known} is "
                f"({counts_in_words(unknown)})",
                n_images=n_unknown,
                unknown=unknown,
            )
        )
    left_out = described["left_out"]
    if left_out:
        n_files = sum(n for by_ending in left_out.values() for n in by_ending.values())
        found.append(
            finding(
                "files_left_out",
                "warning",
                f"{plural(n_files, 'file')} left out, in formats that are not read "
                f"({counts_in_words(left_out)})",
                n_files=n_files,
                left_out=left_out,
            )
        )
    return found
