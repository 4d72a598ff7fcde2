//! What a checked proof proves, told to programs and to people.

use std::fmt::Write as _;

use serde_json::{Value, json};
use zeni_client::rfc3339;
use zeni_ledger::finality_receipt::{Fact, Proven};
use zeni_ledger::{Account, Genesis, GenesisId, Outcome, Payment, TokenId, TransactionId};

use super::Answer;

/// The statement, then what makes it final.
pub(super) fn proven_answer(proven: &Proven, genesis: &Genesis, id: &GenesisId) -> Answer {
    let header = &proven.header;
    let name = |place: usize| genesis.validators.get(place).map_or("", |validator| validator.name.as_str());
    let signers: Vec<&str> = proven.signers.iter().map(|signer| name(signer.as_usize())).collect();
    let time = rfc3339::format_ms(proven.slot_time_ms);
    let (mut json, mut text) = match &proven.fact {
        Fact::Payment { id, payment, outcome } => payment_fact(id, payment, *outcome, genesis),
        Fact::Account { id, account: Some(account) } => account_fact(account, id.to_string(), genesis),
        Fact::Account { id, account: None } => {
            (json!({ "proven": "absence", "account": id.to_string() }), format!("there is no account {id}\n"))
        }
    };
    let block = json!({
        "ledger": id.to_string(),
        "height": header.height,
        "block": proven.block.to_string(),
        "slot": header.slot,
        "time": time,
        "decision": proven.decision,
        "certified_height": proven.certified.height,
        "certified_block": proven.certified.id.to_string(),
        "signers": signers,
        "stake": proven.stake,
        "total_stake": proven.total_stake,
    });
    if let (Some(fields), Some(more)) = (json.as_object_mut(), block.as_object()) {
        fields.extend(more.clone());
    }
    let (height, block, certified) = (header.height, proven.block, proven.certified.height);
    let (stake, total, decision) = (proven.stake, proven.total_stake, proven.decision);
    let signers = signers.join(", ");
    // Writing to a string cannot fail.
    write!(
        text,
        "block      {height} ({block}), slot {} at {time}\n\
         final      by decision {decision} on block {certified}, signed by {signers}: {stake} of {total} stake\n\
         ledger     {id}",
        header.slot
    )
    .ok();
    Answer { json, text }
}

fn payment_fact(id: &TransactionId, payment: &Payment, outcome: Outcome, genesis: &Genesis) -> (Value, String) {
    let (applied, reason, how) = match outcome {
        Outcome::Applied => ("applied", None, "applied: the money moved".to_owned()),
        Outcome::Rejected(reason) => {
            ("rejected", Some(reason.code()), format!("rejected: {reason} ({})", reason.code()))
        }
    };
    let (from, to, amount, token) = (payment.from(), payment.to(), payment.amount(), payment.token());
    let reference = hex::encode(payment.reference());
    let json = json!({
        "proven": "payment",
        "id": id.to_string(),
        "from": from.to_string(),
        "to": to.to_string(),
        "sequence": payment.sequence().0.to_string(),
        "amount": amount.0.to_string(),
        "token": token.0,
        "reference": reference,
        "outcome": applied,
        "reason": reason,
    });
    let symbol = symbol(token, genesis);
    let text = format!(
        "payment    {id}\nfrom       {from}\nto         {to}\namount     {amount} {symbol} (token {token})\n\
         reference  {reference}\noutcome    {how}\n"
    );
    (json, text)
}

fn account_fact(account: &Account, id: String, genesis: &Genesis) -> (Value, String) {
    let mut text = format!("account    {id}\n");
    let mut balances = Vec::new();
    for (token, balance) in account.holdings() {
        text.push_str(&format!("holds      {balance} {} (token {token})\n", symbol(token, genesis)));
        balances.push(json!({ "token": token.0, "balance": balance.to_string() }));
    }
    if balances.is_empty() {
        text.push_str("holds      nothing\n");
    }
    let next = account.next_sequence();
    text.push_str(&format!("sequence   {next} is the lowest unused one\n"));
    let used = format!("{:032x}", account.window().used_bits());
    let json = json!({
        "proven": "account", "account": id, "balances": balances, "next_sequence": next.0.to_string(), "used": used,
    });
    (json, text)
}

fn symbol(token: TokenId, genesis: &Genesis) -> &str {
    genesis.rules.tokens.get(&token).map_or("?", |token| token.symbol.as_str())
}
