//! Faults of the network between nodes: between whom they lie, what they do, and what they must fulfil.

use super::check::{in_range, require};
use super::{Fault, FaultKind, Scenario, ScenarioError};
use crate::double_spends;
use crate::relay::{self, Rule, Way};

/// The longest delay and the longest jitter, in milliseconds: half of what ends a connection.
const DELAY_MS_MAX: u64 = 5_000;

impl Fault {
    /// What it does to datagrams; `None` if it strikes processes.
    pub fn rule(&self) -> Option<Rule> {
        match self.kind {
            FaultKind::Stop | FaultKind::Kill | FaultKind::Pause | FaultKind::Restart => None,
            FaultKind::Partition => Some(Rule::Drop),
            FaultKind::Delay => Some(Rule::Delay { ms: self.ms.unwrap_or(0), jitter_ms: self.jitter_ms.unwrap_or(0) }),
            FaultKind::Loss => Some(Rule::Loss { percent: self.percent.unwrap_or(0) }),
        }
    }

    /// The directions that it strikes, where `names` are the nodes in the order of genesis.
    pub fn ways(&self, names: &[String]) -> Vec<Way> {
        let group = |name: &String| self.groups.iter().position(|group| group.contains(name));
        let struck = |from: &String, to: &String| {
            let parted = group(from).zip(group(to)).is_some_and(|(from, to)| from != to);
            let touched = self.nodes.contains(from) || self.nodes.contains(to);
            parted || touched || self.from.contains(from) && self.to.contains(to)
        };
        let mut ways = Vec::new();
        for (from, from_name) in names.iter().enumerate() {
            for (to, to_name) in names.iter().enumerate() {
                if from != to && struck(from_name, to_name) {
                    ways.push(Way { from, to });
                }
            }
        }
        ways
    }

    /// A node on each of two sides between which it lies, if it has two.
    pub fn sides(&self) -> Option<[String; 2]> {
        let sides = match self.groups.as_slice() {
            [one, two, ..] => [one, two],
            _ => [&self.from, &self.to],
        };
        let [one, two] = sides.map(|side| side.first().cloned());
        Some([one?, two?])
    }

    /// Whom it strikes, for people: `node-2, node-3`, `node-1 | node-2, node-3`, `node-3 → node-1, node-2`.
    pub fn whom(&self) -> String {
        let all = |names: &Vec<String>| names.join(", ");
        let whom = if !self.groups.is_empty() {
            self.groups.iter().map(all).collect::<Vec<_>>().join(" | ")
        } else if !self.nodes.is_empty() {
            format!("{} ↔ all others", all(&self.nodes))
        } else if !self.from.is_empty() {
            format!("{} → {}", all(&self.from), all(&self.to))
        } else {
            all(&self.targets)
        };
        match self.rule() {
            Some(Rule::Delay { ms, jitter_ms: 0 }) => format!("{ms} ms, {whom}"),
            Some(Rule::Delay { ms, jitter_ms }) => format!("{ms} to {} ms, {whom}", ms + jitter_ms),
            Some(Rule::Loss { percent }) => format!("{percent} %, {whom}"),
            Some(Rule::Drop | Rule::Pass) | None => whom,
        }
    }
}

impl Scenario {
    /// Whether datagrams between nodes must go through the relay.
    pub fn needs_relay(&self) -> bool {
        !self.network.twins.is_empty() || self.faults.iter().any(|fault| fault.rule().is_some())
    }

