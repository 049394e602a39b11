"""Run by the training environment: `python tiny_base.py FOLDER` writes a two-layer BERT with random weights and its tokenizer."""

import sys
from pathlib import Path

import torch
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertModel

WORDS = "who where when why was built bridge in on anna ben cara dover leeds york monday tuesday friday .".split()
DIGITS = [str(n) for n in range(10)]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *DIGITS, *[f"##{d}" for d in DIGITS]]

folder = Path(sys.argv[1])
torch.manual_seed(1)
config = BertConfig(
    vocab_size=len(VOCABULARY), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=160
)
BertModel(config).save_pretrained(str(folder))
(folder / "vocab.txt").write_text("\n".join(VOCABULARY))
BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=True).save(str(folder / "tokenizer.json"))
