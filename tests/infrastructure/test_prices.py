"""prices.py against a stand-in on loopback that answers GetProducts in the documented form: made up here, no reply of AWS was recorded."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cost import PRICES, PriceError, read
from runner import CLONE


def product(usage: str, *prices: str) -> str:
    """An entry of PriceList, with a free tier that is not to be taken for the price."""
    dimensions = {str(i): {"beginRange": "0", "pricePerUnit": {"USD": price}} for i, price in enumerate(("0.0000000000", *prices))}
    dimensions["more"] = {"beginRange": "1000", "pricePerUnit": {"USD": "0.0001"}}
    return json.dumps({"product": {"attributes": {"usagetype": usage}}, "terms": {"OnDemand": {"x": {"priceDimensions": dimensions}}}})


class Listed(BaseHTTPRequestHandler):
    """Two pages: what is asked for, and another that is not meant."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        filters = {f["Field"]: f["Value"] for f in asked["Filters"]}
        assert self.headers["X-Amz-Target"] == "AWSPriceListService.GetProducts" and filters["regionCode"] == "eu-central-1"
        if "NextToken" not in asked:
            reply: dict[str, Any] = {"PriceList": [product("EUC1-SomethingElse", "9")], "NextToken": "2"}
        elif asked["ServiceCode"] == "AmazonEKS":
            reply = {"PriceList": [product("EUC1-AmazonEKS-Hours:perCluster", "0.1000000000")]}
        elif filters.get("instanceType") == "m7i.large":
            reply = {"PriceList": [product("EUC1-BoxUsage:m7i.large", "0.1207500000")]}
        elif asked["ServiceCode"] == "awskms":
            reply = {"PriceList": [product("eu-central-1-KMS-Keys", "1", "2")]}  # not one price
        else:
            reply = {"PriceList": []}
        body = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Listed) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def run(address: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    given = {**os.environ, "AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_MAX_ATTEMPTS": "1"}
    command = [sys.executable, str(CLONE / "tests/infrastructure/prices.py"), *arguments]
    return subprocess.run(command, env=given, capture_output=True, text=True, check=False)


def test_what_has_one_price_is_taken_and_the_rest_named(address: str, tmp_path: Path) -> None:
    done = run(address, "eu-central-1", str(tmp_path / "prices.json"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 fetched; as in terraform/prices.json: ") and "kms_key" in done.stdout
    new, old = read(tmp_path / "prices.json"), read(PRICES)
    assert {item: new[item]["usd"] for item in new if new[item] != old[item]} == {"eks_cluster": 0.1, "m7i.large": 0.12075}
    assert new["m7i.large"]["source"].startswith("AWS Price List API, eu-central-1, 2")
    assert new["kms_key"] == old["kms_key"]


def test_without_aws_it_says_so(tmp_path: Path) -> None:
    done = run("http://127.0.0.1:9", "eu-central-1", str(tmp_path / "prices.json"))
    assert done.returncode == 1 and "price list cannot be asked" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "prices.json").exists()
    assert run("http://127.0.0.1:9").returncode == 2


NONE = '{"items": {"eks_cluster": {"usd": "x", "per": "hour"}}}'
FEW = '{"items": {"eks_cluster": {"usd": 1, "per": "hour"}}}'


@pytest.mark.parametrize("text", ["", "[]", "{}", NONE, FEW])
def test_a_file_that_is_no_price_list_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text(text)
    command = [sys.executable, str(CLONE / "tests/infrastructure/cost.py"), "--prices", str(tmp_path / "own.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and str(tmp_path / "own.json") in done.stderr and "Traceback" not in done.stderr
    with pytest.raises(PriceError):
        read(tmp_path / "own.json")