    /// Fields of network faults stand where they belong and nowhere else.
    pub(super) fn check_network_fault(&self, number: usize) -> Result<(), ScenarioError> {
        let fault = &self.faults[number];
        let kind = fault.kind;
        let of_network = fault.rule().is_some();
        let field = |name: &str| format!("faults[{number}].{name}");
        let belongs = |name: &str, given: bool, wanted: bool, to: &str| {
            require(!given || wanted, &field(name), "given", format!("it belongs to {to}, not to a {kind}"))
        };
        belongs("targets", !fault.targets.is_empty(), !of_network, "faults of processes")?;
        for (name, names) in [("nodes", &fault.nodes), ("from", &fault.from), ("to", &fault.to)] {
            belongs(name, !names.is_empty(), of_network, "faults of the network")?;
            self.check_names(&field(name), names)?;
        }
        belongs("groups", !fault.groups.is_empty(), of_network, "faults of the network")?;
        self.check_names(&field("groups"), &fault.groups.concat())?;
        belongs("ms", fault.ms.is_some(), kind == FaultKind::Delay, "a delay")?;
        belongs("jitter_ms", fault.jitter_ms.is_some(), kind == FaultKind::Delay, "a delay")?;
        belongs("percent", fault.percent.is_some(), kind == FaultKind::Loss, "a loss")?;
        belongs("double_spends", fault.double_spends.is_some(), kind == FaultKind::Partition, "a partition")?;
        let pairs = fault.double_spends.unwrap_or(1);
        in_range(&field("double_spends"), pairs, 1, double_spends::PAIRS_MAX)?;
        let sided = fault.double_spends.is_none() || fault.sides().is_some();
        require(sided, &field("double_spends"), pairs, "it needs groups, or from and to, to have two sides")?;
        if !of_network {
            return Ok(());
        }
        self.check_whom(number)?;
        match kind {
            FaultKind::Delay => {
                in_range(&field("ms"), fault.ms.unwrap_or(0), 1, DELAY_MS_MAX)?;
                in_range(&field("jitter_ms"), fault.jitter_ms.unwrap_or(0), 0, DELAY_MS_MAX)
            }
            FaultKind::Loss => in_range(&field("percent"), fault.percent.unwrap_or(0), 1, 99),
            _ => Ok(()),
        }
    }

    fn check_whom(&self, number: usize) -> Result<(), ScenarioError> {
        let fault = &self.faults[number];
        let field = |name: &str| format!("faults[{number}].{name}");
        let processes = self.process_names().len() as u64;
        in_range("nodes and twins with a fault of the network", processes, 2, relay::NODES_MAX.into())?;
        let ended = fault.from.is_empty() == fault.to.is_empty();
        require(ended, &field("from"), "one of two", "from and to stand together")?;
        let given = [!fault.groups.is_empty(), !fault.nodes.is_empty(), !fault.from.is_empty()];
        let given = given.into_iter().filter(|given| *given).count();
        let expected = "one of groups, nodes, or from and to says between whom it lies";
        require(given == 1, &field("groups"), format!("one of {given} ways to say whom"), expected)?;
        let grouped = fault.groups.is_empty() || fault.groups.len() >= 2 && !fault.groups.iter().any(Vec::is_empty);
        require(grouped, &field("groups"), format!("{:?}", fault.groups), "at least two groups, none of them empty")?;
        if let Some(both) = fault.from.iter().find(|name| fault.to.contains(name)) {
            require(false, &field("to"), both, "it is no way from a node to itself; use groups for both directions")?;
        }
        Ok(())
    }

    pub(super) fn check_names(&self, field: &str, names: &[String]) -> Result<(), ScenarioError> {
        let known = self.process_names();
        for (place, name) in names.iter().enumerate() {
            require(known.contains(name), field, name, format!("known are {}", known.join(", ")))?;
            require(!names[..place].contains(name), field, name, "each node stands once")?;
        }
        Ok(())
    }

