//! The simulator's command line.

use std::process::ExitCode;

use clap::Parser;
use zeni_simulator::breakage::Breakage;
use zeni_simulator::campaign::{Campaign, hunt, run_seed};
use zeni_simulator::simulation::run;

/// Seeds between two lines of progress.
const CHUNK: u64 = 100;

/// Runs whole networks in virtual time, seed by seed, under faults, and checks every promise.
#[derive(Debug, Parser)]
#[command(name = "simulator")]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 500)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run every seed twice and compare the traces (otherwise every tenth).
    #[arg(long)]
    replay: bool,
    /// Print every event of one seed.
    #[arg(long, value_name = "SEED")]
    trace: Option<u64>,
    /// Break one rule after another, and see how many seeds it takes to notice.
    #[arg(long)]
    mutants: bool,
    /// Break this rule only; also with --trace and --seeds.
    #[arg(long, value_name = "NAME")]
    mutant: Option<String>,
    /// Seeds in which a mutant must be caught, instead of the bound that each has.
    #[arg(long)]
    mutant_seeds: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let breakage = match &arguments.mutant {
        None => Breakage::None,
        Some(name) => match Breakage::all().into_iter().find(|breakage| breakage.name() == *name) {
            Some(breakage) => breakage,
            None => {
                let names: Vec<String> = Breakage::all().into_iter().map(Breakage::name).collect();
                eprintln!(
                    "there is no mutant {name}; known here: {} (the core's need --features mutants)",
                    names.join(", ")
                );
                return ExitCode::from(2);
            }
        },
    };
    if let Some(seed) = arguments.trace {
        return trace(seed, breakage);
    }
    if arguments.mutants {
        return mutants(Breakage::all(), &arguments);
    }
    if breakage != Breakage::None {
        return mutants(vec![breakage], &arguments);
    }
    campaign(&arguments)
}

fn trace(seed: u64, breakage: Breakage) -> ExitCode {
    let outcome = run(seed, breakage, true);
    println!("{:#?}", outcome.facts);
    match outcome.violation {
        Some(violation) => {
            println!("seed {seed}: {violation}");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

fn campaign(arguments: &Arguments) -> ExitCode {
    let replay_every = if arguments.replay { 1 } else { 10 };
    let campaign = Campaign { from: arguments.from, seeds: arguments.seeds, replay_every };
    let report = campaign.run(CHUNK, |done, failures| {
        for failure in failures {
            eprintln!("seed {}: {}", failure.seed, failure.violation);
        }
        eprintln!("{done} of {} seeds", arguments.seeds);
    });
    println!("{}", serde_json::to_string(&report).expect("a report is plain data"));
    if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn mutants(breakages: Vec<Breakage>, arguments: &Arguments) -> ExitCode {
    // A broken core panics where an honest one never does; the panic is the catch, and its text is in the report.
    std::panic::set_hook(Box::new(|_| {}));
    let clean = run_seed(arguments.from, Breakage::None);
    let hunts: Vec<_> = breakages
        .into_iter()
        .map(|breakage| {
            let seeds_max = arguments.mutant_seeds.unwrap_or(breakage.seeds_max());
            let hunt = hunt(breakage, arguments.from, seeds_max);
            match (&hunt.seeds, &hunt.violation, &hunt.honest_violation) {
                (Some(seeds), Some(violation), _) => {
                    eprintln!("{}: caught by seed {seeds} of {}: {violation}", hunt.mutant, hunt.seeds_max);
                }
                (_, Some(violation), Some(honest)) => {
                    eprintln!("{}: NOT caught: {violation}, but unbroken the same seed gives: {honest}", hunt.mutant);
                }
                _ => eprintln!("{}: NOT caught in {} seeds", hunt.mutant, hunt.seeds_max),
            }
            hunt
        })
        .collect();
    println!("{}", serde_json::to_string(&hunts).expect("a report is plain data"));
    let caught = hunts.iter().all(|hunt| hunt.seeds.is_some());
    if caught && clean.violation.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
