//! What is shipped beside the programs must fit them: configs and units in `deploy/`, dashboard and alerts in `grafana/`.
//!
//! The programs' own tests (`node/tests/deploy_configs.rs`, `api-server/tests/deploy_configs.rs`) read the configs through
//! their real parsers; here stands what lies between the files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn toml_of(file: &str) -> toml::Table {
    read(file).parse().unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn text<'a>(table: &'a toml::Table, field: &str) -> &'a str {
    table[field].as_str().unwrap_or_else(|| panic!("{field} is no text"))
}

/// Files below a directory with this ending, the directory's own path in front.
fn files(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
        let path = entry.expect("a directory can be read to its end").path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Every metric that is named in a text, as queries name it.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    words.filter(|word| word.starts_with("zeni_") || word.starts_with("process_")).map(str::to_owned).collect()
}

/// Every metric that the processes serve: the nodes' by their document, the API servers' by their code.
fn metrics_served() -> BTreeSet<String> {
    let mut served: BTreeSet<String> = BTreeSet::new();
    for line in read("node/METRICS.md").lines().filter_map(|line| line.strip_prefix("| `")) {
        served.extend(line.split(['`', '{']).next().map(str::to_owned));
    }
    assert!(served.len() > 30, "node/METRICS.md has a row `| name | …` for each metric");
    for path in files(&root().join("api-server/src"), ".rs") {
        let source = fs::read_to_string(&path).expect("source is text");
        for call in ["counter!(\"", "gauge!(\"", "histogram!(\""] {
            let names = source.split(call).skip(1).filter_map(|behind| behind.split('"').next());
            served.extend(names.map(str::to_owned));
        }
    }
    assert!(served.iter().any(|name| name.starts_with("zeni_api_")));
    served
}

/// The name as it is served, of a name as queries know it: a histogram's parts are its.
fn base(name: &str, served: &BTreeSet<String>) -> String {
    if served.contains(name) {
        return name.to_owned();
    }
    let parts = ["_bucket", "_sum", "_count"];
    parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name).to_owned()
}

fn dashboard() -> Value {
    serde_json::from_str(&read("grafana/dashboards/zeni.json")).expect("the dashboard is JSON")
}

/// The panels that show something, rows aside.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let panels = dashboard["panels"].as_array().expect("panels");
    panels.iter().filter(|panel| panel["type"] != "row").collect()
}

fn queries(dashboard: &Value) -> Vec<&str> {
    let targets = panels(dashboard).into_iter().flat_map(|panel| panel["targets"].as_array().expect("targets"));
    targets.map(|target| target["expr"].as_str().expect("expr")).collect()
}

#[test]
fn dashboard_and_alerts_name_only_metrics_that_are_served() {
    let served = metrics_served();
    let dashboard = dashboard();
    let alerts = read("grafana/alerts.yml");
    let sources = [("zeni.json", queries(&dashboard).join("\n")), ("alerts.yml", alerts)];
    for (file, text) in sources {
        let named = metrics_in(&text);
        assert!(named.len() > 10, "{file} names metrics");
        for name in named {
            assert!(served.contains(&base(&name, &served)), "{file} asks for {name}, which nobody serves");
        }
    }
}

#[test]
fn the_dashboard_shows_every_metric_of_a_node() {
    let served = metrics_served();
    let shown: BTreeSet<String> =
        queries(&dashboard()).iter().flat_map(|query| metrics_in(query)).map(|name| base(&name, &served)).collect();
    let hidden: Vec<&String> = served.iter().filter(|name| !name.starts_with("zeni_api_")).collect();
    let hidden: Vec<_> = hidden.into_iter().filter(|name| !shown.contains(*name)).collect();
    assert!(hidden.is_empty(), "no panel shows {hidden:?}");
}

#[test]
fn the_dashboard_has_its_rows_and_its_own_name() {
    let dashboard = dashboard();
    assert_eq!((dashboard["uid"].as_str(), dashboard["title"].as_str()), (Some("zeni"), Some("Zeni")));
    let rows = dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] == "row");
    let rows: Vec<&str> = rows.map(|row| row["title"].as_str().unwrap()).collect();
    assert_eq!(
        rows,
        ["Is it well?", "Throughput", "Blocks", "Durability", "Network", "Verification", "API", "Processes"]
    );
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "panel id {} stands twice", panel["id"]);
    }
}

#[test]
fn every_panel_has_a_unit_readable_legends_and_no_plugin() {
    let builtin = ["stat", "timeseries", "state-timeline"];
    let dashboard = dashboard();
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap();
        assert!(builtin.contains(&panel["type"].as_str().unwrap()), "{title} needs a plugin: {}", panel["type"]);
        let unit = panel["fieldConfig"]["defaults"]["unit"].as_str();
        assert!(unit.is_some_and(|unit| !unit.is_empty()), "{title} has no unit");
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            let legend = target["legendFormat"].as_str().unwrap();
            assert!(panel["type"] == "stat" || !legend.is_empty(), "{title} has a line without a legend");
        }
    }
}

