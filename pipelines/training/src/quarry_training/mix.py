"""The data mix of Quarry's base reader: public sets, our own questions on the same paragraphs, and made negatives.

Why each part is there stands in docs/models/base-reader.md; what was tried, in docs/models/base-reader-log.md.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from . import squad
from .squad import Example

HELD_OUT_PERCENT = 10
HELD_OUT_OF_OWN_PERCENT = 5
MAX_ANSWER_WORDS = 25


@dataclass(frozen=True)
class MixSettings:
    """How many examples of each kind stages two and seven take."""

    qamr_among_distractors: int = 2600
    policy: int = 700
    covid: int = 350
    hard_negatives: int = 1100
    qamr_negatives: int = 400
    encyclopaedia: int = 8000
    crop_share: float = 0.4
    seed: int = 5


def sentences(data_dir: Path, per_sentence: int, seed: int = 3) -> list[Example]:
    """Stage one: QAMR, single sentences with up to `per_sentence` questions each."""
    rng = Random(seed)  # noqa: S311 - sampling, not secrets
    by_context: dict[str, list[Example]] = {}
    for name in ("qamr-a", "qamr-b"):
        for example in _checked(data_dir / f"{name}.json"):
            by_context.setdefault(example.context, []).append(example)
    chosen = []
    for group in by_context.values():
        rng.shuffle(group)
        chosen += group[:per_sentence]
    return chosen


def paragraphs(data_dir: Path, questions: Path, settings: MixSettings) -> list[Example]:
    """Stage two: paragraphs, with distractors, crops and unanswerable questions. Nothing of the held-out paragraphs."""
    rng = Random(settings.seed)  # noqa: S311
    wikipedia, _ = split_by_context(_checked(data_dir / "squad-paraphrased.json"), HELD_OUT_PERCENT)
    own = own_questions(questions, {e.context for e in wikipedia})
    qamr = sentences(data_dir, 12, settings.seed)
    mixed = [_crop(e, rng) if rng.random() < settings.crop_share else e for e in wikipedia + own]
    mixed += [_among(e, qamr, rng) for e in rng.sample(qamr, settings.qamr_among_distractors)]
    mixed += [_without(e, qamr, rng) for e in rng.sample(qamr, settings.qamr_negatives)]
    mixed += rng.sample(_short(_checked(data_dir / "policyqa-dev.json")), settings.policy)
    mixed += [_crop(e, rng, 6) for e in rng.sample(_short(_checked(data_dir / "covid-qa.json")), settings.covid)]
    answerable = [e for e in wikipedia + own if e.answers]
    return mixed + hard_negatives(rng.sample(answerable, settings.hard_negatives), rng)


def split_by_context(examples: Sequence[Example], held_out_percent: int) -> tuple[list[Example], list[Example]]:
    """(train, held out) by the hash of the context alone: the base reader's split must never change, or it is measured on what it has seen."""
    train: list[Example] = []
    held_out: list[Example] = []
    for example in examples:
        bucket = int(hashlib.sha256(example.context.encode()).hexdigest()[:8], 16) % 100
        (held_out if bucket < held_out_percent else train).append(example)
    return train, held_out


def own_questions(path: Path, contexts: set[str]) -> list[Example]:
    """Our questions, stored without the paragraphs they are about: joined by the SHA-256 of the paragraph."""
    by_digest = {hashlib.sha256(c.encode()).hexdigest()[:12]: c for c in contexts}
    found = []
    for i, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        record = json.loads(line)
        context = by_digest.get(record["context"])
        if context is not None:
            answers = () if record["answer"] is None else ((record["answer"], record["start"]),)
            found.append(Example(f"own-{i}", record["context"], record["question"], context, answers))
    return found


