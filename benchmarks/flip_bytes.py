#!/usr/bin/env python3
"""Flips one byte of a cleanly stopped node's segments, again and again.

    python3 benchmarks/flip_bytes.py target/storm/quick-… [--flips 100] [--heals 3] [--seed 1]

For each flip at a random place of a random chain segment, `node verify` must exit 1 and name the damaged file; all but
the last --heals flips are then taken back. Those last ones stay: after each, the three nodes are started from their
data directories, the damaged one must heal its log from its peers, and after a clean stop `node verify` must accept all
three, with one state root and one block per height. Prints a JSON line; exits 1 at the first failure. Works on the run
directory of a storm whose nodes were stopped; it leaves them healed.
"""

import argparse
import json
import pathlib
import random
import signal
import subprocess
import sys
import time

NODE = pathlib.Path("target/release/node")
HEAL_DEADLINE_S = 90


def verify(run, node):
    command = [NODE, "verify", "--data", run / node / "data", "--genesis", run / "genesis.toml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.strip()


def flip(path, offset):
    with open(path, "r+b") as segment:
        segment.seek(offset)
        byte = segment.read(1)
        segment.seek(offset)
        segment.write(bytes([byte[0] ^ (1 << random.randrange(8))]))
    return byte


def metric(address, name):
    """The value of a metric without labels, or None."""
    import urllib.request

    try:
        page = urllib.request.urlopen(f"http://{address}/metrics", timeout=2).read().decode()
    except OSError:
        return None
    values = [line.split()[-1] for line in page.splitlines() if line.startswith(name + " ")]
    return float(values[0]) if values else None


def setting(run, node, name):
    for line in (run / node / "node.toml").read_text().splitlines():
        if line.startswith(name + " = "):
            return line.split('"')[1]
    raise SystemExit(f"{run}/{node}/node.toml has no {name}")


def heal(run, nodes, damaged):
    """Starts the nodes, waits until the damaged one stands level with the others, stops them, verifies all."""
    running = [
        subprocess.Popen(
            [NODE, "run", "--config", run / node / "node.toml"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for node in nodes
    ]
    try:
        deadline = time.monotonic() + HEAL_DEADLINE_S
        while True:
            heights = [metric(setting(run, node, "metrics"), "zeni_height") for node in nodes]
            if None not in heights and max(heights) > 0 and len(set(heights)) == 1:
                break
            if time.monotonic() > deadline or any(process.poll() is not None for process in running):
                raise SystemExit(f"{damaged} did not heal: heights {heights}")
            time.sleep(0.5)
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            process.wait(timeout=60)
    codes = [process.returncode for process in running]
    if any(codes):
        raise SystemExit(f"after healing {damaged} the nodes did not stop cleanly: exit codes {codes}")
    reports = [verify(run, node) for node in nodes]
    if any(code != 0 for code, _ in reports):
        raise SystemExit(f"after healing {damaged}: {reports}")
    require_one_state([json.loads(text) for _, text in reports], damaged)


def require_one_state(reports, damaged):
    """All nodes hold one state. No payments flow here, and the state root hashes accounts and nothing of the block, so
    nodes that were stopped a few empty blocks apart still have the same root; those at one height, the same block."""
    roots = {report["state_root"] for report in reports}
    if len(roots) != 1:
        raise SystemExit(f"after healing {damaged} the roots differ: {roots}")
    blocks = {(report["height"], report["block"]) for report in reports}
    if len(blocks) != len({height for height, _ in blocks}):
        raise SystemExit(f"after healing {damaged} the blocks differ: {blocks}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path, help="run directory of a storm whose nodes were stopped")
    parser.add_argument("--flips", type=int, default=100, help="bytes flipped, one at a time (default 100)")
    heals = "of these, the last so many are left in place and healed by the damaged node from its peers (default 3)"
    parser.add_argument("--heals", type=int, default=3, help=heals)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the random places (default: the time)")
    options = parser.parse_args()
    random.seed(options.seed)
    nodes = sorted(path.name for path in options.run.glob("node-?"))
    for node in nodes:
        code, text = verify(options.run, node)
        if code != 0:
            raise SystemExit(f"{node} does not verify before any flip: {text}")
    healed = 0
    for number in range(options.flips):
        node = random.choice(nodes)
        segments = sorted((options.run / node / "data").glob("chain-*.log"))
        segment = random.choices(segments, [path.stat().st_size for path in segments])[0]
        offset = random.randrange(segment.stat().st_size)
        before = flip(segment, offset)
        code, text = verify(options.run, node)
        if code != 1 or segment.name not in text:
            raise SystemExit(f"seed {options.seed}: byte {offset} of {segment}: exit {code}, {text}")
        if number >= options.flips - options.heals:
            heal(options.run, nodes, node)
            healed += 1
        else:
            with open(segment, "r+b") as file:
                file.seek(offset)
                file.write(before)
        if (number + 1) % 10 == 0:
            print(f"{number + 1} flips named", file=sys.stderr)
    print(json.dumps({"flips": options.flips, "named": options.flips, "healed": healed, "seed": options.seed}))


if __name__ == "__main__":
    main()
