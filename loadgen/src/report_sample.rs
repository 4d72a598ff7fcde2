//! A report for tests.

use std::collections::BTreeMap;

use crate::api_audit::ApiState;
use crate::audit::{Balances, NodeState};
use crate::latency::{CoursePoint, Percentiles};
use crate::report::{
    BlockFinal, BlockPoint, DoubleSpends, FaultReport, Host, Latency, LimitReport, Report, Series, StartReport,
    Throughput,
};
use crate::resources::Usage;
use crate::scenario::Scenario;

/// A plausible report of a storm that passed.
pub(crate) fn sample() -> Report {
    let settings = Scenario::parse(
        r#"
        name = "sample"
        seed = 1
        accounts = 100000
        target = "one"
        phases = [{ rate_per_s = 2000 }]
        faults = [{ kind = "kill", targets = ["node-2", "node-3"], at_s = 20, duration_s = 15, final_during_max = 0 }]
        thresholds = { dip_ratio_min = 0.98, resync_below_outage = true, accepted_p90_ms_max = 1000.0 }

        [network]
        nodes = 3
        block_interval_ms = 3000
        state_depth = 8
        "#,
    )
    .expect("the sample's scenario is valid");
    let state = |node: &str| NodeState { node: node.into(), height: 20, block: "ab".into(), state_root: "cd".into() };
    let percentiles = Some(Percentiles { p50: 20.0, p90: 40.0, p99: 90.0, p999: 200.0, max: 300.0 });
    let later = percentiles.map(|found| Percentiles { p99: 3_400.0, max: 3_500.0, ..found });
    let block = |height: u64| BlockPoint {
        height,
        slot: 100 + height,
        at_s: 3.0 * height as f64,
        payments: 6_000,
        proposer: 0,
        rank: 0,
    };
    let course = |at_s| CoursePoint { at_s, count: 2_000, p50_ms: 20.0, p99_ms: 90.0, max_ms: 100.0 };
    Report {
        passed: true,
        failures: Vec::new(),
        notes: vec!["a note".into()],
        scenario: "sample".into(),
        seed: 1,
        accounts: 100_000,
        nodes: 3,
        block_interval_ms: 3_000,
        started: "2016-12-08T09:30:00Z".into(),
        offered: 100_000,
        sent: 100_000,
        accepted: 100_000,
        included: 100_000,
        finals: Some(100_000),
        rejected: Some(0),
        expired: 0,
        refused: BTreeMap::new(),
        lost: 0,
        duplicated: 0,
        listed_again: 0,
        final_reverted: Some(0),
        final_unknown: 0,
        block_final_ms: Some(BlockFinal { p50: 3_150, p99: 3_400, max: 3_400, blocks: 16 }),
        double_spends: DoubleSpends::default(),
        throughput_tps: Throughput {
            mean: Some(1_990.0),
            best_block: Some(2_010.0),
            sent: Some(2_000.0),
            accepted: Some(1_999.0),
        },
        latency_ms: Latency { accepted: percentiles, included: percentiles, finals: later },
        receiver_balance: Some("5000050000".into()),
        expected_balance: "5000050000".into(),
        payer_balances: Balances { asked: 1_000, wrong: Vec::new() },
        nodes_state: vec![state("node-1"), state("node-2"), state("node-3")],
        nodes_equal: true,
        api_server: Some(ApiState {
            height: 20,
            block: "ab".into(),
            state_root: "cd".into(),
            receiver_balance: "5000050000".into(),
            as_the_nodes: true,
        }),
        verified: Vec::new(),
        halts: Vec::new(),
        misbehaviour: BTreeMap::new(),
        faults: vec![FaultReport {
            kind: "kill".into(),
            targets: vec!["node-2".into(), "node-3".into()],
            whom: "node-2, node-3".into(),
            at_s: 20.0,
            duration_s: 15.0,
            dip_ratio: Some(0.991),
            resync_s: Some(4.2),
            without_checkpoint: Some(Vec::new()),
            checkpoint_due: false,
            dip_defined: true,
            struck: None,
            final_during: Some(0),
            final_during_max: Some(0),
            first_final_s: Some(1.9),
        }],
        overload: None,
        resends: BTreeMap::new(),
        blocks_undone: 0,
        resources: [("node-1".to_owned(), Usage::default())].into(),
        loopback_sent_bytes: Some(90_000_000),
        limit: LimitReport { verify_per_s_per_core: 85_000.0, cores: 2, payments_per_s: 56_667.0, ratio: Some(0.035) },
        start: StartReport::default(),
        version: "0.1.0".into(),
        host: Host::default(),
        command: "loadgen storm".into(),
        series: Series {
            blocks: (0..4).map(block).collect(),
            accepted: vec![course(0.0), course(1.0)],
            included: vec![course(0.0), course(1.0)],
            finals: vec![course(0.0), course(1.0)],
        },
        settings,
    }
}
