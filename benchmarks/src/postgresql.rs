//! PostgreSQL beside a storm: one server with its own cluster, unsigned payments, every transaction synced.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::statfs;
use rustix::process::geteuid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::context::{Context, say};
use crate::error::{BenchError, file_error};
use crate::network::{add_storm, against_limit, required, settings};
use crate::report::{Findings, Unit};
use crate::storm::{self, Storm};

const INSTALL: &str = "no PostgreSQL was found; `apt-get install -y postgresql` brings server and pgbench";
/// Where Debian keeps the versions' programs, which are not on the path.
const DEBIAN: &str = "/usr/lib/postgresql";
const PROGRAMS: [&str; 5] = ["initdb", "postgres", "pg_ctl", "psql", "pgbench"];
/// How long a server may take until it answers, and between two questions.
const START_MAX: Duration = Duration::from_secs(60);
const START_PAUSE: Duration = Duration::from_millis(100);
/// What statfs says of memory that looks like a disk: a sync there costs nothing and keeps nothing.
const TMPFS: i64 = 0x0102_1994;
/// What each account holds at first.
const HOLDING: u64 = 1_000_000_000;
/// Payments of a bulk transaction.
const BULK: u64 = 1_000;
const CLIENTS: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Which of them with --quick.
const QUICK: std::ops::Range<usize> = 2..4;
/// Of PostgreSQL and of the storm beside it.
const ACCOUNTS: u64 = 1_000_000;
/// Enough to see that it works: each of 8 clients has a few blocks of a thousand to pay from.
const ACCOUNTS_QUICK: u64 = 200_000;
/// Settings that the figures depend on, as the server itself tells them.
const SHOWN: [&str; 8] = [
    "server_version",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_sync_method",
    "shared_buffers",
    "max_wal_size",
    "commit_delay",
];

/// One payment, one transaction, one statement, prepared: the fewest round trips. The lower half of the accounts pays the
/// upper one: rows are locked in one order, so nobody waits in a circle.
const SINGLE: &str = "\
\\set payer random(1, :accounts / 2)
\\set receiver :payer + :accounts / 2
WITH debit AS (UPDATE accounts SET balance = balance - 1 WHERE id = :payer AND balance >= 1 RETURNING id AS payer),
credit AS (UPDATE accounts SET balance = balance + 1 FROM debit WHERE id = :receiver)
INSERT INTO payments (payer, receiver, amount) SELECT payer, :receiver::bigint, 1 FROM debit;
";

/// A thousand payments in one transaction and one statement over sets: a thousand neighbours of the lower half pay a
/// thousand of the upper one. Each client has blocks of a thousand of its own, spread over all, so that none waits for another.
const SETS: &str = "\
\\set first 1000 * (:clients * random(0, :accounts / 2000 / :clients - 1) + :client_id)
WITH batch AS (SELECT 1 + :first + n AS payer, 1 + :first + n + :accounts / 2 AS receiver
               FROM generate_series(0, 999) AS n),
debit AS (UPDATE accounts SET balance = balance - 1 FROM batch WHERE id = payer AND balance >= 1
          RETURNING payer, receiver),
credit AS (UPDATE accounts SET balance = balance + 1 FROM debit WHERE id = receiver)
INSERT INTO payments (payer, receiver, amount) SELECT payer, receiver, 1 FROM debit;
";

