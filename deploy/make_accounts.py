#!/usr/bin/env python3
"""Makes a genesis account file from a CSV of account, token and amount.

    make_accounts.py accounts.csv accounts.bin

A line is `account,token,amount`: the account's public key in 64 hexadecimal digits (`zeni --json key show FILE` prints
it), the token's number, and the amount in its smallest unit (0 opens an account that holds nothing yet). Empty lines
and lines that begin with # are skipped. Each account stands once; issuers are opened by their token and need not stand
here. The node checks the file again against the digest in genesis.
"""

import os
import struct
import sys

MAGIC = b"ZENIACC1"
U32, U64 = 2**32, 2**64


def records(lines, name):
    seen = set()
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            account, token, amount = (field.strip() for field in line.split(","))
            account, token, amount = bytes.fromhex(account), int(token), int(amount)
        except ValueError as error:
            sys.exit(f"{name}:{number}: expected account,token,amount: {error}")
        if len(account) != 32:
            sys.exit(f"{name}:{number}: the account has {len(account)} bytes instead of 32")
        if not (0 <= token < U32 and 0 <= amount < U64):
            sys.exit(f"{name}:{number}: token or amount is out of range")
        if account in seen:
            sys.exit(f"{name}:{number}: the account stands twice")
        seen.add(account)
        yield struct.pack("<32sIQ", account, token, amount)


def write(lines, name, out):
    out.write(MAGIC + struct.pack("<Q", 0))
    count = 0
    for record in records(lines, name):
        out.write(record)
        count += 1
    out.seek(len(MAGIC))
    out.write(struct.pack("<Q", count))
    return count


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: make_accounts.py ACCOUNTS.CSV ACCOUNTS.BIN")
    source, target = sys.argv[1:]
    with open(source, encoding="ascii") as lines, open(target, "xb") as out:
        try:
            count = write(lines, source, out)
        except BaseException:
            # Half an account file must not be taken for one.
            os.unlink(target)
            raise
    print(f"count = {count}")


if __name__ == "__main__":
    main()
