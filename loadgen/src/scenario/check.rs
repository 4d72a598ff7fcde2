//! What a scenario must fulfil before anything is done for it.

use std::fmt;

use zeni_ledger::window::WINDOW_WIDTH;

use super::{API_SERVER, FAULTS_MAX, FaultKind, Full, NODES_MAX, PHASES_MAX, Rate, Scenario, ScenarioError, Target};
use crate::dispatch::IN_FLIGHT_MAX;
use crate::plan::Receivers;
use crate::prepare;
use crate::relay;

/// The longest joining that nodes allow, in milliseconds.
const JOINING_MS_MAX: u64 = 3_600_000;

impl Scenario {
    /// Checks every bound that the rest of the code relies on.
    pub(super) fn check(&self) -> Result<(), ScenarioError> {
        let named = !self.name.is_empty()
            && self.name.len() <= 64
            && self.name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-');
        require(named, "name", &self.name, "it consists of 1 to 64 letters, digits and dashes")?;
        in_range("accounts", self.accounts, 1, prepare::ACCOUNTS_MAX)?;
        self.check_payers()?;
        let taken = self.accounts_of_double_spends();
        require(taken < self.accounts, "accounts", self.accounts, format!("double spends alone take {taken} of them"))?;
        self.check_network()?;
        self.check_phases()?;
        self.check_overload()?;
        in_range("number of faults", self.faults.len() as u64, 0, FAULTS_MAX as u64)?;
        for number in 0..self.faults.len() {
            self.check_fault(number)?;
        }
        self.check_overlap()?;
        self.check_ways_apart()?;
        self.check_thresholds()?;
        in_range("timeouts.run_s", self.timeouts.run_s, 1, 86_400)?;
        in_range("timeouts.start_s", self.timeouts.start_s, 1, self.timeouts.run_s)?;
        in_range("timeouts.settle_s", self.timeouts.settle_s, 1, self.timeouts.run_s)?;
        in_range("timeouts.stop_s", self.timeouts.stop_s, 1, 600)?;
        in_range("timeouts.submit_ms", self.timeouts.submit_ms, 50, 120_000)
    }

    fn check_payers(&self) -> Result<(), ScenarioError> {
        let least = if self.receivers == Receivers::Spread { 2 } else { 1 };
        in_range("paying_accounts", self.payers(), least, self.accounts)?;
        in_range("payments_per_account", self.payments_per_account, 1, prepare::PAYMENTS_MAX)?;
        let payments = self.payers().saturating_mul(self.payments_per_account);
        in_range("payments of all paying accounts", payments, 1, prepare::PAYMENTS_MAX)?;
        let as_in_2016 = self.payers() == self.accounts && payments == self.accounts && least == 1;
        let expected = "double spends go with accounts that all pay once, to one receiver";
        let right = as_in_2016 || self.accounts_of_double_spends() == 0;
        require(right, "payments_per_account", self.payments_per_account, expected)
    }

    fn check_network(&self) -> Result<(), ScenarioError> {
        let network = &self.network;
        in_range("network.nodes", network.nodes.into(), 1, NODES_MAX.into())?;
        in_range("network.block_interval_ms", network.block_interval_ms, 200, 600_000)?;
        let depths = (zeni_ledger::state::DEPTH_MIN, zeni_ledger::state::DEPTH_MAX);
        in_range("network.state_depth", network.state_depth.into(), depths.0.into(), depths.1.into())?;
        let batches = zeni_ledger::block::BLOCK_BATCHES_LIMIT as u64;
        in_range("network.batches_max", network.batches_max.into(), 1, batches)?;
        if let Some(checkpoint) = network.checkpoint {
            in_range("network.checkpoint.interval_s", checkpoint.interval_s, 1, 86_400)?;
        }
        if let Some(attach) = &network.attach {
            let expected = "an address for each of network.nodes, in the order of genesis";
            require(
                attach.nodes.len() == usize::from(network.nodes),
                "network.attach.nodes",
                attach.nodes.len(),
                expected,
            )?;
            let harmless = self.faults.is_empty();
            require(harmless, "faults", self.faults.len(), "only processes that loadgen started itself are harmed")?;
        }
        let reachable = self.target != Target::Api || self.has_api_server();
        require(reachable, "target", "api", "it needs network.api_server")?;
        if let Some(node) = &self.target_node {
            let expected = "it is the name of a node, and only for target = \"one\"";
            let right = self.target == Target::One && self.honest_names().contains(node);
            require(right, "target_node", node, expected)?;
        }
        in_range("network.joining_ms", network.joining_ms.unwrap_or(0), 0, JOINING_MS_MAX)?;
        self.check_twins()?;
        let unheld = !self.audit.halt || !self.audit.verify && !network.api_server && self.thresholds.is_empty();
        require(unheld, "audit.halt", true, "it goes without audit.verify, network.api_server and thresholds")
    }

