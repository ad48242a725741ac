"""A page on which a person decides about pairs of images and about labels.

The page is one file. Its script counts the answers and saves them as a JSON file, which
:func:`medvlad.audit.decisions.read_decisions` reads. It needs no server and loads nothing. The content
security policy allows this one script, by its SHA-256.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medvlad.audit.decisions import LABEL_ANSWERS, PAIR_ANSWERS, Decisions
from medvlad.audit.finding import plural
from medvlad.audit.run import below
from medvlad.report.audit import example_picture
from medvlad.report.html import Page, Picture

__all__ = ["decision_page", "has_questions"]

_LABELS = 100  # labels that are asked about

_SCRIPT = """
"use strict";
const questions = [...document.querySelectorAll("fieldset[data-kind]")];
let saved = true;
function answerOf(question) {
  const chosen = question.querySelector("input:checked");
  return chosen ? chosen.value : null;
}
function count() {
  const n = questions.filter(answerOf).length;
  document.getElementById("answered").textContent = n + " of " + questions.length + " answered";
}
function save() {
  const decisions = { medvlad_decisions: 1, pairs: [], labels: [] };
  for (const question of questions) {
    const answer = answerOf(question);
    if (!answer) continue;
    const images = JSON.parse(question.dataset.images);
    if (question.dataset.kind === "pair") {
      decisions.pairs.push({ images: images, same_patient: answer });
    } else {
      decisions.labels.push({ image: images[0], label: question.dataset.label, answer: answer });
    }
  }
  const link = document.createElement("a");
  const text = JSON.stringify(decisions, null, 1) + "\\n";
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = "decisions.json";
  document.body.append(link);
  link.click();
  link.remove();
  saved = true;
}
document.addEventListener("change", () => { saved = false; count(); });
document.getElementById("save").addEventListener("click", save);
window.addEventListener("beforeunload", (event) => { if (!saved) event.preventDefault(); });
count();
"""


def has_questions(found: dict[str, Any]) -> bool:
    """Return whether an audit has a pair or a label that a person should decide on."""
    return bool(found["questions"]["listed"] or _labels(found)[0])


def decision_page(
    found: dict[str, Any],
    *,
    decisions: Decisions | None = None,
    pictures: bool = True,
) -> Page:
    """Return a page with one question for each doubtful pair of images and each suspicious label.

    Parameters
    ----------
    found : dict
        What :func:`medvlad.audit.audit` returned, without pseudonyms.
    decisions : Decisions or None, default=None
        Earlier answers, which are filled in.
    pictures : bool, default=True
        Whether to show the images.

    Returns
    -------
    Page
    """
    known = Decisions() if decisions is None else decisions
    pairs, (labels, n_labels_left_out) = found["questions"]["listed"], _labels(found)
    page = Page(f"Decisions about {Path(found['root']).name or 'images'}", script=_SCRIPT)
    page.paragraph(
        "Answer as many questions as you can, and save the answers as a file. Then run the same audit with "
        "--decisions decisions.json --repair TABLE.csv. It writes a table in which related images "
        "stay together. Images with a wrong label are left out."
    )
    page.save_bar("Save the answers")
    page.heading(f"Same patient? {plural(len(pairs), 'pair')}")
    page.paragraph(
        "Without an answer, a pair that is nearly the same stays together, and an uncertain pair does not."
    )
    for one in pairs:
        images = [below(name, found["root"]) for name in one["images"]]
        kind = "nearly the same" if one["same"] else "uncertain"
        mirrored = ", mirrored" if one["mirrored"] else ""
        page.question(
            _pictures(one["images"], found["root"], pictures),
            f"{' = '.join(images)} ({kind}, correlation {one['correlation']:.2f}{mirrored})",
            "Is this the same patient?",
            PAIR_ANSWERS,
            {"kind": "pair", "images": images},
            one["answer"] or known.pairs.get((min(images), max(images))),
        )
    _left_out(page, found["questions"]["n_left_out"], "pair")
    page.heading(f"Is the label right? {plural(len(labels), 'image')}")
    page.paragraph("Without an answer, an image keeps its label.")
    for one in labels:
        image = below(one["image"], found["root"])
        page.question(
            _pictures([one["image"]], found["root"], pictures),
            f"{image} (suspicion {one['suspicion']:.2f}; the classifier prefers {one['suggested']!r})",
            f"The label is {one['label']!r}. Is it right?",
            LABEL_ANSWERS,
            {"kind": "label", "images": [image], "label": one["label"]},
            known.label_answer(image, one["label"]),
        )
    _left_out(page, n_labels_left_out, "label")
    return page


def _labels(found: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """Return labels that are reported or doubted by both witnesses, and how many more there are."""
    if isinstance(found["labels"], str):
        return [], 0
    listed = [
        one
        for one in found["labels"]["listed"]
        if one["reported"] or (one["margin"] < 0 and one["neighbours"] < 0)
    ]
    return listed[:_LABELS], max(0, len(listed) - _LABELS)


def _left_out(page: Page, n: int, what: str) -> None:
    if n:
        page.paragraph(f"{plural(n, what)} with little doubt not shown.", "note")


def _pictures(names: list[str], root: str, shown: bool) -> list[Picture]:
    found = example_picture(names, root, None) if shown else None
    return [] if found is None else [found[0]]