    /// A direction between two nodes is in one fault at a time.
    pub(super) fn check_ways_apart(&self) -> Result<(), ScenarioError> {
        let names = self.process_names();
        for (number, fault) in self.faults.iter().enumerate() {
            let ways = fault.ways(&names);
            for other in self.faults[..number].iter().filter(|other| other.overlaps(fault)) {
                if let Some(way) = other.ways(&names).into_iter().find(|way| ways.contains(way)) {
                    let found = format!("struck from {} to {}", names[way.from], names[way.to]);
                    require(
                        false,
                        &format!("faults[{number}]"),
                        found,
                        "a direction between two nodes is in one fault at a time",
                    )?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(faults: &str) -> Result<Scenario, ScenarioError> {
        Scenario::parse(&format!(
            r#"
            name = "network"
            seed = 1
            accounts = 1000
            target = "spread"
            network = {{ nodes = 3, block_interval_ms = 3000, state_depth = 8 }}
            phases = [{{ payments = 900, rate_per_s = 100 }}]
            {faults}
            "#
        ))
    }

    fn fault(kind: &str, rest: &str, at_s: u64) -> String {
        format!("[[faults]]\nkind = \"{kind}\"\nat_s = {at_s}\nduration_s = 15\n{rest}\n")
    }

    /// The rule, the directions as pairs of numbers from 1, and the words of the only fault.
    fn read(kind: &str, rest: &str) -> (Rule, Vec<(usize, usize)>, String) {
        let scenario = scenario(&fault(kind, rest, 20)).unwrap_or_else(|error| panic!("{rest}: {error}"));
        let fault = &scenario.faults[0];
        let ways = fault.ways(&scenario.node_names()).iter().map(|way| (way.from + 1, way.to + 1)).collect();
        (fault.rule().expect("a fault of the network"), ways, fault.whom())
    }

    fn refused(faults: &str) -> String {
        scenario(faults).expect_err("the scenario must be refused").to_string()
    }

    #[test]
    fn groups_hear_each_other_no_more_but_their_own() {
        let (rule, ways, whom) = read("partition", r#"groups = [["node-1"], ["node-2", "node-3"]]"#);
        assert_eq!((rule, ways), (Rule::Drop, vec![(1, 2), (1, 3), (2, 1), (3, 1)]));
        assert_eq!(whom, "node-1 | node-2, node-3");
        let (_, ways, _) = read("partition", r#"groups = [["node-1"], ["node-2"]]"#);
        assert_eq!(ways, [(1, 2), (2, 1)], "a node in no group keeps all its connections");
    }

    #[test]
    fn from_and_to_are_one_way() {
        let (_, ways, whom) = read("partition", "from = [\"node-3\"]\nto = [\"node-1\", \"node-2\"]");
        assert_eq!((ways, whom.as_str()), (vec![(3, 1), (3, 2)], "node-3 → node-1, node-2"));
    }

    #[test]
    fn nodes_are_struck_towards_all_others_and_back() {
        let (rule, ways, whom) = read("delay", "nodes = [\"node-2\"]\nms = 100\njitter_ms = 50");
        assert_eq!(rule, Rule::Delay { ms: 100, jitter_ms: 50 });
        assert_eq!(ways, [(1, 2), (2, 1), (2, 3), (3, 2)]);
        assert_eq!(whom, "100 to 150 ms, node-2 ↔ all others");
        assert_eq!(read("delay", "nodes = [\"node-2\"]\nms = 9").2, "9 ms, node-2 ↔ all others");
        let (rule, ways, whom) = read("loss", "from = [\"node-1\"]\nto = [\"node-2\"]\npercent = 20");
        assert_eq!((rule, ways), (Rule::Loss { percent: 20 }, vec![(1, 2)]));
        assert_eq!(whom, "20 %, node-1 → node-2");
    }

    #[test]
    fn what_says_nothing_or_too_much_is_refused_and_named() {
        let bad = [
            ("partition", "", "groups"),
            ("partition", "groups = [[\"node-1\"]]", "at least two groups"),
            ("partition", "groups = [[\"node-1\"], []]", "none of them empty"),
            ("partition", "groups = [[\"node-1\"], [\"node-1\", \"node-2\"]]", "once"),
            ("partition", "groups = [[\"node-1\"], [\"node-4\"]]", "node-4"),
            ("partition", "groups = [[\"node-1\"], [\"api-server\"]]", "api-server"),
            ("partition", "from = [\"node-1\"]", "stand together"),
            ("partition", "from = [\"node-1\"]\nto = [\"node-1\"]", "itself"),
            ("partition", "nodes = [\"node-1\"]\nfrom = [\"node-2\"]\nto = [\"node-3\"]", "one of groups"),
            ("partition", "targets = [\"node-1\"]", "targets"),
            ("partition", "nodes = [\"node-1\"]\nms = 5", "ms"),
            ("partition", "nodes = [\"node-1\"]\nfor = 5", "for"),
            ("partition", "nodes = [\"node-1\"]\ndouble_spends = 5", "two sides"),
            ("partition", "groups = [[\"node-1\"], [\"node-2\"]]\ndouble_spends = 0", "double_spends"),
            ("partition", "groups = [[\"node-1\"], [\"node-2\"]]\ndouble_spends = 100", "payments of all phases"),
            ("loss", "nodes = [\"node-1\"]\npercent = 5\ndouble_spends = 5", "a partition"),
            ("delay", "nodes = [\"node-1\"]", "ms"),
            ("delay", "nodes = [\"node-1\"]\nms = 5001", "ms"),
            ("delay", "nodes = [\"node-1\"]\nms = 5\njitter_ms = 5001", "jitter_ms"),
            ("delay", "nodes = [\"node-1\"]\nms = 5\npercent = 5", "percent"),
            ("loss", "nodes = [\"node-1\"]", "percent"),
            ("loss", "nodes = [\"node-1\"]\npercent = 100", "percent"),
            ("stop", "targets = [\"node-1\"]\ngroups = [[\"node-1\"], [\"node-2\"]]", "groups"),
            ("stop", "targets = [\"node-1\"]\npercent = 5", "percent"),
        ];
        for (kind, rest, word) in bad {
            let told = refused(&fault(kind, rest, 20));
            assert!(told.contains(word), "{kind} {rest}: {told}");
        }
        let endless = fault("loss", "nodes = [\"node-1\"]\npercent = 5", 20).replace("15", "0");
        assert!(refused(&endless).contains("duration_s"));
    }

    #[test]
    fn a_direction_is_in_one_fault_at_a_time() {
        let cut = |rest, at_s| fault("partition", rest, at_s);
        let loss = |at_s| fault("loss", "from = [\"node-2\"]\nto = [\"node-1\"]\npercent = 5", at_s);
        let (forth, both) = ("from = [\"node-1\"]\nto = [\"node-2\"]", "groups = [[\"node-1\"], [\"node-2\"]]");
        assert!(scenario(&(cut(forth, 20) + &loss(25))).is_ok(), "the other direction is another one");
        assert!(refused(&(cut(both, 20) + &loss(25))).contains("from node-2 to node-1"));
        assert!(scenario(&(cut(both, 20) + &loss(35))).is_ok());
        let stop = fault("stop", "targets = [\"node-1\"]", 25);
        assert!(scenario(&(cut(both, 20) + &stop)).is_ok(), "a node may fall while it is cut off");
    }

    #[test]
    fn the_relay_runs_only_for_faults_of_the_network() {
        assert!(!scenario("").unwrap().needs_relay());
        assert!(!scenario(&fault("stop", "targets = [\"node-1\"]", 20)).unwrap().needs_relay());
        let loss = scenario(&fault("loss", "nodes = [\"node-1\"]\npercent = 5", 20)).unwrap();
        assert!(loss.needs_relay());
        assert!(!loss.dip_is_defined(&loss.faults[0]) && !loss.checkpoint_is_due(&loss.faults[0]));
    }

    #[test]
    fn the_relay_serves_a_bounded_number_of_nodes() {
        let faults = fault("loss", "nodes = [\"node-1\"]\npercent = 5", 20);
        let mut scenario = scenario(&faults).unwrap();
        for (nodes, right) in [(1, false), (2, true), (relay::NODES_MAX, true), (relay::NODES_MAX + 1, false)] {
            scenario.network.nodes = nodes;
            assert_eq!(scenario.check().is_ok(), right, "{nodes} nodes");
        }
    }

    #[test]
    fn a_fault_of_a_process_is_written_as_it_was_before_there_were_others() {
        let stop = scenario(&fault("stop", "targets = [\"node-1\"]", 20)).unwrap();
        let json = serde_json::to_value(&stop.faults[0]).unwrap();
        let expected = serde_json::json!({ "kind": "stop", "targets": ["node-1"], "at_s": 20, "duration_s": 15 });
        assert_eq!(json, expected);
    }
}