def hard_negatives(examples: Sequence[Example], rng: Random) -> list[Example]:
    """Each question on the most similar of the other contexts (TF-IDF) that does not hold its answer, under that one's heading."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # here, for it is slow to import

    headings = {e.context: e.heading for e in examples}
    contexts = sorted(headings)
    vectorizer = TfidfVectorizer(sublinear_tf=True, stop_words="english")
    by_context = vectorizer.fit_transform(contexts)
    similarity = (vectorizer.transform([e.question for e in examples]) @ by_context.T).toarray()
    negatives = []
    for row, example in zip(similarity, examples, strict=True):
        ranked = row.argsort()[::-1][:12]
        texts = [a.lower() for a, _ in example.answers]
        usable = [c for i in ranked if (c := contexts[i]) != example.context and not any(t in c.lower() for t in texts)]
        if usable:
            other = rng.choice(usable[:3])
            negatives.append(replace(example, id=f"{example.id}-negative", context=other, heading=headings[other], answers=()))
    return negatives


def _checked(path: Path) -> list[Example]:
    examples, _ = squad.check(squad.load(path))
    return examples


def _short(examples: Sequence[Example]) -> list[Example]:
    return [e for e in examples if e.answers and len(e.answers[0][0].split()) <= MAX_ANSWER_WORDS]


def _crop(example: Example, rng: Random, most: int = 99) -> Example:
    """A run of three or more sentences around the answer: cheaper to read, and the answer stands elsewhere in it."""
    if not example.answers:
        return example
    bounds = [0, *(m.end() for m in re.finditer(r"[.!?]\s+(?=[A-Z\"(])", example.context)), len(example.context)]
    text, start = example.answers[0]
    first = max(i for i, b in enumerate(bounds[:-1]) if b <= start)
    last = next(i for i, b in enumerate(bounds) if b >= start + len(text))
    if len(bounds) <= 4:
        return example
    begin = rng.randint(max(0, first - most // 2), first)
    stop = rng.randint(min(max(last, begin + 3), len(bounds) - 1), min(last + most // 2, len(bounds) - 1)) if last < len(bounds) - 1 else last
    cropped = example.context[bounds[begin] : bounds[stop]].rstrip()
    kept = tuple((t, s - bounds[begin]) for t, s in example.answers if s >= bounds[begin] and s - bounds[begin] + len(t) <= len(cropped))
    return replace(example, context=cropped, answers=kept)


def _among(example: Example, pool: Sequence[Example], rng: Random) -> Example:
    """The sentence set among two to five others, so that the model must find it first."""
    others = [e.context for e in rng.sample(pool, rng.randint(2, 5)) if e.context != example.context]
    at = rng.randint(0, len(others))
    before = "".join(f"{c} " for c in others[:at])
    context = before + example.context + "".join(f" {c}" for c in others[at:])
    return replace(example, context=context, answers=tuple((t, s + len(before)) for t, s in example.answers))


def _without(example: Example, pool: Sequence[Example], rng: Random) -> Example:
    """The question on other sentences only: unanswerable."""
    texts = [a.lower() for a, _ in example.answers]
    others = [e.context for e in rng.sample(pool, 8) if e.context != example.context and not any(t in e.context.lower() for t in texts)]
    return replace(example, id=f"{example.id}-negative", context=" ".join(others[:4]) or "-", answers=())


def documents(data_dir: Path, questions: Path, sample: Path, settings: MixSettings) -> list[Example]:
    """Stage three: working documents (the sample corpus's train split), kept in balance by paragraphs seen before.

    Each sample question comes cropped, whole, and once on a similar passage that does not answer it.
    """
    rng = Random(settings.seed + 1)  # noqa: S311
    ours = _checked(sample)
    wikipedia, _ = split_by_context(_checked(data_dir / "squad-paraphrased.json"), HELD_OUT_PERCENT)
    own = own_questions(questions, {e.context for e in wikipedia})
    before = [_crop(e, rng) if rng.random() < settings.crop_share else e for e in wikipedia + rng.sample(own, 2400)]
    negatives = hard_negatives([e for e in ours if e.answers], rng) + hard_negatives(rng.sample([e for e in own if e.answers], 350), rng)
    return before + ours + [_crop(e, rng) for e in ours] * 2 + negatives


def working_documents(data_dir: Path, questions: Path, sample: Path, own_documents: Path, settings: MixSettings) -> list[Example]:
    """Stage four: our own working documents and the sample corpus's train split, a quarter of it paragraphs seen before.

    Where a passage comes from a document without headings, half of its questions are asked under its title.
    """
    rng = Random(settings.seed + 2)  # noqa: S311
    ours = _checked(sample)
    work, _ = split_by_context(_checked(own_documents), HELD_OUT_OF_OWN_PERCENT)
    wikipedia, _ = split_by_context(_checked(data_dir / "squad-paraphrased.json"), HELD_OUT_PERCENT)
    own = own_questions(questions, {e.context for e in wikipedia})
    before = [replace(e, heading=e.title if rng.random() < 0.5 else "") for e in wikipedia + rng.sample(own, 2400)]
    qamr = sentences(data_dir, 12, settings.seed)
    before += [_among(e, qamr, rng) for e in rng.sample(qamr, 600)]
    cropped = [_crop(e, rng) if rng.random() < settings.crop_share else e for e in before + work]
    negatives = hard_negatives([e for e in work if e.answers], rng)
    negatives = hard_negatives([e for e in ours if e.answers], rng) * 2 + rng.sample(negatives, round(0.4 * len(negatives)))
    return cropped + ours * 2 + [_crop(e, rng) for e in ours] * 2 + negatives


def near_passages(data_dir: Path, questions: Path, sample: Path, own_documents: Path, near: Sequence[Path], settings: MixSettings) -> list[Example]:
    """Stages five and six: documents of which several passages resemble each other, with as much again of what was read before.

    Half of the answerable questions are asked of a neighbouring passage too, which does not answer them.
    """
    rng = Random(settings.seed + 3)  # noqa: S311
    ours = _checked(sample)
    new, _ = split_by_context([e for path in near for e in _checked(path)], HELD_OUT_OF_OWN_PERCENT)
    work, _ = split_by_context(_checked(own_documents), HELD_OUT_OF_OWN_PERCENT)
    wikipedia, _ = split_by_context(_checked(data_dir / "squad-paraphrased.json"), HELD_OUT_PERCENT)
    own = own_questions(questions, {e.context for e in wikipedia})
    before = [replace(e, heading=e.title if rng.random() < 0.5 else "") for e in rng.sample(wikipedia, 1200) + rng.sample(own, 800)]
    cropped = [_crop(e, rng) if rng.random() < settings.crop_share else e for e in before + rng.sample(work, 2000)]
    negatives = hard_negatives([e for e in new if e.answers], rng)
    negatives = hard_negatives([e for e in ours if e.answers], rng) + rng.sample(negatives, len(negatives) // 2)
    return new + cropped + ours * 2 + [_crop(e, rng) for e in ours] + negatives


def encyclopaedia(data_dir: Path, questions: Path, sample: Path, own: Sequence[Path], new: Path, settings: MixSettings) -> list[Example]:
    """Stage seven: passages of an encyclopaedia's kind in which several things of one kind stand side by side, and a third as many of those read before.

    They are asked under heading, title or nothing alike; some of the answerable questions also of the most similar other passage.
    """
    rng = Random(settings.seed + 4)  # noqa: S311
    ours = _checked(sample)
    passages = [replace(e, heading=rng.choice((e.heading, e.title, ""))) for e in rng.sample(_checked(new), settings.encyclopaedia)]
    documents, _ = split_by_context([e for path in own for e in _checked(path)], HELD_OUT_OF_OWN_PERCENT)
    wikipedia, _ = split_by_context(_checked(data_dir / "squad-paraphrased.json"), HELD_OUT_PERCENT)
    before = rng.sample(wikipedia, 700) + rng.sample(own_questions(questions, {e.context for e in wikipedia}), 600)
    before = [replace(e, heading=e.title if rng.random() < 0.5 else "") for e in before] + rng.sample(documents, 1200)
    cropped = [_crop(e, rng) if rng.random() < settings.crop_share else e for e in before + passages]
    negatives = hard_negatives(rng.sample([e for e in passages if e.answers], settings.encyclopaedia // 8), rng)
    return cropped + ours + hard_negatives([e for e in ours if e.answers], rng) + negatives