    fn check_twins(&self) -> Result<(), ScenarioError> {
        let (nodes, twins) = (self.node_names(), &self.network.twins);
        for (number, twin) in twins.iter().enumerate() {
            let field = |name: &str| format!("network.twins[{number}].{name}");
            require(nodes.contains(&twin.of), &field("of"), &twin.of, format!("known are {}", nodes.join(", ")))?;
            let once = !twins[..number].iter().any(|other| other.of == twin.of);
            require(once, &field("of"), &twin.of, "a node has one twin")?;
            self.check_names(&field("heard_by"), &twin.heard_by)?;
            let others = twin.heard_by.iter().all(|name| self.honest_names().contains(name));
            require(others, &field("heard_by"), twin.heard_by.join(", "), "they are nodes without twins")?;
        }
        let honest = !self.honest_names().is_empty() && self.network.attach.is_none() || twins.is_empty();
        require(honest, "network.twins", twins.len(), "some node started here has no twin")?;
        let processes = self.process_names().len() as u64;
        let most = if twins.is_empty() { processes } else { relay::NODES_MAX.into() };
        in_range("nodes and twins", processes, 1, most)?;
        Ok(())
    }

    fn check_phases(&self) -> Result<(), ScenarioError> {
        in_range("number of phases", self.phases.len() as u64, 1, PHASES_MAX as u64)?;
        let mut planned = 0u64;
        for (number, phase) in self.phases.iter().enumerate() {
            let field = |name: &str| format!("phases[{number}].{name}");
            let last = number + 1 == self.phases.len();
            let one = phase.payments.is_some() != phase.duration_s.is_some() || last && phase.payments.is_none();
            require(one, &field("payments"), format!("{:?}", phase.payments), "give either payments or duration_s")?;
            in_range(&field("payments"), phase.payments.unwrap_or(1), 1, self.payers() * self.payments_per_account)?;
            in_range(&field("duration_s"), phase.duration_s.unwrap_or(1), 1, 86_400)?;
            in_range(&field("in_flight"), phase.in_flight as u64, 1, 1_024)?;
            if let Rate::PerSecond(rate) = phase.rate_per_s {
                in_range(&field("rate_per_s"), rate.into(), 1, 1_000_000)?;
            }
            let by_time = match (phase.duration_s, phase.rate_per_s) {
                (Some(duration_s), Rate::PerSecond(rate)) => duration_s.saturating_mul(rate.into()),
                _ => 0,
            };
            planned = planned.saturating_add(phase.payments.unwrap_or(by_time));
        }
        let payments = self.payments();
        let expected = format!("the paying accounts make {payments} payments, besides those of double spends");
        require(planned <= payments, "payments of all phases", planned, expected)
    }

    fn check_overload(&self) -> Result<(), ScenarioError> {
        let Some(overload) = &self.overload else {
            let found = self.thresholds.goodput_ratio_min;
            let expected = "there is no overload to judge";
            return require(found.is_none(), "thresholds.goodput_ratio_min", found.unwrap_or_default(), expected);
        };
        let right = overload.times.is_finite() && (1.0..=100.0).contains(&overload.times);
        require(right, "overload.times", overload.times, "it lies from 1 to 100")?;
        in_range("overload.duration_s", overload.duration_s, 1, 86_400)?;
        in_range("overload.in_flight", overload.in_flight as u64, 1, IN_FLIGHT_MAX as u64)?;
        let last = self.phases.last().is_some_and(|phase| {
            phase.duration_s.is_some() && phase.payments.is_none() && phase.rate_per_s == Rate::Full(Full::Full)
        });
        require(
            last,
            "overload",
            "set",
            "the last phase is at full speed for duration_s, to know what the maximum is",
        )?;
        let window = self.window_span().is_none();
        require(window, "overload", "set", format!("no account pays more than {WINDOW_WIDTH} times: none waits"))?;
        let harmless = self.faults.is_empty() && !self.audit.halt;
        require(harmless, "overload", "set", "it goes without faults")
    }

