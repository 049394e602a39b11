"""How far the base reader's calibration carries: fitted on held-out documents of our own, measured on public sets it never saw.

Of each public set, what no question of the base reader's mix (mix.py) came from, asked open-book as in service:
- covid-qa: whole documents unseen, cut into passages;
- policyqa: paragraphs unseen (of every site some were in the mix), each question asked of its own site's policy. The same question is put to
  many paragraphs of a policy, and any of their answers is right;
- wikipedia: the held-out tenth of SQuAD-paraphrased, by paragraph.
A share of the questions is made unanswerable by leaving out the document that answers them. Not of policyqa: another paragraph, or the same
words on another site, often answers a question too, so nobody could say that it is unanswerable.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

from quarry_contract.manifests import Calibration
from transformers import AutoModelForQuestionAnswering

from . import mix, passages, squad
from .base import BaseError, resolve_base
from .base_reader import HELD_OUT, QUESTIONS
from .calibrate import MIN_ANSWERED, Outcome, asked, calibrate, contexts_of, figures, open_book, share
from .features import load_tokenizer
from .predict import torch_logits
from .risk import RiskError
from .squad import Example

UNANSWERABLE = 0.25  # of the questions, asked once more without their document
SEED = 29
Books = list[list[Example]]  # each question on its passages, the most similar first


def used_in_training(sets: Path) -> set[str]:
    """The ids of every question in the base reader's mix; later stages take nothing more of the public sets measured here."""
    return {e.id for e in mix.paragraphs(sets, QUESTIONS, mix.MixSettings())}


def covid(sets: Path, used: set[str]) -> Books:
    """Questions on documents of which no question was used, over those documents' passages."""
    unseen = _unseen(sets / "covid-qa.json", used)
    return _with_unanswerable(unseen, {c: [c[a:b] for a, b in passages.cut(c)] for c in sorted({e.context for e in unseen})})


def policy(sets: Path, used: set[str]) -> Books:
    """Questions on paragraphs of which no question was used, each question of a site once, over those paragraphs of the site."""
    by_site: dict[str, dict[str, Example]] = {}
    contexts: dict[str, dict[str, str]] = {}
    for e in _unseen(sets / "policyqa-dev.json", used):
        questions = by_site.setdefault(e.title, {})
        before = questions.get(e.question)
        questions[e.question] = replace(before, answers=before.answers + e.answers) if before else e
        contexts.setdefault(e.title, {})[e.context] = ""
    return [book for site, found in by_site.items() for book in open_book(list(found.values()), contexts[site])]


def wikipedia(sets: Path, used: set[str]) -> Books:
    """Questions on the paragraphs that every stage leaves out, over those paragraphs."""
    _, unseen = mix.split_by_context(_unseen(sets / "squad-paraphrased.json", used), mix.HELD_OUT_PERCENT)
    return _with_unanswerable(unseen, {c: [c] for c in sorted({e.context for e in unseen})})


SETS: Mapping[str, Callable[[Path, set[str]], Books]] = {"covid-qa": covid, "policyqa": policy, "wikipedia": wikipedia}


def _unseen(path: Path, used: set[str]) -> list[Example]:
    loaded = squad.load(path)
    seen = {e.context for e in loaded if e.id in used}
    return [e for e in squad.check(loaded)[0] if e.context not in seen]


def _with_unanswerable(examples: Sequence[Example], cuts: Mapping[str, Sequence[str]]) -> Books:
    """Every question over the passages of all documents; and a share again over those of all but its own, where it has no answer.

    Made negatives (mining.py) stand on one passage; open-book the answering document must be gone from all that is searched.
    """
    books = open_book(examples, _pool(cuts.values()))
    for e in Random(SEED).sample(examples, round(UNANSWERABLE * len(examples))):  # noqa: S311 - sampling, not secrets
        books += open_book([replace(e, answers=())], _pool(texts for context, texts in cuts.items() if context != e.context))
    return books


def _pool(documents: Iterable[Sequence[str]]) -> dict[str, str]:
    return {text: "" for texts in documents for text in texts}


def sampled(books: Books, most: int) -> Books:
    """All, or as many drawn by a fixed seed."""
    return books if len(books) <= most else Random(SEED).sample(books, most)  # noqa: S311


def run(base: str, sets: Path, names: Sequence[str], held_out: Sequence[Path], max_wrong: float, most: int) -> dict[str, Any]:
    """Calibrate `base` on the files in `held_out`, as `base_reader.pack_calibration` does, and measure it on the sets in `names`.

    Raises:
        BaseError, DatasetError: a model or file cannot be used.
        ValueError: the held-out questions cannot teach a confidence.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = resolve_base(base, Path(scratch))
        logits, tokenizer = torch_logits(AutoModelForQuestionAnswering.from_pretrained(str(folder), local_files_only=True)), load_tokenizer(folder)
    used = used_in_training(sets)
    fitted_on = [book for examples in map(squad.load, held_out) for book in sampled(open_book(examples, contexts_of(examples)), most)]
    calibration, refused = _calibrated(asked(logits, tokenizer, fitted_on), max_wrong)
    result: dict[str, Any] = {"calibration": asdict(calibration), "fitted_on": len(fitted_on), "max_wrong": max_wrong, "not_promised": refused}
    for name in names:
        found = figures(asked(logits, tokenizer, sampled(SETS[name](sets, used), most)), calibration)
        result[name] = found | {"holds": refused is None and found["wrong_among_answered_low"] <= max_wrong}
        print(f"{name}: {json.dumps(result[name])}", file=sys.stderr, flush=True)
    return result


def _calibrated(found: Sequence[Outcome], max_wrong: float) -> tuple[Calibration, str | None]:
    """With the threshold for `max_wrong`; where that cannot be promised, with that of `calibrate`'s own default, and the reason."""
    try:
        return calibrate(found, MIN_ANSWERED, max_wrong), None
    except RiskError as error:
        return calibrate(found, MIN_ANSWERED), str(error)


def main() -> None:
    """`python -m quarry_training.foreign --sets DIR`: prints one JSON object; exits 1 when the promise does not hold on a set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=Path, required=True, help="folder with the public sets that `make base-reader` takes")
    parser.add_argument("--base", default="quarry-base", help="quarry-base, or a trained reader's folder")
    parser.add_argument("--on", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--held-out", type=Path, nargs="+", default=list(HELD_OUT.values()), help="SQuAD files to calibrate on")
    parser.add_argument("--max-wrong", type=share, default=0.1)
    parser.add_argument("--most", type=int, default=10_000, help="questions of each file at most")
    args = parser.parse_args()
    try:
        result = run(args.base, args.sets, args.on, args.held_out, args.max_wrong, args.most)
    except (squad.DatasetError, BaseError, ValueError, OSError) as error:
        sys.exit(f"not measured: {error}")
    print(json.dumps(result))
    if not all(result[name]["holds"] for name in args.on):
        sys.exit(1)


if __name__ == "__main__":
    main()
