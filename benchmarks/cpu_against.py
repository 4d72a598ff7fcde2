#!/usr/bin/env python3
"""CPU per payment of two builds, side by side: storms without faults, in turn, medians.

    python3 benchmarks/cpu_against.py BASE NEW [--payments 1000000] [--rate 20000] [--rounds 3]

BASE and NEW are directories with the programs node, api-server and loadgen (a `target/release` each). Every round runs both,
in the order base, new, new, base, ..., so that a machine that drifts strikes both alike. Data and reports go to a directory of
their own below the system's temporary one, which is removed at the end; about 2 GB per million payments. Run nothing beside it.

Exit codes: 0 measured, 1 a storm failed or lost a payment (its output is told), 2 wrong arguments.
"""

import argparse
import json
import math
import pathlib
import statistics
import subprocess
import sys
import tempfile

SCENARIO = """name = "cpu-against"
seed = 2016
accounts = {payments}
target = "spread"

[network]
nodes = 3
block_interval_ms = 3_000
state_depth = {depth}

[[phases]]
payments = {payments}
rate_per_s = {rate}

[timeouts]
run_s = {run_s}
start_s = 120
settle_s = 120
"""


def storm(programs, scenario, data, room):
    """Runs one storm; CPU seconds per million payments of (nodes, API server), and signature checks a second and core."""
    runs = pathlib.Path(tempfile.mkdtemp(dir=room))
    command = [programs / "loadgen", "storm", scenario, "--data", data, "--runs", runs]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    reports = list(runs.glob("*/report.json"))
    if done.returncode != 0 or len(reports) != 1:
        sys.exit(f"{programs}: the storm failed (exit {done.returncode}):\n{done.stdout[-2000:]}")
    report = json.loads(reports[0].read_text())
    if report["lost"] != 0:
        sys.exit(f"{programs}: {report['lost']} payments were lost")
    millions = report["sent"] / 1e6
    cpu = {name: used["cpu_s"] / millions for name, used in report["resources"].items()}
    nodes = sum(seconds for name, seconds in cpu.items() if name.startswith("node-"))
    return nodes, cpu["api-server"], report["limit"]["verify_per_s_per_core"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=pathlib.Path)
    parser.add_argument("new", type=pathlib.Path)
    parser.add_argument("--payments", type=int, default=1_000_000, help="payments, and accounts, of each storm")
    parser.add_argument("--rate", type=int, default=20_000, help="payments a second")
    parser.add_argument("--rounds", type=int, default=3, help="storms of each build")
    given = parser.parse_args()
    builds = {"base": given.base.resolve(), "new": given.new.resolve()}
    for programs in builds.values():
        if not (programs / "loadgen").is_file():
            parser.error(f"there is no loadgen in {programs}")
    if min(given.payments, given.rate, given.rounds) < 1:
        parser.error("payments, rate and rounds must be at least 1")
    totals = {"base": [], "new": []}
    with tempfile.TemporaryDirectory(prefix="zeni-cpu-") as directory:
        room = pathlib.Path(directory)
        scenario = room / "cpu-against.toml"
        # As many accounts to a bucket of the state tree as the shipped scenarios have: 2 at least.
        depth = max(1, math.ceil(math.log2(given.payments)) - 1)
        run_s = given.payments // given.rate + 420
        scenario.write_text(SCENARIO.format(payments=given.payments, rate=given.rate, depth=depth, run_s=run_s))
        for number in range(given.rounds):
            for which in ("base", "new") if number % 2 == 0 else ("new", "base"):
                nodes, api, limit = storm(builds[which], scenario, room / f"data-{which}", room)
                totals[which].append(nodes + api)
                print(f"{which:5} nodes {nodes:6.2f}  API server {api:5.2f}  sum {nodes + api:6.2f} s per million payments"
                      f"  ({limit:,.0f} checks/s/core)", flush=True)
    base, new = (statistics.median(totals[which]) for which in ("base", "new"))
    print(f"medians: base {base:.2f}, new {new:.2f} s per million payments: {100 * (new / base - 1):+.1f} %")


if __name__ == "__main__":
    main()