/// PostgreSQL's best of 1 to 64 clients, one payment a transaction and 1,000, and a storm in the same run.
pub(crate) fn run(context: &Context) -> Result<Findings, BenchError> {
    let Some(programs) = find() else { return Ok(Findings::none(INSTALL.into())) };
    let (seconds, clients) = context.choose((1, &CLIENTS[QUICK]), (10, &CLIENTS[..]));
    // The storm's accounts are as many; only with --quick, where no figure counts, fewer.
    let accounts = context.choose(ACCOUNTS_QUICK, ACCOUNTS);
    let storm =
        Storm { block_interval_ms: 15_000, ..Storm::new("bench-beside-postgresql", context.choose(20_000, ACCOUNTS)) };
    let mut findings = Findings::of(Value::Null);
    for round in context.rounds("postgresql") {
        let Some(cluster) = Cluster::start(context, &programs)? else {
            return Ok(Findings::none(
                "neither the build directory nor the temporary one is on a disk and open to PostgreSQL's user".into(),
            ));
        };
        cluster.fill(accounts)?;
        if round == 0 {
            findings.settings = json!({
                "accounts": accounts, "seconds_each": seconds, "clients": clients, "server": cluster.shown()?,
                "set": "listen_addresses = '', unix_socket_directories; all else as initdb leaves it",
                "single": SINGLE, "bulk": SETS, "storm": settings(&storm),
            });
        }
        let mut paid = 0;
        for (what, script, each) in [("1 a transaction", SINGLE, 1), ("1,000 a transaction", SETS, BULK)] {
            let (mut best, mut retries): (f64, u64) = (0.0, 0);
            for number in clients {
                let done = cluster.bench(script, accounts, *number, seconds)?;
                paid += done.transactions * each;
                let rate = done.per_s * each as f64;
                say(&format!("  {what}, {number} clients: {rate:.0} payments/s, {} retries", done.retries));
                retries += done.retries;
                findings.add(format!("PostgreSQL, {what}, {number:2} clients"), Unit::PaymentsPerS, rate);
                best = best.max(rate);
            }
            findings.add(format!("PostgreSQL, {what}, best"), Unit::PaymentsPerS, best);
            findings.add(format!("PostgreSQL, {what}, retries"), Unit::Count, retries as f64);
        }
        cluster.check(accounts, paid)?;
        cluster.stop()?;
        add_storm(&mut findings, "storm: ", &storm::run(context, &storm)?)?;
    }
    against_limit(&mut findings, context, 3);
    for what in ["1 a transaction", "1,000 a transaction"] {
        let name = format!("storm's mean over PostgreSQL, {what}");
        findings.compare(name, "storm: mean", &format!("PostgreSQL, {what}, best"));
    }
    findings.notes.push(
        "PostgreSQL is one server and checks no signature; the storm is three nodes that each check everything, an \
         API server and the load generator. Its primary key is a counter, its receivers are half of its accounts. Rows are \
         locked in one order, so retries, after deadlocks or failed serialisation, should be none. Both sums are checked: \
         of the balances, and of the payments."
            .into(),
    );
    Ok(findings)
}

/// The directory of the newest version's programs.
fn find() -> Option<PathBuf> {
    let complete = |directory: &PathBuf| PROGRAMS.iter().all(|program| directory.join(program).is_file());
    let versions = fs::read_dir(DEBIAN).into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let newest = versions.filter(complete).max_by_key(|path| version(path));
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    newest.or_else(|| std::env::split_paths(&on_path).find(complete))
}

/// The number in `/usr/lib/postgresql/15/bin`.
fn version(path: &Path) -> u32 {
    path.parent().and_then(Path::file_name).and_then(|name| name.to_str()?.parse().ok()).unwrap_or(0)
}

/// Who a server runs as: not root, which PostgreSQL refuses.
#[derive(Debug, Clone, Copy)]
struct User {
    uid: u32,
    gid: u32,
}

impl User {
    /// `postgres`, or `nobody`, if this runs as root; whoever this runs as otherwise.
    fn other_than_root() -> Result<Option<Self>, BenchError> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        let path = Path::new("/etc/passwd");
        let text = fs::read_to_string(path).map_err(file_error("reading", path))?;
        let found = ["postgres", "nobody"].into_iter().find_map(|name| parse_user(&text, name));
        required(found, "neither a user postgres nor nobody exists, and PostgreSQL does not run as root").map(Some)
    }
}

fn parse_user(passwd: &str, name: &str) -> Option<User> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some(User { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
}

/// What pgbench counted.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Benched {
    transactions: u64,
    per_s: f64,
    /// Transactions that began again, after a deadlock or because they could not be serialised, however often.
    retries: u64,
}

fn parse_bench(text: &str) -> Option<Benched> {
    let line = |start: &str| text.lines().find_map(|line| line.strip_prefix(start));
    let transactions = line("number of transactions actually processed: ")?.trim().parse().ok()?;
    let per_s = line("tps = ")?.split_whitespace().next()?.parse().ok()?;
    let retries = line("total number of retries: ")?.trim().parse().ok()?;
    Some(Benched { transactions, per_s, retries })
}

/// A server with a cluster of its own, reached by a socket in a directory.
#[derive(Debug)]
struct Cluster {
    programs: PathBuf,
    user: Option<User>,
    data: PathBuf,
    sockets: TempDir,
    /// Of the data.
    place: TempDir,
    /// In this process's group, so that Ctrl-C ends it too.
    server: Option<Child>,
}

