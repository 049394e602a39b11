"""Early stopping: the weights of the best held-out F1 are kept, and training ends when it has not risen for a while (Prechelt 1998)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from tokenizers import Tokenizer

from . import parallel, scoring
from .checkpoint import trained
from .predict import predict, torch_logits
from .squad import Example


@dataclass
class Stopping:
    """Held-out questions, how many evaluations without a rise end the run, and what was found so far."""

    tokenizer: Tokenizer
    held_out: Sequence[Example]
    patience: int
    history: list[tuple[int, float]] = field(default_factory=list)  # (step, F1 in percent)
    best: dict[str, torch.Tensor] = field(default_factory=dict)

    def evaluate(self, model: torch.nn.Module, step: int) -> bool:
        """Measure, keep the weights if they are the best yet; returns whether patience has run out."""
        score = parallel.from_first(held_out_f1(model, self.tokenizer, self.held_out) if parallel.rank() == 0 else 0.0)
        model.train()
        if score > max((f1 for _, f1 in self.history), default=-1.0):
            self.best = {name: parameter.detach().clone() for name, parameter in trained(model).items()}
        self.history.append((step, score))
        scores = [f1 for _, f1 in self.history]
        return len(scores) - 1 - scores.index(max(scores)) >= self.patience

    def restore(self, model: torch.nn.Module) -> None:
        """Put the best weights back."""
        with torch.no_grad():
            for name, parameter in trained(model).items():
                if name in self.best:
                    parameter.copy_(self.best[name])


def held_out_f1(model: torch.nn.Module, tokenizer: Tokenizer, examples: Sequence[Example]) -> float:
    """F1 in percent, saying nothing where the null score is the higher."""
    found = predict(torch_logits(model), tokenizer, examples)
    scores = [scoring.f1(p.text if p.score > p.null_score else "", [text for text, _ in p.example.answers]) for p in found]
    return 100 * sum(scores) / len(scores)
