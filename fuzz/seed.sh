#!/bin/sh
# Turns the pinned files into the first inputs of the fuzz targets.
set -eu
cd "$(dirname "$0")"
golden=../ledger/tests/golden

# seed TARGET FILE...: each hex file becomes one input.
seed() {
    target=$1
    shift
    mkdir -p "corpus/$target"
    for file in "$@"; do
        xxd -r -p "$file" "corpus/$target/$(basename "$file" .hex)"
    done
}

seed ledger_payments "$golden/payment.hex"
seed ledger_batch "$golden/batch.hex"
seed ledger_block "$golden/block.hex"
seed ledger_undo "$golden/undo.hex"
seed ledger_account "$golden/account.hex" "$golden/account.new.hex"
seed ledger_account_proof "$golden/proof.present.hex" "$golden/proof.absent.hex"
seed ledger_receipt_proof "$golden/proof.receipt.hex"
seed ledger_commit_certificate "$golden/commit_certificate.hex"
seed ledger_finality_receipt "$golden"/finality_receipt.*.hex
seed ledger_transaction "$golden"/transaction.*.hex
seed ledger_account_file "$golden/accounts.hex"
mkdir -p corpus/ledger_genesis_toml
cp "$golden/genesis.toml" corpus/ledger_genesis_toml/

golden=../schemas/tests/golden
for frame in hello message request reply; do
    seed "schemas_$frame" "$golden/$frame"_*.hex
done

seed consensus_evidence ../consensus/tests/golden/evidence_*.hex
