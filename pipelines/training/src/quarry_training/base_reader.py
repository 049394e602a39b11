"""Train Quarry's base reader anew: sentences, paragraphs (two seeds, averaged), documents, working documents, near passages, more of them from the
average of the two before, an encyclopaedia's passages averaged with that; packed in half precision, and calibrated on held-out documents of our own.

Averaging the weights of runs that share their beginning: Wortsman et al. 2022, "Model soups".
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForQuestionAnswering

from . import mix, scoring, squad
from .base import BASE_READER, CALIBRATION, PACKAGED, pack_base_reader, resolve_base
from .calibrate import MIN_ANSWERED, calibrate, contexts_of, outcomes
from .features import load_tokenizer
from .fit import FitSettings, fit, load_model, save
from .malloc import keep_freed
from .predict import predict, torch_logits

DATA = Path(__file__).parents[2] / "data"
QUESTIONS = DATA / "wikipedia-questions.jsonl"
WORKING = DATA / "working-documents.json"
NEAR, MORE_NEAR = DATA / "near-passages.json", DATA / "near-passages-more.json"
ENCYCLOPAEDIA = DATA / "encyclopaedia.json"
HELD_OUT = {name.replace("-", "_"): DATA / f"{name}-held-out.json" for name in ("working-documents", "near-passages", "encyclopaedia")}
SAMPLE = Path(__file__).parents[4] / "examples" / "questions" / "train.json"
STAGE_ONE = FitSettings(learning_rate=2.2e-4, batch_size=16, epochs=1.0)
STAGE_TWO = FitSettings(learning_rate=2e-4, batch_size=16, epochs=2.0)
STAGE_THREE = FitSettings(learning_rate=1e-4, batch_size=16, epochs=1.3, seed=19)
STAGE_FOUR = FitSettings(learning_rate=1.6e-4, batch_size=16, epochs=1.15, seed=21)
STAGE_FIVE = FitSettings(learning_rate=1.3e-4, batch_size=16, epochs=1.0, seed=23)
STAGE_SIX = FitSettings(learning_rate=1e-4, batch_size=16, epochs=1.0, seed=27)
STAGE_SEVEN = FitSettings(learning_rate=1.6e-4, batch_size=16, epochs=1.0, seed=33)
MIX_OF_STAGE_SIX = mix.MixSettings(seed=31)
SEEDS = (17, 18)
QUESTIONS_PER_SENTENCE = 24


def average(folders: Sequence[Path]) -> torch.nn.Module:
    """A model whose weights are the mean of those in `folders`."""
    models = [AutoModelForQuestionAnswering.from_pretrained(str(f), local_files_only=True) for f in folders]
    states = [m.state_dict() for m in models]
    models[0].load_state_dict({name: torch.stack([s[name] for s in states]).mean(0) for name in states[0]})
    model: torch.nn.Module = models[0]
    return model


def score(folder: Path, sets: Path) -> dict[str, float]:
    """Exact match and F1 (percent) of the best span on held-out Wikipedia paragraphs and our own documents, gold passage given."""
    _, wikipedia = mix.split_by_context(squad.load(sets / "squad-paraphrased.json"), mix.HELD_OUT_PERCENT)
    held_out = {"wikipedia": wikipedia} | {name: [e for e in squad.load(path) if e.answers] for name, path in HELD_OUT.items()}
    model = AutoModelForQuestionAnswering.from_pretrained(str(folder), local_files_only=True)
    result: dict[str, float] = {}
    for name, examples in held_out.items():
        found = predict(torch_logits(model), load_tokenizer(folder), examples)
        gold = [[text for text, _ in p.example.answers] for p in found]
        for metric in (scoring.exact_match, scoring.f1):
            total = sum(metric(p.text, g) for p, g in zip(found, gold, strict=True))
            result[f"{name}_{metric.__name__}"] = 100 * total / len(found)
    return result


def pack_calibration(folder: Path) -> None:
    """Calibrate the reader in `folder` on HELD_OUT, each file's questions over its own passages, and keep that beside the packed weights."""
    model = AutoModelForQuestionAnswering.from_pretrained(str(folder), local_files_only=True)
    held_out = [squad.load(path) for path in HELD_OUT.values()]
    found = [outcome for e in held_out for outcome in outcomes(torch_logits(model), load_tokenizer(folder), e, contexts_of(e))]
    (BASE_READER / CALIBRATION).write_text(json.dumps(calibrate(found, MIN_ANSWERED).to_dict()) + "\n")


def main() -> None:
    """`python -m quarry_training.base_reader --sets DIR --work DIR`: resumes where a killed run stood. With --calibrate nothing is trained."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=Path, help="folder with qamr-a, qamr-b, policyqa-dev, covid-qa and squad-paraphrased .json")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--calibrate", action="store_true", help="only calibrate the packed weights anew")
    args = parser.parse_args()
    keep_freed()
    if args.calibrate:
        with tempfile.TemporaryDirectory() as scratch:
            pack_calibration(resolve_base("quarry-base", Path(scratch)))
    elif args.sets and args.work:
        train(args.sets, args.work)
    else:
        parser.error("give --sets and --work, or --calibrate")


def train(sets: Path, work: Path) -> None:
    """All stages, each from its checkpoint where there is one; prints the scores of every stage as JSON."""
    first = work / "sentences"
    if not (first / "fit.json").exists():
        fit(PACKAGED, mix.sentences(sets, QUESTIONS_PER_SENTENCE), first, STAGE_ONE)
    examples = mix.paragraphs(sets, QUESTIONS, mix.MixSettings())
    runs = [work / f"paragraphs-{seed}" for seed in SEEDS]
    for seed, run in zip(SEEDS, runs, strict=True):
        if not (run / "fit.json").exists():
            fit(first, examples, run, FitSettings(**{**vars(STAGE_TWO), "seed": seed}))
    names = ("averaged", "documents", "working-documents", "near-passages", "averaged-again", "more-near-passages", "encyclopaedia", "averaged-last")
    averaged, documents, working, near, again, more, ency, last = (work / name for name in names)
    save(average(runs), first, averaged)
    if not (documents / "fit.json").exists():
        fit(averaged, mix.documents(sets, QUESTIONS, SAMPLE, mix.MixSettings()), documents, STAGE_THREE)
    if not (working / "fit.json").exists():
        fit(documents, mix.working_documents(sets, QUESTIONS, SAMPLE, WORKING, mix.MixSettings()), working, STAGE_FOUR)
    if not (near / "fit.json").exists():
        fit(working, mix.near_passages(sets, QUESTIONS, SAMPLE, WORKING, [NEAR], mix.MixSettings()), near, STAGE_FIVE)
    save(average([working, near]), working, again)
    if not (more / "fit.json").exists():
        fit(again, mix.near_passages(sets, QUESTIONS, SAMPLE, WORKING, [NEAR, MORE_NEAR], MIX_OF_STAGE_SIX), more, STAGE_SIX)
    if not (ency / "fit.json").exists():
        fit(more, mix.encyclopaedia(sets, QUESTIONS, SAMPLE, [WORKING, NEAR, MORE_NEAR], ENCYCLOPAEDIA, mix.MixSettings()), ency, STAGE_SEVEN)
    save(average([more, ency]), more, last)
    pack_base_reader(load_model(last))
    pack_calibration(last)
    print(json.dumps({run.name: score(run, sets) for run in [first, *runs, averaged, documents, working, near, again, more, ency, last]}, indent=1))


if __name__ == "__main__":
    main()
