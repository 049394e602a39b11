"""Fetches AWS's list prices into a file for `make cost PRICES=file`: `.venv/bin/python prices.py REGION FILE`, with credentials that may pricing:GetProducts.

Items are those of terraform/prices.json. One is taken where the Price List API knows exactly one price of it on demand; the others keep the price they
have there, and are named. The request is "Query API" of the AWS Price List documentation; no account could be asked where this was written.
"""

import datetime
import json
import sys
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from cost import PRICES

Query = tuple[str, dict[str, str], str]  # service, attributes, how the usage type ends
_ON_DEMAND = {"operatingSystem": "Linux", "tenancy": "Shared", "preInstalledSw": "NA", "capacitystatus": "Used"}
_POSTGRES = {"databaseEngine": "PostgreSQL", "deploymentOption": "Single-AZ"}
QUERIES: dict[str, Query] = {
    "eks_cluster": ("AmazonEKS", {}, "AmazonEKS-Hours:perCluster"),
    "nat_gateway": ("AmazonEC2", {"productFamily": "NAT Gateway"}, "NatGateway-Hours"),
    "interface_endpoint_in_a_zone": ("AmazonVPC", {}, "VpcEndpoint-Hours"),
    "network_load_balancer": ("AWSELB", {"productFamily": "Load Balancer-Network"}, "LoadBalancerUsage"),
    "kms_key": ("awskms", {}, "KMS-Keys"),
    "secret": ("AWSSecretsManager", {}, "AWSSecretsManager-Secrets"),
    "firewall": ("awswaf", {}, "WebACLV2"),
    "firewall_rule": ("awswaf", {}, "RuleV2"),
    "alarm": ("AmazonCloudWatch", {}, "CW:AlarmMonitorUsage"),
    "disk_gb": ("AmazonEC2", {"productFamily": "Storage", "volumeApiName": "gp3"}, "VolumeUsage.gp3"),
    "database_disk_gb": ("AmazonRDS", {"productFamily": "Database Storage", "volumeType": "General Purpose-GP3", **_POSTGRES}, "GP3-Storage"),
}


def query(item: str) -> Query:
    """What to ask for."""
    if item.startswith("db."):
        return "AmazonRDS", {"instanceType": item, **_POSTGRES}, item
    return QUERIES.get(item) or ("AmazonEC2", {"instanceType": item, **_ON_DEMAND}, f"BoxUsage:{item}")


def fetch(client: Any, item: str, region: str) -> float | None:
    """The one price of an item; None where there is none or several."""
    service, attributes, usage = query(item)
    filters = [{"Type": "TERM_MATCH", "Field": k, "Value": v} for k, v in {"regionCode": region, **attributes}.items()]
    found = set()
    for page in client.get_paginator("get_products").paginate(ServiceCode=service, Filters=filters):
        for product in map(json.loads, page["PriceList"]):
            if product["product"]["attributes"]["usagetype"].endswith(usage):
                found |= _on_demand(product)
    return found.pop() if len(found) == 1 else None


def _on_demand(product: dict[str, Any]) -> set[float]:
    """Prices of the first unit on."""
    dimensions = [d for term in product["terms"].get("OnDemand", {}).values() for d in term["priceDimensions"].values()]
    return {float(d["pricePerUnit"]["USD"]) for d in dimensions if d.get("beginRange", "0") == "0" and float(d["pricePerUnit"].get("USD", 0)) > 0}


def main() -> int:
    """Write the file; names the items that keep their price."""
    if len(sys.argv) != 3:
        print("say of which region, and where to: prices.py REGION FILE", file=sys.stderr)
        return 2
    region, target = sys.argv[1], Path(sys.argv[2])
    told, today = json.loads(PRICES.read_text()), datetime.datetime.now(datetime.UTC).date().isoformat()
    kept = []
    try:
        client = boto3.client("pricing", region_name="us-east-1")
        for item, price in told["items"].items():
            if (usd := fetch(client, item, region)) is None:
                kept.append(item)
            else:
                price.update(usd=usd, source=f"AWS Price List API, {region}, {today}")
    except (BotoCoreError, ClientError) as error:
        print(f"AWS's price list cannot be asked: {error}", file=sys.stderr)
        return 1
    target.write_text(json.dumps({**told, "region": region}, indent=1) + "\n")
    print(f"{len(told['items']) - len(kept)} fetched; as in terraform/prices.json: {', '.join(kept) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
