"""What `helm test` runs: asks $QUESTION at $GATEWAY and compares the answer with its document. Standard library only."""

import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request


def call(path: str, body: dict[str, object] | None = None) -> dict:
    headers = {"Content-Type": "application/json", "X-Quarry-Edge": os.environ.get("EDGE_KEYS", "").split("\n")[0]}
    if "TOKEN" in os.environ:
        headers["Authorization"] = f"Bearer {os.environ['TOKEN']}"
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(os.environ["GATEWAY"] + path, data, headers), timeout=30) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        sys.exit(f"the gateway answers {error.code}; where it wants a token, test.existingSecret names the secret with one")
    except OSError as error:
        sys.exit(f"the gateway does not answer: {error}")


said = call("/v1/answers", {"question": os.environ["QUESTION"], "top_k": 1})
if said["abstained"]:
    sys.exit(f"no answer: {said['reason']}")
answer = said["answers"][0]
place = answer["citations"][0]
where = urllib.parse.urlencode({"start": place["start"], "end": place["end"], "version": place["version"]})
words = call(f"/v1/documents/{urllib.parse.quote(place['document_id'])}?{where}")["text"]
if words != answer["text"]:
    sys.exit(f"the document says {words!r} where the answer says {answer['text']!r}")
print(f"{answer['text']!r} stands in {place['document_id']}, {place['start']} to {place['end']} (release {said['release_id']})")