#[test]
fn panels_do_not_lie_on_one_another() {
    let dashboard = dashboard();
    let place = |panel: &Value, field: &str| panel["gridPos"][field].as_u64().unwrap();
    let all = dashboard["panels"].as_array().unwrap();
    for (index, one) in all.iter().enumerate() {
        assert!(place(one, "x") + place(one, "w") <= 24, "{} leaves the grid", one["title"]);
        for other in &all[..index] {
            let apart = |at: &str, size: &str| {
                place(one, at) + place(one, size) <= place(other, at)
                    || place(other, at) + place(other, size) <= place(one, at)
            };
            assert!(apart("x", "w") || apart("y", "h"), "{} lies on {}", one["title"], other["title"]);
        }
    }
}

#[test]
fn the_data_source_has_the_uid_that_the_dashboard_chooses() {
    let source = read("grafana/provisioning/datasources/zeni.yml");
    let dashboard = dashboard();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let chosen = variables.iter().find(|variable| variable["name"] == "datasource").unwrap();
    let uid = chosen["current"]["value"].as_str().unwrap();
    assert!(source.lines().any(|line| line.trim() == format!("uid: {uid}")), "{uid}");
}

/// Targets of a scrape config by the process that they belong to.
fn scraped(config: &str) -> BTreeMap<String, String> {
    let mut targets = BTreeMap::new();
    let mut open = None;
    for line in config.lines().map(str::trim) {
        if let Some(list) = line.strip_prefix("- targets: [\"") {
            open = list.split('"').next();
        }
        if let (Some(name), Some(target)) = (line.strip_prefix("labels: { process: "), open) {
            targets.insert(name.trim_end_matches(" }").to_owned(), target.to_owned());
        }
    }
    targets
}

#[test]
fn prometheus_scrapes_what_the_example_configs_serve() {
    let expected = ["node-a", "node-b", "node-c", "api-server"].map(|name| {
        let config = toml_of(&format!("deploy/{name}.toml"));
        (name.to_owned(), text(&config, "metrics").to_owned())
    });
    assert_eq!(scraped(&read("grafana/prometheus.yml")), BTreeMap::from(expected));
}

#[test]
fn alerts_choose_jobs_and_labels_that_prometheus_gives() {
    let alerts = read("grafana/alerts.yml");
    let scrape = read("grafana/prometheus.yml");
    for job in ["zeni-node", "zeni-api-server"] {
        assert!(scrape.contains(&format!("job_name: {job}\n")), "{job}");
    }
    for selected in alerts.split("job=\"").skip(1).filter_map(|behind| behind.split('"').next()) {
        assert!(scrape.contains(&format!("job_name: {selected}\n")), "alerts.yml selects the job {selected}");
    }
    let rules = alerts.matches("- alert: Zeni").count();
    assert!(rules >= 6, "{rules} rules");
    for part in ["expr: ", "labels: { severity: ", "summary: ", "description: "] {
        assert_eq!(alerts.matches(part).count(), rules, "each rule has one {part:?}");
    }
}

#[test]
fn the_disk_alert_comes_at_twice_the_watermark_of_the_example_configs() {
    let alerts = read("grafana/alerts.yml");
    for name in ["node-a", "node-b", "node-c"] {
        let config = toml_of(&format!("deploy/{name}.toml"));
        let watermark = config["limits"]["disk_watermark_bytes"].as_integer().unwrap();
        assert!(alerts.contains(&format!("zeni_disk_free_bytes{{job=\"zeni-node\"}} < {}\n", 2 * watermark)), "{name}");
    }
}

#[test]
fn every_toml_file_of_deploy_parses() {
    let found = files(&root().join("deploy"), ".toml");
    assert_eq!(found.len(), 5, "{found:?}");
    for path in found {
        let parsed = fs::read_to_string(&path).unwrap().parse::<toml::Table>();
        assert!(parsed.is_ok(), "{}: {parsed:?}", path.display());
    }
}

#[test]
fn the_example_hosts_agree_on_keys_and_addresses() {
    let genesis = toml_of("deploy/genesis.example.toml");
    let entries = |table: &toml::Table, name: &str| -> Vec<(String, String)> {
        let entries = table[name].as_array().unwrap().iter().map(|entry| entry.as_table().unwrap());
        entries.map(|entry| (text(entry, "key").to_owned(), text(entry, "address").to_owned())).collect()
    };
    assert_eq!(entries(&toml_of("deploy/api-server.toml"), "node"), entries(&genesis, "validator"));
    let follower = |name: &str| {
        let config = toml_of(&format!("deploy/{name}.toml"));
        text(config["client"][0].as_table().unwrap(), "key").to_owned()
    };
    assert_eq!(follower("node-a"), follower("node-b"));
    assert_eq!(follower("node-b"), follower("node-c"));
}

