"""What each environment costs while nobody asks anything: the plan's resources times terraform/prices.json, as the table of docs/cost.md.

`.venv/bin/python cost.py` plans every environment against moto and writes the tables of costs and of prices into docs/cost.md; with `--prices FILE`,
a file of the same form (prices.py fetches one), it prints the costs by those prices instead.
"""

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from rules import of
from runner import CLONE, ENVIRONMENTS, SOURCE, Missing, Resource, mirror, moto, prepare, resources

HOURS = 730  # a month's
PRICES = SOURCE / "prices.json"
PAGE = CLONE / "docs/cost.md"
BEGIN, END = "<!-- cost.py begins -->\n", "<!-- cost.py ends -->\n"
Row = tuple[str, float]  # how many, US dollars a month


class PriceError(Exception):
    """A file of prices that cannot be used; the message says why."""


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Item -> usd, per (hour or month), source.

    Raises:
        PriceError: it is none, or lacks an item that terraform/prices.json has.
    """
    try:
        items = dict(json.loads(path.read_text())["items"])
        missing = json.loads(PRICES.read_text())["items"].keys() - {k for k, v in items.items() if float(v["usd"]) >= 0 and v["per"] in ("hour", "month")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PriceError(f"{path} is no file of prices, of the form of terraform/prices.json: {type(error).__name__} {error}") from None
    if missing:
        raise PriceError(f"{path} has no price of {', '.join(sorted(missing))}")
    return items


def lines(planned: list[Resource], prices: Path = PRICES) -> dict[str, Row]:
    """Item -> how many and what a month of them costs. Raises PriceError."""
    items = read(prices)
    hourly = {k: v["usd"] * HOURS for k, v in items.items() if v["per"] == "hour"}
    monthly = {k: v["usd"] for k, v in items.items() if v["per"] == "month"}
    zones = sum(1 for address, _ in of(planned, "aws_subnet") if "private" in address)
    endpoints = sum(1 for _, v in of(planned, "aws_vpc_endpoint") if v["vpc_endpoint_type"] == "Interface")
    (_, acl), *_ = of(planned, "aws_wafv2_web_acl")
    secrets = len(of(planned, "aws_secretsmanager_secret")) + len(of(planned, "aws_db_instance"))  # RDS keeps its password in one
    found = {
        "Kubernetes control plane": _times(len(of(planned, "aws_eks_cluster")), hourly["eks_cluster"]),
        **_nodes(planned, hourly, monthly),
        **_database(planned, hourly, monthly),
        "NAT gateways": _times(len(of(planned, "aws_nat_gateway")), hourly["nat_gateway"]),
        "Interface endpoints, times zones": _times(endpoints * zones, hourly["interface_endpoint_in_a_zone"]),
        "Network load balancer": _times(len(of(planned, "aws_lb")), hourly["network_load_balancer"]),
        "Firewall and its rules": ("1", monthly["firewall"] + len(acl["rule"]) * monthly["firewall_rule"]),
        "KMS key, secrets, alarms": ("", _small(planned, monthly, secrets)),
    }
    return {item: row for item, row in found.items() if row[1]}


def _times(number: int, each: float) -> Row:
    return str(number), number * each


def _small(planned: list[Resource], monthly: dict[str, float], secrets: int) -> float:
    return (
        len(of(planned, "aws_kms_key")) * monthly["kms_key"] + secrets * monthly["secret"] + len(of(planned, "aws_cloudwatch_metric_alarm")) * monthly["alarm"]
    )


def _nodes(planned: list[Resource], hourly: dict[str, float], monthly: dict[str, float]) -> dict[str, Row]:
    disks = {r["index"]: r["values"]["block_device_mappings"][0]["ebs"][0]["volume_size"] for r in planned if r["type"] == "aws_launch_template"}
    found = {}
    for _, group in of(planned, "aws_eks_node_group"):
        name, kind, least = group["node_group_name"], group["instance_types"][0], group["scaling_config"][0]["min_size"]
        found[f"Nodes `{name}` at their fewest, with disks"] = (f"{least} {kind}", least * (hourly[kind] + disks[name] * monthly["disk_gb"]))
    return found


def _database(planned: list[Resource], hourly: dict[str, float], monthly: dict[str, float]) -> dict[str, Row]:
    (_, database), *_ = of(planned, "aws_db_instance")
    copies = 2 if database["multi_az"] else 1
    each = hourly[database["instance_class"]] + database["allocated_storage"] * monthly["database_disk_gb"]
    return {"Database, with its disk": (f"{copies} {database['instance_class']}", copies * each)}


def table(plans: dict[str, dict[str, Any]], prices: Path = PRICES) -> str:
    """Markdown: items by environments, and the sum. Raises PriceError."""
    costs = {name: lines(resources(plan), prices) for name, plan in plans.items()}
    rows: dict[str, list[str]] = defaultdict(list)
    for item in dict.fromkeys(item for found in costs.values() for item in found):
        for name in plans:
            number, dollars = costs[name].get(item, ("", 0.0))
            rows[item].append(f"{number + ': ' if number and dollars else ''}{dollars:,.0f}")
    rows["**A month, at rest**"] = [f"**{sum(dollars for _, dollars in found.values()):,.0f}**" for found in costs.values()]
    head = f"| US dollars a month | {' | '.join(plans)} |\n|---|{'---|' * len(plans)}\n"
    return head + "".join(f"| {item} | {' | '.join(cells)} |\n" for item, cells in rows.items())


def sources() -> str:
    """Markdown: each price with where it is from."""
    told = json.loads(PRICES.read_text())
    rows = "".join(f"| `{item}` | {v['usd']:g} | {v['per']} | {v['source']} |\n" for item, v in told["items"].items())
    return f"| price in {told['region']} | US dollars | per | source |\n|---|---|---|---|\n{rows}"


def shown() -> str:
    """The tables that docs/cost.md has now."""
    return PAGE.read_text().partition(BEGIN)[2].partition(END)[0]


def main() -> int:
    """Write the tables anew, or print what it costs by other prices."""
    parser = argparse.ArgumentParser(prog="cost.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prices", type=Path)
    prices = parser.parse_args().prices
    try:
        read(prices or PRICES)
        mirror()
    except (Missing, PriceError) as reason:
        print(reason, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder, moto(Path(folder) / "moto.log") as address:
        plans = {name: prepare(Path(folder) / name, name, address, applied=False).plan() for name in ENVIRONMENTS}
    if prices:
        print(table(plans, prices), end="")
        return 0
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}{table(plans)}\n{sources()}{END}{rest.partition(END)[2]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
