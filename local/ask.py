"""Ask the running gateway and print the answers with their evidence: `ask.py QUESTION...`. Standard library only.

QUARRY_TOKEN is the bearer token to ask with, where the gateway wants one.
"""

import json
import os
import sys
import textwrap
import urllib.error
import urllib.request
from typing import Any

GATEWAY = f"http://127.0.0.1:{os.environ.get('QUARRY_GATEWAY_PORT', '8080')}"
TOKEN = {"Authorization": f"Bearer {os.environ['QUARRY_TOKEN']}"} if os.environ.get("QUARRY_TOKEN") else {}


def ask(question: str) -> dict[str, Any]:
    """POST /v1/answers.

    Raises:
        SystemExit: the gateway is not there, or refused the question.
    """
    body = json.dumps({"question": question}).encode()
    request = urllib.request.Request(f"{GATEWAY}/v1/answers", body, {"Content-Type": "application/json", **TOKEN})
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return dict(json.load(reply))
    except urllib.error.HTTPError as error:
        sys.exit(f"the gateway answered {error.code}: {json.load(error).get('detail')}")
    except OSError:
        sys.exit(f"no gateway answers at {GATEWAY}: start it with `make up`")


def show(question: str, reply: dict[str, Any]) -> None:
    """Print one reply."""
    print(f"\nQ  {question}")
    if reply["abstained"]:
        print(f"A  (no answer: {reply['reason']})")
    for answer in reply["answers"][:1]:
        place = answer["citations"][0]
        where = [f"page {place['page']}"] if place.get("page") else []
        where += [f"section \"{place['section']}\""] if place.get("section") else []
        print(f"A  {answer['text']}")
        print(f"   confidence {answer['confidence']:.2f}; {', '.join([place['document_id'], *where, f'''characters {place['start']}-{place['end']}'''])}")
        print(textwrap.indent(textwrap.fill(place["sentence"], 110), "   | "))
        if others := len(answer["citations"]) - 1:
            print(f"   also stands in {others} other place{'s' if others > 1 else ''}")


if __name__ == "__main__":
    for question in sys.argv[1:] or [sys.stdin.readline().strip()]:
        show(question, ask(question))