impl Cluster {
    /// Makes and starts one; `None` if no directory is on a disk that its user may enter.
    fn start(context: &Context, programs: &Path) -> Result<Option<Self>, BenchError> {
        let user = User::other_than_root()?;
        fs::create_dir_all(&context.scratch).map_err(file_error("creating", &context.scratch))?;
        let temporary = std::env::temp_dir();
        let candidates = [context.scratch.clone(), temporary.clone()];
        let Some(base) = candidates.into_iter().find(|base| on_disk(base) && (user.is_none() || is_open(base))) else {
            return Ok(None);
        };
        // A socket's path is short by law (108 bytes), the build directory's may not be.
        let [place, sockets] = [base, temporary].map(|base| directory_of(&base, user));
        let (place, sockets) = (place?, sockets?);
        let data = place.path().join("cluster");
        let mut cluster = Self { programs: programs.to_path_buf(), user, data, sockets, place, server: None };
        let data = cluster.data.display().to_string();
        cluster.run("initdb", &["-D", &data, "-U", "bench", "-A", "trust", "-E", "UTF8", "--no-locale"])?;
        cluster.serve(&data)?;
        Ok(Some(cluster))
    }

    /// Starts the server and waits until it answers.
    fn serve(&mut self, data: &str) -> Result<(), BenchError> {
        let path = self.place.path().join("server.log");
        let log = File::create(&path).map_err(file_error("creating", &path))?;
        let errors = log.try_clone().map_err(file_error("opening", &path))?;
        let sockets = format!("unix_socket_directories={}", self.sockets.path().display());
        let mut command = self.command("postgres");
        command.args(["-D", data, "-c", "listen_addresses=", "-c", &sockets]).stdout(log).stderr(errors);
        self.server = Some(command.spawn().map_err(file_error("starting", &self.programs.join("postgres")))?);
        let begun = Instant::now();
        loop {
            match self.sql("SELECT 1") {
                Ok(_) => return Ok(()),
                Err(error) if begun.elapsed() > START_MAX => return Err(error),
                Err(_) => thread::sleep(START_PAUSE),
            }
        }
    }

    /// Ends the server cleanly.
    fn stop(mut self) -> Result<(), BenchError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), BenchError> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        let stopped = self.run("pg_ctl", &["-D", &self.data.display().to_string(), "-w", "-m", "fast", "stop"]);
        if stopped.is_err() {
            server.kill().map_err(file_error("killing", &self.programs.join("postgres")))?;
        }
        stopped?;
        server.wait().map_err(file_error("waiting for", &self.programs.join("postgres"))).map(|_| ())
    }

    /// One of PostgreSQL's programs, to be run as the cluster's user.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir(self.place.path()).env("PGHOST", self.sockets.path()).env("PGUSER", "bench");
        command.env("LC_ALL", "C").env("PGDATABASE", "postgres").stdin(Stdio::null());
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }

    /// Runs a program to its end and gives its output.
    fn run(&self, program: &str, arguments: &[&str]) -> Result<String, BenchError> {
        let mut command = self.command(program);
        let done = command.args(arguments).output().map_err(file_error("starting", &self.programs.join(program)))?;
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        match done.status.success() {
            true => Ok(text),
            false => {
                let log = fs::read_to_string(self.place.path().join("server.log")).unwrap_or_default();
                let words = format!("{text}{}{log}", String::from_utf8_lossy(&done.stderr));
                Err(BenchError::Program { program: program.into(), status: done.status.to_string(), words })
            }
        }
    }

    fn sql(&self, text: &str) -> Result<String, BenchError> {
        let found = self.run("psql", &["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", text])?;
        Ok(found.trim().to_owned())
    }

    fn fill(&self, accounts: u64) -> Result<(), BenchError> {
        self.sql("CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0))")?;
        self.sql(
            "CREATE TABLE payments (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, payer bigint NOT NULL, \
             receiver bigint NOT NULL, amount bigint NOT NULL)",
        )?;
        self.sql(&format!("INSERT INTO accounts SELECT n, {HOLDING} FROM generate_series(1, {accounts}) AS n"))?;
        self.sql("VACUUM ANALYZE accounts").map(|_| ())
    }

    fn shown(&self) -> Result<Value, BenchError> {
        let settings = SHOWN.iter().map(|name| Ok((*name, self.sql(&format!("SHOW {name}"))?)));
        let settings = settings.collect::<Result<std::collections::BTreeMap<_, _>, BenchError>>()?;
        if settings.get("fsync").is_none_or(|value| value != "on")
            || settings.get("synchronous_commit").is_none_or(|value| value != "on")
        {
            return Err(BenchError::Wrong(format!("PostgreSQL does not sync: {settings:?}")));
        }
        Ok(json!(settings))
    }

    fn bench(&self, script: &str, accounts: u64, clients: u32, seconds: u64) -> Result<Benched, BenchError> {
        let path = self.place.path().join("payments.sql");
        fs::write(&path, script).map_err(file_error("writing", &path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).map_err(file_error("opening up", &path))?;
        let path = path.display().to_string();
        let [accounts, clients, seconds] = [accounts, clients.into(), seconds].map(|number| number.to_string());
        let (accounts, number) = (format!("accounts={accounts}"), format!("clients={clients}"));
        let threads = clients.parse::<u32>().map_or(1, |clients| clients.min(2)).to_string();
        let how = ["-n", "-M", "prepared", "-f", &path, "-D", &accounts, "-D", &number];
        let how_much = ["-c", &clients, "-j", &threads, "-T", &seconds];
        // What PostgreSQL gives up a client would try again; and pgbench tells how often only if it may.
        let text = self.run("pgbench", &[&how[..], &how_much, &["--max-tries=10"]].concat())?;
        required(parse_bench(&text), &format!("pgbench says something else than expected: {text}"))
    }

    /// Money is as much as before, and payments as many as were counted.
    fn check(&self, accounts: u64, paid: u64) -> Result<(), BenchError> {
        let found = self.sql("SELECT sum(balance) FROM accounts")?;
        let expected = (u128::from(accounts) * u128::from(HOLDING)).to_string();
        let counted = self.sql("SELECT count(*) FROM payments")?;
        // Whoever was still at work when the time was over may have committed one more each than pgbench counts.
        match found == expected && counted.parse::<u64>().is_ok_and(|counted| counted >= paid) {
            true => Ok(()),
            false => Err(BenchError::Wrong(format!(
                "PostgreSQL holds {found} of {expected} units and {counted} payments where {paid} were made"
            ))),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            say(&format!("PostgreSQL could not be ended: {error}"));
        }
    }
}