/// A unit file's settings by section, repeated ones in order.
fn unit(file: &str) -> BTreeMap<String, Vec<(String, String)>> {
    let mut sections: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    let mut section = None;
    for line in read(file).lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = Some(name.to_owned());
        } else {
            let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{file}: {line:?} is no setting"));
            let section = section.clone().unwrap_or_else(|| panic!("{file}: {line:?} stands before any section"));
            sections.entry(section).or_default().push((key.to_owned(), value.to_owned()));
        }
    }
    sections
}

fn setting<'a>(settings: &'a [(String, String)], key: &str) -> Vec<&'a str> {
    settings.iter().filter(|(name, _)| name == key).map(|(_, value)| value.as_str()).collect()
}

#[test]
fn the_units_start_the_programs_as_deploy_tells_and_stop_them_cleanly() {
    for (name, program, example) in [("zeni-node", "node", "node-a"), ("zeni-api-server", "api-server", "api-server")] {
        let unit = unit(&format!("deploy/{name}.service"));
        for key in ["After", "Wants"] {
            let units = setting(&unit["Unit"], key).join(" ");
            assert!(units.contains("network-online.target") && units.contains("time-sync.target"), "{name}: {units}");
        }
        let service = &unit["Service"];
        let command = format!("/opt/zeni/bin/{program} run --config /etc/zeni/{program}.toml");
        for (key, value) in [
            ("ExecStart", command.as_str()),
            ("Restart", "on-failure"),
            ("KillSignal", "SIGTERM"),
            ("User", name),
            ("StateDirectory", name),
            ("NoNewPrivileges", "yes"),
            ("ProtectSystem", "strict"),
            ("LimitCORE", "0"),
            ("CapabilityBoundingSet", ""),
        ] {
            assert_eq!(setting(service, key), [value], "{name}: {key}");
        }
        assert_eq!(setting(&unit["Install"], "WantedBy"), ["multi-user.target"]);
        let config = toml_of(&format!("deploy/{example}.toml"));
        let state = format!("/var/lib/{name}/");
        assert!(text(&config, "data").starts_with(&state), "{example}: the service may write only below {state}");
        assert!(["genesis", "key"].iter().all(|field| text(&config, field).starts_with("/etc/zeni/")), "{example}");
    }
}

#[test]
fn the_units_give_files_and_time_enough_for_the_limits_of_the_configs() {
    let number = |unit: &BTreeMap<String, Vec<(String, String)>>, key| -> i64 {
        setting(&unit["Service"], key)[0].parse().unwrap()
    };
    let limit = |config: &toml::Table, field: &str| config["limits"][field].as_integer().unwrap();
    let (node, config) = (unit("deploy/zeni-node.service"), toml_of("deploy/node-a.toml"));
    assert!(number(&node, "LimitNOFILE") >= 1_024 + limit(&config, "connections"));
    // Ten seconds to seal and close, and some to spare.
    assert!(number(&node, "TimeoutStopSec") * 1_000 > limit(&config, "stopping_ms") + 10_000);
    let (server, config) = (unit("deploy/zeni-api-server.service"), toml_of("deploy/api-server.toml"));
    assert!(number(&server, "LimitNOFILE") >= 1_024 + limit(&config, "connections_max"));
    assert!(number(&server, "TimeoutStopSec") * 1_000 > limit(&config, "request_timeout_ms"));
}

/// Whether `benchmarks/flip_bytes.py` takes these nodes' reports of `node verify` for one state.
fn flip_bytes_accepts(reports: &[(u64, &str, &str)]) -> bool {
    let reports: Vec<Value> = (reports.iter())
        .map(|(height, block, root)| serde_json::json!({ "height": height, "block": block, "state_root": root }))
        .collect();
    let script = "import json, sys; import flip_bytes; flip_bytes.require_one_state(json.loads(sys.argv[1]), 'node-1')";
    let reports = serde_json::to_string(&reports).expect("plain values");
    let done = std::process::Command::new("python3")
        .args(["-B", "-c", script, &reports])
        .current_dir(root().join("benchmarks"))
        .output()
        .expect("the project's checks have Python");
    let errors = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success() || errors.starts_with("after healing node-1"), "{errors}");
    done.status.success()
}

#[test]
fn a_healed_node_must_have_the_others_root_whether_or_not_empty_blocks_followed() {
    assert!(flip_bytes_accepts(&[(7, "a", "r"), (7, "a", "r"), (7, "a", "r")]));
    assert!(flip_bytes_accepts(&[(7, "a", "r"), (8, "b", "r"), (8, "b", "r")]));
    assert!(!flip_bytes_accepts(&[(7, "a", "r"), (8, "b", "s"), (8, "b", "s")]), "a root is left behind");
    assert!(!flip_bytes_accepts(&[(7, "a", "r"), (7, "a", "r"), (7, "a", "s")]), "two roots at one height");
    assert!(!flip_bytes_accepts(&[(7, "a", "r"), (7, "x", "r"), (7, "a", "r")]), "two blocks at one height");
}