    fn check_fault(&self, number: usize) -> Result<(), ScenarioError> {
        let fault = &self.faults[number];
        let field = |name: &str| format!("faults[{number}].{name}");
        let mut known = self.honest_names();
        known.extend(self.network.api_server.then(|| API_SERVER.to_string()));
        self.check_network_fault(number)?;
        let named = !fault.targets.is_empty() || fault.rule().is_some();
        require(named, &field("targets"), "empty", "name at least one process")?;
        for (place, target) in fault.targets.iter().enumerate() {
            let expected = format!("known are {}", known.join(", "));
            require(known.contains(target), &field("targets"), target, expected)?;
            let once = !fault.targets[..place].contains(target);
            require(once, &field("targets"), target, "each target stands once")?;
        }
        let earliest = u64::from(fault.kind != FaultKind::Partition);
        in_range(&field("at_s"), fault.at_s, earliest, self.timeouts.run_s)?;
        let least = u64::from(fault.kind != FaultKind::Restart);
        in_range(&field("duration_s"), fault.duration_s, least, self.timeouts.run_s)?;
        let block_interval_ms = self.network.block_interval_ms;
        let (slots, at_s) = (fault.whole_slots(block_interval_ms), fault.at_s);
        let least_s = (least_start_ms(slots, block_interval_ms)).div_ceil(1_000);
        if self.dip_is_defined(fault) && at_s < least_s {
            return Err(ScenarioError::FaultTooEarly { number, at_s, block_interval_ms, slots, least_s });
        }
        Ok(())
    }

    /// A process is in one fault at a time.
    fn check_overlap(&self) -> Result<(), ScenarioError> {
        for (number, fault) in self.faults.iter().enumerate() {
            for other in &self.faults[..number] {
                let shared = fault.targets.iter().find(|target| other.targets.contains(target));
                if let (true, Some(target)) = (fault.overlaps(other), shared) {
                    let expected = "a process is in one fault at a time";
                    require(false, &format!("faults[{number}].targets"), target, expected)?;
                }
            }
        }
        Ok(())
    }

    fn check_thresholds(&self) -> Result<(), ScenarioError> {
        let thresholds = &self.thresholds;
        let numbers = [
            ("mean_tps_min", thresholds.mean_tps_min),
            ("sent_tps_min", thresholds.sent_tps_min),
            ("accepted_p90_ms_max", thresholds.accepted_p90_ms_max),
            ("accepted_p99_ms_max", thresholds.accepted_p99_ms_max),
            ("included_p99_ms_max", thresholds.included_p99_ms_max),
            ("final_p99_ms_max", thresholds.final_p99_ms_max),
            ("dip_ratio_min", thresholds.dip_ratio_min),
            ("resync_s_max", thresholds.resync_s_max),
            ("goodput_ratio_min", thresholds.goodput_ratio_min),
        ];
        for (name, value) in numbers {
            let right = value.is_none_or(|value| value.is_finite() && value > 0.0);
            let found = value.unwrap_or_default();
            require(right, &format!("thresholds.{name}"), found, "it is a number above zero")?;
        }
        let judged = thresholds.dip_ratio_min.is_none() || self.faults.iter().any(|fault| self.dip_is_defined(fault));
        let expected = "no fault leaves a surviving node for a whole slot, so no dip can be judged";
        require(judged, "thresholds.dip_ratio_min", thresholds.dip_ratio_min.unwrap_or_default(), expected)?;
        let resync = thresholds.resync_s_max.is_some() || thresholds.resync_below_outage;
        require(!resync || !self.faults.is_empty(), "thresholds.resync", "set", "there is no fault to resync from")
    }
}

/// The earliest start of a fault, in milliseconds, that leaves `slots` whole slots before it in which blocks carried a
/// full interval's payments: one interval until the first slot begins, one until its block had time to fill.
fn least_start_ms(slots: u64, block_interval_ms: u64) -> u64 {
    (slots + 2) * block_interval_ms
}

pub(super) fn require(
    holds: bool,
    field: &str,
    found: impl fmt::Display,
    expected: impl fmt::Display,
) -> Result<(), ScenarioError> {
    match holds {
        true => Ok(()),
        false => {
            Err(ScenarioError::Field { field: field.into(), found: found.to_string(), expected: expected.to_string() })
        }
    }
}

pub(super) fn in_range(field: &str, found: u64, least: u64, most: u64) -> Result<(), ScenarioError> {
    require((least..=most).contains(&found), field, found, format!("it lies from {least} to {most}"))
}