/// A directory below `base` that belongs to the user.
fn directory_of(base: &Path, user: Option<User>) -> Result<TempDir, BenchError> {
    let made = tempfile::Builder::new().prefix("zeni-pg-").tempdir_in(base);
    let made = made.map_err(file_error("creating a directory in", base))?;
    if let Some(user) = user {
        chown(made.path(), Some(user.uid), Some(user.gid)).map_err(file_error("giving away", made.path()))?;
    }
    Ok(made)
}

fn on_disk(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.f_type != TMPFS)
}

/// Whether others may enter a directory and all above it.
fn is_open(path: &Path) -> bool {
    let open = |path: &Path| fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o001 != 0);
    path.ancestors().filter(|path| path.is_absolute()).all(open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pgbenchs_figures_are_read() {
        let text = "transaction type: x\nnumber of transactions actually processed: 57012\nnumber of failed \
                    transactions: 0 (0.000%)\nnumber of transactions retried: 2 (0.004%)\ntotal number of retries: \
                    3\ntps = 5701.234567 (without initial connection time)\n";
        let expected = Benched { transactions: 57_012, per_s: 5_701.234_567, retries: 3 };
        assert_eq!(parse_bench(text), Some(expected));
        assert_eq!(parse_bench("pgbench: error: connection failed"), None);
    }

    #[test]
    fn every_client_has_blocks_of_its_own_to_pay_from() {
        let blocks = |accounts: u64| accounts / 2 / BULK;
        let most = |clients: &[u32]| clients.iter().copied().max().map_or(0, u64::from);
        assert!(blocks(ACCOUNTS) >= 2 * most(&CLIENTS) && blocks(ACCOUNTS_QUICK) >= 2 * most(&CLIENTS[QUICK]));
    }

    #[test]
    fn users_and_versions_are_read() {
        let passwd = "root:x:0:0::/root:/bin/sh\npostgres:x:104:110:PostgreSQL:/var/lib/postgresql:/bin/bash\n";
        assert!(parse_user(passwd, "postgres").is_some_and(|user| (user.uid, user.gid) == (104, 110)));
        assert!(parse_user(passwd, "post").is_none());
        assert!(version(Path::new("/usr/lib/postgresql/15/bin")) > version(Path::new("/usr/lib/postgresql/9/bin")));
    }

    #[test]
    fn memory_is_no_disk() {
        assert!(!on_disk(Path::new("/dev/shm")) || !Path::new("/dev/shm").exists());
    }
}
